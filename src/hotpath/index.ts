export {
  BlockMap,
  blocksOf,
  changedRanges,
  MapNode,
  MapPage,
  MapRoot,
  type MapSnapshot,
  pagesOf,
} from './block-map.js';
export { frameMac, type Kernel, kernel, type OpenFault, recordSizeMax, SealBatch, type SealContext } from './kernel.js';
export { KeyRing } from './keys.js';
export { compressBlock, decompressBlock } from './lz4.js';
export { nativeBinding } from './native.js';
export type { NativeBinding } from './native-binding.js';
