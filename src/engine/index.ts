export type { BlockDevice, BlockError, BlockOp, BlockRequest } from './block-device.js';
