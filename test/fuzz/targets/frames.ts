// Frames that a replica is to append: the native check, its twin and a reading of the format of our own say the same of the same
// bytes, and what stands in the frames that were taken can be read entry by entry.

import { createHash } from 'node:crypto';
import { crc32c } from '../../../src/base/index.js';
import {
  decodeEntry,
  decodeFrame,
  FRAME_HEADER_SIZE,
  FRAME_SIZE_MAX,
  SEGMENT_HEADER_SIZE,
  type SegmentHeader,
} from '../../../src/format/index.js';
import { LogTail } from '../../../src/segment/index.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { FrameMaker, reignOf } from '../../lib/frame-maker.js';
import { mutateBytes } from '../mutate.js';
import { resealFrames } from '../reseal.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

/** What the tail stands at: the bytes are checked against this. */
const before = { seq: 40, digest: Buffer.alloc(16, 0x55), ordinal: 8 };

function made(frames: number, seal: boolean): Buffer {
  const maker = new FrameMaker(reignOf(3), before);
  maker.committedThrough = 39;
  maker.flushedThrough = 30;
  const parts: Buffer[] = [];
  for (let i = 0; i < frames; i++) parts.push(maker.next(40 + i * 300).bytes);
  if (seal) parts.push(maker.seal().bytes);
  return Buffer.concat(parts).subarray(SEGMENT_HEADER_SIZE);
}

function tail(): LogTail {
  const { volumeId } = new FrameMaker(reignOf(3), before);
  const name: Pick<SegmentHeader, 'epoch' | 'ordinal'> = { epoch: 3, ordinal: 9 };
  const at = new LogTail();
  at.enter({ name, volumeId }, before.seq, before.digest, SEGMENT_HEADER_SIZE, false);
  return at;
}

/** Bytes of the frames that may be taken, by FORMAT.md alone. */
function goodThrough(bytes: Buffer, volume: Buffer): number {
  let { seq, digest } = before;
  let at = 0;
  let sealed = false;
  while (at < bytes.length && !sealed) {
    if (bytes.length - at < FRAME_HEADER_SIZE) return at;
    const head = Buffer.from(bytes.subarray(at, at + FRAME_HEADER_SIZE));
    const [checksum, bodyChecksum, body] = [head.readUInt32LE(8), head.readUInt32LE(12), head.readUInt32LE(16)];
    head.writeUInt32LE(0, 8);
    const whole = FRAME_HEADER_SIZE + body;
    const claims = [head.readBigUInt64LE(40), head.readBigUInt64LE(48)];
    const good =
      head.toString('latin1', 0, 4) === 'HFF1' &&
      head.readUInt16LE(4) === 1 &&
      crc32c(head) === checksum &&
      body % 64 === 0 &&
      whole <= FRAME_SIZE_MAX &&
      at + whole <= bytes.length &&
      crc32c(bytes.subarray(at + FRAME_HEADER_SIZE, at + whole)) === bodyChecksum &&
      head.readBigUInt64LE(24) === 3n &&
      head.readBigUInt64LE(32) === BigInt(seq + 1) &&
      claims.every((claim) => claim <= BigInt(seq)) &&
      head.readUInt32LE(56) === 9 &&
      head.readUInt32LE(60) * 64 === SEGMENT_HEADER_SIZE + at &&
      head.subarray(64, 80).equals(volume) &&
      head.subarray(80, 96).equals(digest);
    if (!good) return at;
    sealed = (head.readUInt16LE(6) & 2) !== 0;
    digest = createHash('sha256')
      .update(bytes.subarray(at, at + FRAME_HEADER_SIZE))
      .digest()
      .subarray(0, 16);
    seq++;
    at += whole;
  }
  return at;
}

class FrameBench implements FuzzBench {
  readonly seeds = [made(1, false), made(3, false), made(5, true)];
  readonly #volume = Buffer.from(this.seeds[0]!.subarray(64, 80));

  mutate(input: Buffer, chance: Chance): Buffer {
    const bytes = mutateBytes(input, chance, chance.between(1, 3), 64 * 1024);
    // Of the first frame: its seq, and what it claims of others, by one more or less than they may be.
    if (chance.hit(0.1) && bytes.length >= FRAME_HEADER_SIZE)
      bytes.writeBigUInt64LE(BigInt(before.seq + chance.between(-1, 3)), chance.pick([32, 40, 48]));
    const chain = chance.hit(0.6);
    if (chance.hit(0.9)) resealFrames(bytes, 0, { entries: chance.hit(0.8), frames: true, chain }, before.digest);
    return bytes;
  }

  run(bytes: Buffer): string {
    const [native, twin] = [tail(), tail()];
    const [says, twinSays] = [native.verify(bytes, 0), twin.verifyTwin(bytes, 0)];
    must(says === twinSays, () => `native says ${says}, its twin ${twinSays}`);
    must(native.bytes.equals(twin.bytes), 'the tails stand at different places');
    const taken = native.offset - SEGMENT_HEADER_SIZE;
    const good = goodThrough(bytes, this.#volume);
    must(taken === good, () => `${taken} bytes were taken, ${good} are good (${says})`);
    must((says === null) === (taken === bytes.length), () => `${says} though ${taken} of ${bytes.length} were taken`);
    return `${says} ${entries(bytes.subarray(0, taken))}`;
  }

  async close(): Promise<void> {}
}

/** Kinds and faults of what is in the frames. */
function entries(bytes: Buffer): string {
  const met = new Set<string>();
  let frames = 0;
  for (let at = 0; at < bytes.length; frames++) {
    const header = decodeFrame(bytes, at, true);
    if (typeof header === 'string') throw new Error(`a frame that was taken does not decode: ${header}`);
    const end = at + FRAME_HEADER_SIZE + header.bodyLength;
    for (let entry = at + FRAME_HEADER_SIZE; entry < end; ) {
      const head = decodeEntry(bytes, entry, end);
      met.add(typeof head === 'string' ? head : String(head.kind));
      if (typeof head === 'string') break;
      must(head.length >= 16 && entry + head.length <= end, 'an entry reaches beyond its frame');
      entry += Math.ceil(head.length / 64) * 64;
    }
    at = end;
  }
  return `${Math.min(frames, 3)} ${[...met].sort().join(',')}`;
}

export const frames: FuzzTarget = {
  name: 'frames',
  sources: ['segment/log-tail', 'segment/frame-walk', 'format/frame', 'format/entry'],
  open: async () => new FrameBench(),
};
