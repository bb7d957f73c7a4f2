export {
  type CheckpointRoot, decodeRoot, decodeSegmentSlots, decodeSnapshotRoots, decodeWords, encodeNode, encodePage, encodeRoot,
  encodeSegmentSlots, encodeSnapshotRoots, encodeTable, SEGMENTS_PER_CHUNK, type SegmentSlot, SNAPSHOTS_PER_CHUNK, type SnapshotRoot,
} from './checkpoint.js';
export * from './constants.js';
export {
  type CloneEntry, type ControlEntry, decodeControl, type DropEntry, encodeControl, type FreezeEntry, type Member, type MembersEntry,
  type OpenEntry, type RangeEntry, type ResizeEntry, type SnapshotDeleteEntry,
} from './control-entry.js';
export {
  type Cipher, cipherId, type Compression, compressionId, decodeEntry, encodeControlEntry, type EntryFault, type EntryHead,
  type EntryKind, entryKind, finishEntry, readRecordHeader, type RecordHeader, writeRecordHeader,
} from './entry.js';
export {
  decodeFrame, encodeFrameHeader, followsDigest, FRAME_FLAG_MAC, FRAME_FLAG_SEALS, FRAME_MAC_AT, FRAME_MAC_SIZE, frameDigest,
  type FrameFault, type FrameHeader, readSafe, writeSafe,
} from './frame.js';
export { placeIndex, placeLength, placeOffset, placeSlot, placeWord0, placeWord1 } from './place.js';
export {
  decodeSegmentHeader, encodeSegmentHeader, parseSegmentFileName, type Reign, sameSegment, segmentFileName, type SegmentHeader,
  type SegmentName,
} from './segment.js';
export { decodeIndexTrailer, IndexBuilder, indexEntrySize, type IndexItem, indexItems } from './segment-index.js';
export {
  type CheckpointPlace, decodeSuperblock, encodeSuperblock, type LogPoint, type Superblock, SUPERBLOCK_SIZE_MAX, type SuperblockFault,
  type WrappedKey,
} from './superblock.js';
