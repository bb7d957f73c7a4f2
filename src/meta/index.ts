export { openMemoryStore } from './memory-store.js';
export { metadataService } from './metadata-service.js';
export {
  type JsonObject,
  type JsonValue,
  type ListOptions,
  type MetadataStore,
  type MetaEntry,
  type Selection,
  type SwapResult,
  VALUE_BYTES_MAX,
  type WatchEvent,
  type WatchListener,
} from './port.js';
export type * from './records.js';
export { keyOf } from './records.js';
export { openRemoteStore, type RemoteStoreOptions } from './remote-store.js';
export {
  calledBack,
  condemned,
  givenUp,
  hasLeft,
  isAbandoned,
  isAtHand,
  type LeaveReason,
  mayBeInSync,
  moved,
  restored,
  toLeave,
} from './replica-states.js';
export { createSqliteStore, openSqliteStore, type SqliteStoreOptions } from './sqlite-store.js';
export { type Updated, type UpdateOptions, update } from './update.js';
export { checkKey } from './validate.js';
