// Loop devices through losetup(8). The kernel's own table is the truth: every change is read back from it.

import { readFile } from 'node:fs/promises';
import { type Clock, errnoOf, HoldfastError } from '../../base/index.js';
import { type Exec, ExecError } from '../exec.js';

export interface LoopDevice {
  /** /dev/loopN */
  readonly devicePath: string;
  readonly backingFile: string;
}

const losetupTimeoutMs = 30_000;
const setupTriesMax = 20;
const setupDelayMs = 50;
/** Attaches at once get in each other's way while losetup looks for a free device, and it then sleeps: 2 s for twenty of them. */
const oneAtATime = ['-w', '25', '/dev/loop-control'];
const releaseTriesMax = 50;
const releaseDelayMs = 100;

export async function listLoops(exec: Exec): Promise<LoopDevice[]> {
  const { stdout } = await exec.run('losetup', ['-l', '-J', '-O', 'NAME,BACK-FILE'], { timeoutMs: losetupTimeoutMs });
  return parseLosetup(stdout);
}

/** Reads `losetup -l -J`; it writes nothing at all when there is no loop device. */
export function parseLosetup(text: string): LoopDevice[] {
  if (text.trim() === '') return [];
  let rows: unknown;
  try {
    rows = (JSON.parse(text) as { loopdevices?: unknown } | null)?.loopdevices;
  } catch (cause) {
    throw new HoldfastError('INTERNAL', 'losetup did not write JSON', { cause });
  }
  if (!Array.isArray(rows)) throw new HoldfastError('INTERNAL', 'losetup wrote JSON without a list of devices');
  const loops: LoopDevice[] = [];
  for (const row of rows as Record<string, unknown>[]) {
    const name = row.name;
    const file = row['back-file'];
    // A device that is being torn down has no backing file any more.
    if (typeof name === 'string' && typeof file === 'string') {
      loops.push({ devicePath: name, backingFile: file.replace(/ \(deleted\)$/, '') });
    }
  }
  return loops;
}

/** Puts a loop device of 4 KiB blocks with direct I/O over `file`. Returns its path. */
export async function setupLoop(exec: Exec, clock: Clock, file: string, readOnly: boolean): Promise<string> {
  const args = ['losetup', '-f', '--show', '--direct-io=on', '-b', '4096', ...(readOnly ? ['-r'] : []), file];
  for (let attempt = 1; ; attempt++) {
    try {
      const { stdout } = await exec.run('flock', [...oneAtATime, ...args], { timeoutMs: losetupTimeoutMs });
      const devicePath = stdout.trim();
      if ((await backingFile(devicePath)) !== file) {
        throw new HoldfastError('INTERNAL', `losetup returned ${devicePath}, which is not over ${file}`);
      }
      return devicePath;
    } catch (error) {
      // Asking for a free device and taking it are two steps of losetup: another attach may come between.
      const raced = error instanceof ExecError && /busy|temporarily unavailable/i.test(error.result.stderr);
      if (!raced || attempt >= setupTriesMax) throw error;
      await clock.sleep(setupDelayMs);
    }
  }
}

/** Lets the device see that its file has grown. `stat` first: it makes the kernel ask for the file's size. */
export async function refreshLoop(exec: Exec, devicePath: string, file: string): Promise<void> {
  await exec.run('stat', ['-c', '%s', file], { timeoutMs: losetupTimeoutMs });
  await exec.run('losetup', ['-c', devicePath], { timeoutMs: losetupTimeoutMs });
}

/**
 * Takes the device off `file` and waits until the kernel has let go of it: losetup -d only marks a device that is still
 * open. FAILED_PRECONDITION/Busy when somebody keeps it open. Fine when it is gone.
 */
export async function releaseLoop(exec: Exec, clock: Clock, devicePath: string, file: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const present = await backingFile(devicePath);
    // Another file means that the number was given to someone else meanwhile.
    if (present !== file) return;
    if (attempt === 1) {
      try {
        await exec.run('losetup', ['-d', devicePath], { timeoutMs: losetupTimeoutMs });
      } catch (error) {
        if (!(error instanceof ExecError && /no such device/i.test(error.result.stderr))) throw error;
      }
      continue;
    }
    if (attempt > releaseTriesMax) {
      const text = `${devicePath} is still open: end the programs that use it (or the mount namespaces that copied it)`;
      throw new HoldfastError('FAILED_PRECONDITION', text, { reason: 'Busy' });
    }
    await clock.sleep(releaseDelayMs);
  }
}

/** The file under a loop device, or undefined when it has none. From sysfs: never opens device or file. */
async function backingFile(devicePath: string): Promise<string | undefined> {
  const name = /^\/dev\/(loop[0-9]+)$/.exec(devicePath)?.[1];
  if (!name) throw new HoldfastError('INTERNAL', `not a loop device: ${devicePath}`);
  try {
    const text = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8');
    return text.replace(/\n$/, '').replace(/ \(deleted\)$/, '');
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV') return undefined;
    throw error;
  }
}
