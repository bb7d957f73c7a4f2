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
