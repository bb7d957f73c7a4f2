export { BareLog } from './bare-log.js';
export {
  type Disk,
  type DiskFile,
  type DiskLock,
  type DiskSpace,
  type FileStat,
  type OpenMode,
  synced,
} from './disk.js';
export { diskError } from './disk-error.js';
export type { LogRange } from './file-reads.js';
export { FileReads, type RowsEnded } from './file-reads.js';
export { HandleCache } from './handle-cache.js';
export { isChecksumFault, LogTail } from './log-tail.js';
export { NodeDisk } from './node-disk.js';
export { readOneByOne } from './node-reads.js';
export { Pool, type PoolIdentity, readPoolIdentity, removeTree } from './pool.js';
export { isPoolLocked } from './pool-lock.js';
export { ReadOnlyDisk } from './read-only-disk.js';
export type { RecoveryEvidence, RecoveryVerdict } from './recovery.js';
export { createReplicaDirectory, directoryUsage, replicaIn, retireReplicaDirectory } from './replica-directory.js';
export { type LogEnd, type LogPlace, type LogSegment, SegmentLog } from './segment-log.js';
export { zeroDigest } from './segment-scan.js';
export { SuperblockStore } from './superblock-store.js';
