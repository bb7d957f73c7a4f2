export { type BridgeProcess, runBridge } from './bridge.js';
export type { BridgeCommand } from './bridge-supervisor.js';
export { FuseLoopAttach, type FuseLoopOptions } from './fuse-loop-attach.js';
export { Holder, type HolderOptions } from './holder.js';
export type {
  Attach,
  AttachedDevice,
  AttachSpec,
  AttachState,
  AttachStatus,
  DeviceKind,
  ExportAddress,
  ExportSource,
} from './port.js';
