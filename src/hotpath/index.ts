export {
  BlockMap,
  blocksOf,
  MapNode,
  MapPage,
  MapRoot,
  type MapSnapshot,
  pagesOf,
} from './block-map.js';
export { type ChangedLimits, type ChangedRanges, changedRanges } from './changed-ranges.js';
export { createKernel, type Kernel, kernel } from './kernel.js';
export { FramePlan, OpenBatch, type OpenFault, recordSizeMax, SealBatch } from './kernel-batch.js';
export { KeyRing } from './keys.js';
export { compressBlock, decompressBlock } from './lz4.js';
export { nativeBinding } from './native.js';
export type { NativeBinding, NativeNet, NativeSockets } from './native-binding.js';
