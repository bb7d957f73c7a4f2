// From the wrapping key that came with NodeStage to the data key that the engine seals with. A wrong or missing key is an
// error before any I/O and before any reign is granted.

import {
  HoldfastError,
  KEY_SIZE,
  type Random,
  unwrapDataKey,
  type WrappedDataKey,
  wrapDataKey,
} from '../base/index.js';
import type { VolumeRecord } from '../meta/index.js';

export interface VolumeKey {
  /** The caller wipes it. Null for a plain volume. */
  readonly dataKey: Buffer | null;
  /** Set when the data key was made just now: it counts once the record has it. */
  readonly made: WrappedDataKey | null;
}

/**
 * Errors: FAILED_PRECONDITION/MissingKey, FAILED_PRECONDITION/WrongKey, INVALID_ARGUMENT/WrongKey for a wrapping key of the
 * wrong length, DATA_LOSS for a damaged blob.
 */
export function openVolumeKey(record: VolumeRecord, wrappingKey: Buffer, random: Random): VolumeKey {
  if (record.parameters.encryption === 'none') return { dataKey: null, made: null };
  if (wrappingKey.length === 0) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `volume ${record.id} is encrypted and no key was given: name a node-stage secret in its StorageClass`,
      { reason: 'MissingKey' },
    );
  }
  if (wrappingKey.length !== KEY_SIZE) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the key for volume ${record.id} has ${wrappingKey.length} bytes, it must have ${KEY_SIZE}`,
      { reason: 'WrongKey' },
    );
  }
  if (record.wrappedKey) {
    return { dataKey: unwrapDataKey(record.wrappedKey, wrappingKey, record.lineageId), made: null };
  }
  const dataKey = random.bytes(KEY_SIZE);
  return { dataKey, made: wrapDataKey(dataKey, wrappingKey, record.lineageId, random) };
}
