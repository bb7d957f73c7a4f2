// What /sys/block and /dev tell of nbd devices. Kernel interfaces, of which nothing here waits for a device's connection: what
// did would keep this process from ending, and with it the volume's lock.

import { constants } from 'node:fs';
import { access, type FileHandle, open, readdir, readFile } from 'node:fs/promises';
import { errnoOf, HoldfastError, messageOf } from '../../../base/index.js';
import type { KernelDevice, OpenDevice } from './port.js';

const sysBlock = '/sys/block';
const sectorBytes = 512;

/** The identifier that the device was made with; undefined when it has none, or there is no such device. */
export async function identifierOf(index: number, root = sysBlock): Promise<string | undefined> {
  const text = await optional(`${root}/nbd${index}/backend`);
  return text === undefined || text.trim() === '' ? undefined : text.replace(/\n$/, '');
}

/** The device with exactly this identifier. Throws INTERNAL/Conflict when there are two: neither can be trusted then. */
export async function findDevice(identifier: string, root = sysBlock): Promise<KernelDevice | undefined> {
  const names = await readdir(root).catch((error) => {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  });
  const indexes = names.flatMap((name) => /^nbd(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  const found: KernelDevice[] = [];
  for (const index of indexes.sort((a, b) => a - b)) {
    if ((await identifierOf(index, root)) !== identifier) continue;
    const device = await describe(index, root).catch((error) => {
      // It goes away just now.
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (device) found.push(device);
  }
  if (found.length <= 1) return found[0];
  const paths = found.map(({ devicePath }) => devicePath).join(' and ');
  throw new HoldfastError('INTERNAL', `${paths} are both ${identifier}: one must be disconnected (nbd-client -d)`, {
    reason: 'Conflict',
  });
}

/** A device as the kernel has it now. Sizes are of 512 bytes there, whatever the device's blocks. */
export async function describe(index: number, root = sysBlock): Promise<KernelDevice> {
  const number = async (name: string): Promise<number> => {
    const value = Number((await readFile(`${root}/nbd${index}/${name}`, 'utf8')).trim());
    if (Number.isSafeInteger(value) && value >= 0) return value;
    throw new HoldfastError('INTERNAL', `${root}/nbd${index}/${name} holds no number`);
  };
  return {
    index,
    devicePath: `/dev/nbd${index}`,
    sizeBytes: (await number('size')) * sectorBytes,
    readOnly: (await number('ro')) !== 0,
  };
}

/** Milliseconds until the driver is asked about a request that has no answer. */
export const ioTimeoutFile = (index: number): string => `${sysBlock}/nbd${index}/queue/io_timeout`;

/** Documentation/block/stat.rst of the kernel: reads, writes, discards and flushes that were completed, and what is in flight. */
export async function readCounters(index: number): Promise<Readonly<Record<string, number>>> {
  const text = (await optional(`${sysBlock}/nbd${index}/stat`)) ?? '';
  const fields = text.trim().split(/\s+/).map(Number);
  const at = (place: number) => fields[place] || 0;
  return { reads: at(0), writes: at(4), inFlight: at(8), discards: at(11), flushes: at(15) };
}

export async function nodeExists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

export async function openDevice(path: string): Promise<OpenDevice> {
  return handleOf(await open(path, constants.O_RDONLY));
}

/** FAILED_PRECONDITION/Busy when somebody else has it for himself: a filesystem, in whatever mount namespace. */
export async function claimDevice(path: string): Promise<OpenDevice> {
  try {
    return handleOf(await open(path, constants.O_RDONLY | constants.O_EXCL));
  } catch (error) {
    if (errnoOf(error) !== 'EBUSY') throw error;
    const text = `${path} is in use: unmount it first, in all mount namespaces that copied the mount`;
    throw new HoldfastError('FAILED_PRECONDITION', text, { reason: 'Busy' });
  }
}

function handleOf(file: FileHandle): OpenDevice {
  return { close: () => file.close() };
}

async function optional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const code = errnoOf(error) ?? '';
    if (['ENOENT', 'ENODEV', 'ENXIO'].includes(code)) return undefined;
    throw new HoldfastError('INTERNAL', `${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}
