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
export { frameMac, type Kernel, kernel, type OpenFault, recordSizeMax, SealBatch, type SealContext } from './kernel.js';
export { KeyRing } from './keys.js';
export { compressBlock, decompressBlock } from './lz4.js';
export { nativeBinding } from './native.js';
export type { NativeBinding } from './native-binding.js';
