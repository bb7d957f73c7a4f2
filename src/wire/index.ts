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
