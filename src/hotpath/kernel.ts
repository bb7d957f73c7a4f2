// The hot path's kernel: seals a whole frame and opens batches of records, each in one call, from the requests' buffers into the
// frame's and back. Two of them speak the same format: the native one where the crate was built, else its TypeScript twin.

import type { Compression } from '../format/index.js';
import type { FramePlan, OpenBatch, SealBatch } from './kernel-batch.js';
import { NativeKernelCalls } from './kernel-native.js';
import { TypeScriptKernel } from './kernel-twin.js';
import type { KeyRing } from './keys.js';
import { nativeBinding } from './native.js';

export interface Kernel {
  readonly name: 'native' | 'typescript';
  /** Compressions it can seal with and open. */
  readonly compressions: readonly Compression[];
  /**
   * Seals the batch's records into `out` behind the plan's control entries and completes the frame: header, checksums, MAC, digest. `out`
   * needs room for the worst case. Returns where the frame ends in `out`; the batch then knows the records' places there.
   */
  seal(plan: FramePlan, batch: SealBatch, out: Uint8Array): number;
  /** Opens the batch's records; returns how many have a fault, which the batch then knows. */
  open(keys: KeyRing, batch: OpenBatch): number;
  /** Whether the MAC of `frame` (all of it, its lengths checked) is what the keys give for `epoch`, which they must know. */
  macMatches(keys: KeyRing, epoch: number, frame: Buffer): boolean;
}

/** The native kernel, or its twin when it was not built. */
export function createKernel(binding = nativeBinding()): Kernel {
  return binding === null ? new TypeScriptKernel() : new NativeKernelCalls(binding);
}

export const kernel: Kernel = createKernel();
