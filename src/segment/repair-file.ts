// Puts bytes of a segment back that its disk has lost. They are those that another replica has at the same place, verified.

import { BLOCK_SIZE, HoldfastError } from '../base/index.js';
import type { SegmentHeader } from '../format/index.js';
import { type Disk, type DiskFile, synced } from './disk.js';
import { isUnreadable } from './disk-error.js';
import { isSound } from './segment-scan.js';

/**
 * Writes `bytes` over damaged ones in place and syncs them: the file then holds what it held before the damage, under all its
 * names. Over a place that can't be read only whole blocks of the filesystem can be written. `isEnd`: nothing of the log follows
 * them. FAILED_PRECONDITION when the bytes there are good and others.
 */
export async function repairFile(
  disk: Disk,
  { path, header }: { readonly path: string; readonly header: SegmentHeader },
  offset: number,
  bytes: Uint8Array,
  isEnd: boolean,
): Promise<void> {
  const file = disk.openFile(path, 'write');
  try {
    const found = held(file, offset, bytes.length);
    if (found?.equals(bytes)) return;
    if (found !== null && isSound(file, header, offset, bytes.length)) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `${path}: the frames at byte ${offset} are whole, other bytes are not put over them`,
      );
    }
    putBack(file, offset, bytes, isEnd);
    await synced(file);
  } finally {
    file.close();
  }
}

/** What a file holds at a place; null when it ends before, or can't be read. */
function held(file: DiskFile, offset: number, length: number): Buffer | null {
  const found = Buffer.alloc(length);
  try {
    return file.read(found, offset) === length ? found : null;
  } catch (error) {
    if (isUnreadable(error)) return null;
    throw error;
  }
}

/** At the end of a file, or of the log, the last block is filled up with zeroes: written in part it would have to be read. */
function putBack(file: DiskFile, offset: number, bytes: Uint8Array, isEnd: boolean): void {
  const size = file.size();
  const rest = -(offset + bytes.length) & (BLOCK_SIZE - 1);
  if (rest === 0 || !(isEnd || offset + bytes.length === size)) return file.write([bytes], offset);
  file.write([bytes, Buffer.alloc(rest)], offset);
  if (offset + bytes.length + rest > size) file.truncate(size);
}
