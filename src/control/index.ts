export type { ByteExtent, ChangedOrder, ChangedPart } from './changed-blocks.js';
export { ZONE_LABEL } from './class-keys.js';
export { type Control, type ControlOptions, createControl } from './control.js';
export { createDaemons, type DaemonAddress, type Daemons, type ReplicaCalls, type VolumeCalls } from './daemons.js';
export type { GroupView } from './groups.js';
export type { HealthEntry } from './health.js';
export { GONE_AFTER_MS, HEARTBEAT_INTERVAL_MS, NODE_SILENT_MS, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN } from './limits.js';
export { checkName, nameHash } from './names.js';
export { nodeService } from './node-service.js';
export type { NodeView } from './nodes.js';
export { operatorService } from './operator-service.js';
export type { Page, PageRequest } from './paging.js';
export { parseClass, parseMutable, type VolumeClass } from './parameters.js';
export type { Capacity, Place, PlacementNode, PlacementRules } from './placement.js';
export { capacityFor, place } from './placement.js';
export type { SnapshotEntry } from './records.js';
export { checkRange, type SizeRange } from './size.js';
export {
  anywhere,
  checkWish,
  describeSegments,
  matches,
  NODE_LABEL,
  type Segments,
  type TopologyWish,
} from './topology.js';
export type { SourceRef, VolumeOrder } from './volume-plan.js';
export type { PublishOrder } from './volumes.js';
