export { AssertionError, assert, assertSafe, unreachable } from './assert.js';
export { crc32c, crc32cShort, crc32cTable } from './crc32c.js';
export {
  KEY_SIZE,
  SECRET_FIELD,
  unwrapDataKey,
  type WrappedDataKey,
  wrapDataKey,
  wrappingKeyFromSecret,
  wrappingKeyName,
} from './data-key.js';
export {
  asHoldfastError,
  corrupt,
  type ErrorCode,
  type ErrorReason,
  errnoOf,
  errorCodes,
  errorReasons,
  HoldfastError,
  invalid,
  messageOf,
  notFound,
  precondition,
  unavailable,
} from './errors.js';
export {
  type GroupId,
  type IncarnationId,
  isUuid,
  type LineageId,
  type NodeId,
  type PoolId,
  parseNodeId,
  parseUuid,
  printable,
  type ReignId,
  type ReplicaId,
  type SnapshotId,
  uuidFromBytes,
  uuidFromRandom,
  uuidToBytes,
  type VolumeId,
  zeroUuid,
} from './ids.js';
export { createLogger, type Logger, silentLogger } from './logger.js';
export { realClock, realRandom } from './real-world.js';
export { SerialQueues } from './serial-queues.js';
export { ALIGN, alignUp, BLOCK_SIZE, formatBytes, GiB, KiB, MiB, parseQuantity, RUN_MAX, TiB } from './units.js';
export { commonVersion, unknownVersion, type VersionRange } from './versions.js';
export type { Clock, Random, TimerHandle } from './world.js';
