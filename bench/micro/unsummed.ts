// The native crate built without its checksums, so that what they cost can be measured: a copy whose CRC-32C is always 0. It opens what
// it sealed and nothing else. The product has no such switch. The copy and its build lie below the crate's own target directory.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { precondition } from '../../src/base/index.js';
import type { NativeBinding } from '../../src/hotpath/index.js';
import { projectRoot } from '../history.js';
import { lastLine, type Processes } from '../processes.js';

/** The first time it compiles every crate. */
const BUILD_MS = 600_000;
const SUMMED = 'checksum(Crc32Iscsi, bytes) as u32';
const UNSUMMED = '(bytes.len() & 0) as u32';

/** The crate's checksum without its work. Throws when it is not where it was. */
export function withoutChecksum(source: string): string {
  const parts = source.split(SUMMED);
  if (parts.length !== 2) throw precondition(`the native crate's checksum is not "${SUMMED}" any more`);
  return parts.join(UNSUMMED);
}

/** Only what differs, so that cargo builds only what changed. */
function write(path: string, text: string): void {
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) writeFileSync(path, text);
}

/** Throws ToolMissing without cargo, FAILED_PRECONDITION when it can't be built or loaded. */
export async function loadUnsummed(processes: Processes): Promise<NativeBinding> {
  const crate = join(projectRoot(), 'src', 'hotpath', 'native');
  const copy = join(crate, 'target', 'unsummed');
  mkdirSync(join(copy, 'src'), { recursive: true });
  for (const name of ['Cargo.toml', 'Cargo.lock', 'build.rs'])
    write(join(copy, name), readFileSync(join(crate, name), 'utf8'));
  for (const name of readdirSync(join(crate, 'src'))) {
    const source = readFileSync(join(crate, 'src', name), 'utf8');
    write(join(copy, 'src', name), name === 'record.rs' ? withoutChecksum(source) : source);
  }
  const manifest = ['--manifest-path', join(copy, 'Cargo.toml'), '--target-dir', join(copy, 'target')];
  const args = ['build', '--release', '--locked', '--quiet', ...manifest];
  const { code, stderr } = await processes.run('cargo', args, BUILD_MS);
  if (code !== 0) throw precondition(`cargo could not build the crate without checksums: ${lastLine(stderr)}`);
  const loaded = { exports: {} };
  process.dlopen(loaded, join(copy, 'target', 'release', 'libholdfast_native.so'), constants.dlopen.RTLD_NOW);
  return loaded.exports as NativeBinding;
}
