export type { SocketEvents, WireListener, WireNet, WireSocket } from './net.js';
export { NodeNet, parseAddress } from './node-net.js';
export { connectReplica, type RemoteReplicaOptions } from './remote-replica.js';
export type {
  AppendItem,
  BatchReplicaPort,
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
export { type ReplicaSource, WireServer, type WireServerOptions } from './wire-server.js';
