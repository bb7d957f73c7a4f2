// Sizes of volumes: from what a caller asks for to what is made.

import { alignUp, BLOCK_SIZE, formatBytes, HoldfastError, invalid } from '../base/index.js';
import { VOLUME_BYTES_DEFAULT, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN } from './limits.js';

/** Bytes; 0 means unset. */
export interface SizeRange {
  readonly requiredBytes: number;
  readonly limitBytes: number;
}

const outOfRange = (message: string) => new HoldfastError('OUT_OF_RANGE', message, { reason: 'BadField' });

/** Throws INVALID_ARGUMENT for a range that says nothing or contradicts itself. */
export function checkRange(range: SizeRange): void {
  const { requiredBytes, limitBytes } = range;
  if (requiredBytes < 0) throw invalid(`required_bytes is negative: ${requiredBytes}`);
  if (limitBytes < 0) throw invalid(`limit_bytes is negative: ${limitBytes}`);
  if (requiredBytes === 0 && limitBytes === 0)
    throw invalid('capacity_range names neither required_bytes nor limit_bytes');
  if (limitBytes !== 0 && limitBytes < requiredBytes) {
    throw invalid(`limit_bytes (${limitBytes}) is below required_bytes (${requiredBytes})`);
  }
}

/**
 * The size to make: `required` rounded up to whole blocks and to the smallest volume, or `fallback` where only a limit (or
 * nothing) is given. Throws OUT_OF_RANGE where no allowed size lies within the range.
 */
export function chooseSize(range: SizeRange | null, fallback = VOLUME_BYTES_DEFAULT): number {
  if (range === null) return fallback;
  checkRange(range);
  const { requiredBytes, limitBytes } = range;
  const limit = limitBytes === 0 ? VOLUME_BYTES_MAX : Math.floor(limitBytes / BLOCK_SIZE) * BLOCK_SIZE;
  const wanted = requiredBytes === 0 ? Math.min(fallback, limit) : requiredBytes;
  if (wanted > VOLUME_BYTES_MAX) {
    throw outOfRange(`${wanted} bytes are more than the largest volume, ${formatBytes(VOLUME_BYTES_MAX)}`);
  }
  const size = Math.max(VOLUME_BYTES_MIN, alignUp(wanted, BLOCK_SIZE));
  if (size > limit) {
    throw outOfRange(
      `no size between required_bytes (${requiredBytes}) and limit_bytes (${limitBytes}) is possible: sizes are multiples of ${BLOCK_SIZE} from ${VOLUME_BYTES_MIN} bytes on`,
    );
  }
  return size;
}

/** Whether a volume of `sizeBytes` is what a repeated request for `range` asked for. */
export function sizeWithin(sizeBytes: number, range: SizeRange | null): boolean {
  if (range === null) return true;
  return sizeBytes >= range.requiredBytes && (range.limitBytes === 0 || sizeBytes <= range.limitBytes);
}
