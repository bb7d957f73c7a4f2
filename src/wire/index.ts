export { connectReplica, type RemoteReplicaOptions } from './remote-replica.js';
export type {
  AppendItem,
  BatchReplicaPort,
  CloneOrder,
  DescribeUpdate,
  FrameInfo,
  RangesEnded,
  ReadRange,
  ReplicaConnector,
  ReplicaEvents,
  ReplicaPort,
  ReplicaStatus,
  SegmentInfo,
} from './replica-port.js';
export { type ReplicaSource, WireServer, type WireServerOptions } from './wire-server.js';
