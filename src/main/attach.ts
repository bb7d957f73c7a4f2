// `holdfast attach`: the holder of one volume. Composition only: arguments to a Holder with the real world's parts. It is
// started by the node plugin and ends when its volume is detached; the key arrives over its socket, never here.

import { readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
// Itself and not the folder's index: that would load a third more, while somebody waits for the volume.
import { createExportSource } from '../agent/export-source.js';
import {
  createLogger,
  invalid,
  type Logger,
  messageOf,
  parseUuid,
  printable,
  realClock,
  type VolumeId,
} from '../base/index.js';
// The same: only the loader of the native crate.
import { nativeBinding } from '../hotpath/native.js';
import {
  createExec,
  type DeviceChoice,
  type Exec,
  type ExportSource,
  findDevice,
  Holder,
  openKernelNbd,
  parseDeviceChoice,
} from '../platform/index.js';

export interface AttachArguments {
  readonly volumeId: VolumeId;
  readonly runDir: string;
  /** The storage daemon's unix socket: a key passes over it. */
  readonly daemonSocket: string;
  readonly device: DeviceChoice;
  readonly logLevel: string;
}

/** Throws INVALID_ARGUMENT naming what is missing or wrong. */
export function parseAttachArguments(args: readonly string[]): AttachArguments {
  const { values } = parseArgs({
    args: [...args],
    options: {
      volume: { type: 'string' },
      'run-dir': { type: 'string' },
      daemon: { type: 'string' },
      device: { type: 'string', default: 'auto' },
      'log-level': { type: 'string', default: 'info' },
    },
    strict: true,
  });
  const need = (name: 'run-dir' | 'daemon'): string => {
    const value = values[name];
    if (value === undefined || value === '') throw invalid(`holdfast attach needs --${name}`);
    return value;
  };
  return {
    volumeId: parseUuid<VolumeId>(values.volume, '--volume'),
    runDir: realpathSync(need('run-dir')),
    daemonSocket: unixPath(need('daemon')),
    device: parseDeviceChoice(values.device, '--device'),
    logLevel: values['log-level'],
  };
}

function unixPath(address: string): string {
  const path = address.replace(/^unix:(\/\/)?/, '');
  if (!path.startsWith('/')) throw invalid(`--daemon must be unix:///path, not ${printable(address)}`);
  return path;
}

/** Keeps the key out of core dumps and this process out of the memory killer's first choice. */
async function harden(exec: Exec, logger: Logger): Promise<void> {
  const tryTo = (what: string, act: () => void) => {
    try {
      act();
    } catch (error) {
      logger.warn({ reason: messageOf(error) }, `${what} is not possible here`);
    }
  };
  // The limit is normally set by whoever starts us; set again for a holder that is started by hand. See noCoreDumps in
  // platform/attach for why it is 1.
  if (!/^Max core file size +1 +1 /m.test(readFileSync('/proc/self/limits', 'utf8'))) {
    await exec.run('prlimit', ['--core=1:1', '--pid', String(process.pid)], { timeoutMs: 10_000 });
  }
  tryTo('leaving memory out of core dumps', () => writeFileSync('/proc/self/coredump_filter', '0'));
  tryTo('protection from the memory killer', () => writeFileSync('/proc/self/oom_score_adj', '-999'));
}

/** Runs a holder on `source` to its end. */
export async function runHolder(options: AttachArguments, source: ExportSource, logger: Logger): Promise<void> {
  const exec = createExec();
  await harden(exec, logger);
  const holder = new Holder({
    exec,
    clock: realClock,
    logger,
    volumeId: options.volumeId,
    runDir: options.runDir,
    bridge: { program: process.execPath, args: [fileURLToPath(new URL('./fuse-bridge.js', import.meta.url))] },
    source,
    device: options.device,
    kernelNbd: {
      find: findDevice,
      open: () => openKernelNbd({ binding: nativeBinding(), exec, clock: realClock, logger }),
    },
  });
  process.on('SIGHUP', () => {});
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => holder.onSignal(name));
  await holder.run();
}

/** The command. Resolves with the exit code. */
export async function attachCommand(args: readonly string[]): Promise<number> {
  let logger = createLogger('attach', 'info');
  try {
    const options = parseAttachArguments(args);
    logger = createLogger('attach', options.logLevel).child({ volumeId: options.volumeId });
    const source = createExportSource(options.daemonSocket, realClock);
    try {
      await runHolder(options, source, logger);
    } finally {
      source.disconnect();
    }
    return 0;
  } catch (error) {
    logger.error({ reason: messageOf(error) }, 'the holder cannot go on');
    return 1;
  }
}

// Run as a program of its own, and as a command of `holdfast`.
if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = await attachCommand(process.argv.slice(2));
}
