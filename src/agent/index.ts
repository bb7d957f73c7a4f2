export { replicaConnector } from './connector.js';
export { EngineRoom, type EngineRoomPorts, type ExportServer } from './engine-room.js';
export { createExportSource, type ExportSourceHandle } from './export-source.js';
export { filesystemSize, superblockSize } from './filesystem-size.js';
export { mainHandlers } from './membership.js';
export {
  expandVolume,
  type HealthFinding,
  type StorageFinding,
  storageHealth,
  type VolumeUse,
  volumeHealth,
  volumeUse,
} from './node-inspect.js';
export { type PublishOrder, publishVolume, unpublishVolume } from './node-publish.js';
export { type StageOrder, stageVolume, unstageVolume } from './node-stage.js';
export { type AccessType, mountsOfDevice, type NodeVolumesPorts } from './node-volumes.js';
export { PortRpc, type RpcChannel } from './port-rpc.js';
export { Registration } from './registration.js';
export { ReplicaAddresses } from './replica-addresses.js';
export { replicaService } from './replica-service.js';
export { createStorageDaemon, type StorageDaemon } from './storage-daemon.js';
export { StoreVersion } from './store-version.js';
export { type VolumeRecords, volumeRecords } from './volume-records.js';
export { volumeService } from './volume-service.js';
export { Volumes } from './volumes.js';
export type { MainMethods, WorkerMethods } from './worker-api.js';
export type { WorkerCalls } from './worker-calls.js';
export { type WorkerReplicas, workerHandlers } from './worker-handlers.js';
export { workerOf } from './worker-of.js';
