export type { BlockDevice, BlockError, BlockOp, BlockRequest } from './block-device.js';
export type {
  ChangedExtents,
  CloneTarget,
  Copies,
  Engine,
  EngineMember,
  EngineOptions,
  EngineReplicaState,
  EngineStatus,
  EngineVolume,
  MembershipPort,
  QosLimits,
  ScrubReport,
  SetOutcome,
} from './engine-api.js';
export { chooseSource, durableThrough, type SourceCandidate } from './open.js';
export { openEngine } from './open-engine.js';
export type { SetNamed } from './replay.js';
export type {
  CloneOrder,
  DescribeUpdate,
  FrameInfo,
  ReadRange,
  ReplicaConnector,
  ReplicaEvents,
  ReplicaPort,
  ReplicaStatus,
  SegmentInfo,
} from './replica-port.js';
export {
  openVolumeReader,
  type PageRanges,
  type RestingReplica,
  type RestingSnapshot,
  type VolumeReader,
  type VolumeReaderOptions,
} from './volume-reader.js';
