export { type BridgeProcess, runBridge } from './bridge.js';
export type { BridgeCommand } from './bridge-supervisor.js';
export { Holder, type HolderOptions } from './holder.js';
export { HolderAttach, type HolderAttachOptions } from './holder-attach.js';
export { findDevice } from './kernel-nbd/block-files.js';
export type { KernelChoice } from './kernel-nbd/choice.js';
export { openKernelNbd } from './kernel-nbd/kernel.js';
export {
  type Attach,
  type AttachedDevice,
  type AttachSpec,
  type AttachState,
  type AttachStatus,
  type DeviceChoice,
  type DeviceKind,
  type ExportAddress,
  type ExportSource,
  parseDeviceChoice,
} from './port.js';
