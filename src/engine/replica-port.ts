// The engine's view of one replica. Declared in wire/, where the replica side sees it too.

export type {
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
} from '../wire/index.js';
