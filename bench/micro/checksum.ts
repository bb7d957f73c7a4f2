// What checksums cost a write: sealing a frame and checking it as a replica does, by the native crate as it is and by one that was built
// without them (unsummed.ts), in turns within this process. The rest of a write does not know of them.

import { createKernel, type NativeBinding } from '../../src/hotpath/index.js';
import { cpuUsOfProcess, sealed } from './primitives.js';

/** As many blocks as a frame of a deep queue has. */
const RECORDS = 28;
const PASSES = 500;
const TAIL_BYTES = 72;
const SAMPLES = 15;

function frameWork(binding: NativeBinding): () => void {
  const { seal, out } = sealed({ binding, kernel: createKernel(binding) }, RECORDS, 1, 'aes-256-gcm', 'lz4', 50);
  // A tail of another volume: the frame is refused, after its checksums.
  const tail = new Uint8Array(TAIL_BYTES);
  return () => {
    const end = seal();
    binding.verifyFrames(out.subarray(0, end), 0, tail);
  };
}

export interface ChecksumCost {
  /** Microseconds of CPU per 4 KiB block, 50 % compressible. */
  readonly with: number;
  readonly without: number;
}

/** One of each sample, after one that warms up. */
export function checksumCosts(binding: NativeBinding, unsummed: NativeBinding): ChecksumCost[] {
  const sides = [frameWork(binding), frameWork(unsummed)] as const;
  const spend = (work: () => void) => {
    const before = cpuUsOfProcess();
    for (let i = 0; i < PASSES; i++) work();
    return (cpuUsOfProcess() - before) / PASSES / RECORDS;
  };
  const sample = () => ({ with: spend(sides[0]), without: spend(sides[1]) });
  sample();
  return Array.from({ length: SAMPLES }, sample);
}
