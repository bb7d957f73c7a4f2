// `npm run faults`: ends with 1 when anything that is promised did not hold.

import { messageOf } from '../../src/base/index.js';
import { missingFor } from '../lib/system-needs.js';
import { type Options, parseOptions, usage } from './options.js';
import { runFaults } from './run.js';

const say = (text: string) => process.stdout.write(`${text}\n`);
const missing = missingFor(['losetup', 'mount', 'umount', 'findmnt', 'mkfs.ext4', 'e2fsck']);

async function main(argv: readonly string[]): Promise<number> {
  if (argv.includes('--help')) {
    say(usage);
    return 0;
  }
  let options: Options;
  try {
    options = parseOptions(argv);
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n${usage}`);
    return 2;
  }
  if (missing !== '') {
    process.stderr.write(`real processes under faults can't be had here: ${missing}\n`);
    return 2;
  }
  // Whoever reads along may be gone before everything is cleaned up.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(1);
      say('cleaning up; a second signal leaves everything as it is');
      stop.abort();
    });
  }
  const { violations } = await runFaults(options, say, stop.signal);
  return violations.length === 0 ? 0 : 1;
}

process.exit(await main(process.argv.slice(2)));
