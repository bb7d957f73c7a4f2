// What CRC-32C costs where data passes: by the native crate where it was built (a frame's check as a replica does it, which is
// little else), by the package's own otherwise.

import { crc32c } from '../../src/base/index.js';
import { FRAME_HEADER_SIZE } from '../../src/format/index.js';
import { cpuUsOfProcess, sealed, subjects } from './primitives.js';

/** As many blocks as a frame of a deep queue has. */
const RECORDS = 28;
const PASSES = 2_000;
const TAIL_BYTES = 72;
const SAMPLES = 7;

/** Microseconds of CPU per byte; the median of a few samples. */
export function checksumUsPerByte(): number {
  const subject = subjects().at(-1)!;
  const { seal, out } = sealed(subject, RECORDS, 1, 'aes-256-gcm', 'none', 0);
  const frame = out.subarray(0, seal());
  const body = frame.subarray(FRAME_HEADER_SIZE);
  const { binding } = subject;
  // A tail of another volume: the frame is refused, after its checksums.
  const tail = new Uint8Array(TAIL_BYTES);
  const pass = binding === null ? () => crc32c(body) : () => binding.verifyFrames(frame, 0, tail);
  const samples = Array.from({ length: SAMPLES }, () => {
    const before = cpuUsOfProcess();
    for (let i = 0; i < PASSES; i++) pass();
    return (cpuUsOfProcess() - before) / PASSES / frame.length;
  });
  return samples.sort((a, b) => a - b)[(SAMPLES - 1) / 2]!;
}
