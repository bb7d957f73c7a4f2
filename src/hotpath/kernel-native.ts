// The kernel in native/src: only hands over the blocks of numbers that batches and plans are.

import type { Kernel } from './kernel.js';
import type { FramePlan, OpenBatch, SealBatch } from './kernel-batch.js';
import type { KeyRing } from './keys.js';
import type { NativeKernel } from './native-binding.js';

export class NativeKernelCalls implements Kernel {
  readonly name = 'native';
  readonly compressions = ['none', 'lz4', 'zstd'] as const;
  readonly #native: NativeKernel;

  constructor(native: NativeKernel) {
    this.#native = native;
  }
  seal(plan: FramePlan, batch: SealBatch, out: Uint8Array): number {
    plan.batch(plan.keys.handle, batch.count, batch.sourceCount);
    return this.#native.sealFrame(plan.bytes, batch.columns, batch.sources, out);
  }
  open(keys: KeyRing, batch: OpenBatch): number {
    return this.#native.openRecords(keys.handle, batch.columns, batch.count, batch.buffers, batch.bufferCount);
  }
  macMatches(keys: KeyRing, epoch: number, frame: Buffer): boolean {
    return this.#native.frameMacMatches(keys.handle, epoch, frame);
  }
}
