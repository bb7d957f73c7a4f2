// Records: what both kernels make of the same stored bytes. Nothing opens that was not sealed with the key; where there is none,
// nothing opens whose checksum is wrong; and both kernels say the same, and give the same bytes.
//
// An input: which ring (0 none, 1 AES, 2 ChaCha), which block is asked for (1 to 9 added to the record's place less one), how many,
// how the bytes are offered (more than the record), then the record.

import { crc32c, type LineageId, type ReignId, type VolumeId } from '../../../src/base/index.js';
import { type Cipher, FRAME_HEADER_SIZE, finishEntry } from '../../../src/format/index.js';
import { createKernel, FramePlan, KeyRing, nativeBinding, OpenBatch, SealBatch } from '../../../src/hotpath/index.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { mutateBytes } from '../mutate.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

const HEAD = 4;
const BLOCK = 4096;
const FIRST_BLOCK = 1000;
const ciphers = ['none', 'aes-256-gcm', 'chacha20-poly1305'] as const satisfies readonly Cipher[];
const lineage = '11111111-2222-4333-8444-555555555555' as LineageId;
const volumeId = '99999999-2222-4333-8444-555555555555' as VolumeId;
const reign = { epoch: 7, reignId: 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee' as ReignId };

const native = nativeBinding();
const twin = createKernel(null);
const other = native === null ? null : createKernel(native);

function rings(binding: typeof native): KeyRing[] {
  return ciphers.map((cipher, i) => {
    const ring = new KeyRing(lineage, cipher === 'none' ? null : Buffer.alloc(32, 40 + i), binding);
    ring.addReign(reign);
    return ring;
  });
}

function contents(kind: number, run: number): Buffer {
  const bytes = Buffer.alloc(run * BLOCK, 'a line of words, then another one of others\n');
  for (let i = 0; kind === 1 && i < bytes.length; i++) bytes[i] = (i * i * 31 + (i >> 3)) & 0xff;
  return kind === 2 ? Buffer.alloc(run * BLOCK) : bytes;
}

class RecordBench implements FuzzBench {
  readonly seeds: Buffer[] = [];
  readonly #twinRings = rings(null);
  readonly #otherRings = other === null ? [] : rings(native);
  /** What the keys have sealed. */
  readonly #sealed = new Set<string>();

  constructor() {
    for (const [i, cipher] of ciphers.entries()) {
      for (const [kind, run] of [
        [0, 1],
        [0, 4],
        [1, 1],
        [1, 8],
        [2, 2],
      ] as const)
        this.#seal(i, cipher, contents(kind, run));
    }
  }

  #seal(i: number, cipher: Cipher, data: Buffer): void {
    const batch = new SealBatch();
    batch.add(FIRST_BLOCK, data.length / BLOCK, data);
    const ring = this.#twinRings[i]!;
    const plan = new FramePlan({ keys: ring, volumeId, epoch: 7, cipher, compression: 'lz4' }, Buffer.alloc(16));
    plan.header(12, 11, 10, 5, 8192, 0);
    plan.body(0, 0, 0, this.seeds.length);
    const out = Buffer.alloc(FRAME_HEADER_SIZE + batch.bytesMax);
    twin.seal(plan, batch, out);
    const stored = out.subarray(batch.offset(0), batch.offset(0) + batch.storedLength(0));
    if (cipher !== 'none') this.#sealed.add(exact(stored));
    this.seeds.push(Buffer.concat([Buffer.from([i, 1, data.length / BLOCK, 0]), stored]));
  }

  mutate(input: Buffer, chance: Chance): Buffer {
    const head = Buffer.from(input.subarray(0, HEAD));
    if (chance.hit(0.2)) head[0] = chance.below(3);
    if (chance.hit(0.3)) head[1] = chance.below(10);
    if (chance.hit(0.3)) head[2] = chance.between(1, 9);
    if (chance.hit(0.1)) head[3] = chance.below(80);
    const body = input.subarray(HEAD);
    const record = chance.hit(0.15) ? Buffer.from(body) : mutateBytes(body, chance, chance.between(1, 3), 40_000);
    if (chance.hit(0.8)) this.#fit(record, chance);
    return Buffer.concat([head, record]);
  }

  /** Lengths that agree and the right checksum, so that what comes after these checks is reached. */
  #fit(record: Buffer, chance: Chance): void {
    if (record.length < 48) return;
    const cipher = record[14]! >> 4;
    if (chance.hit(0.5)) {
      const payload = Math.max(0, Math.min(record.readUInt32LE(8), record.length) - 48 - (cipher === 0 ? 0 : 16));
      record.writeUInt32LE(payload, 40);
      record.writeUInt32LE(48 + payload + (cipher === 0 ? 0 : 16), 8);
    }
    const length = record.readUInt32LE(8);
    if (length >= 48 && length <= record.length) finishEntry(record, 0, length);
  }

  run(input: Buffer): string {
    if (input.length < HEAD) return 'no input';
    const which = input[0]! % ciphers.length;
    const block = FIRST_BLOCK + (input[1]! % 12) - 1;
    const count = 1 + ((input[2]! + 7) % 8);
    const stored = input.subarray(HEAD);
    const ask = { stored, length: Math.max(0, stored.length - (input[3]! % 100)), block, count };
    const mine = open(twin, this.#twinRings[which]!, ask);
    if (mine.fault === null) {
      must(crc32c(stored.subarray(8, stored.readUInt32LE(8))) === stored.readUInt32LE(4), 'a wrong checksum was taken');
      must(which === 0 || this.#sealed.has(exact(stored)), 'opened what the key did not seal');
      const first = Number(stored.readBigUInt64LE(16));
      must(
        block >= first && block + count <= first + stored[13]!,
        `blocks ${block}+${count} out of a record of others`,
      );
    }
    if (other !== null) {
      const theirs = open(other, this.#otherRings[which]!, ask);
      const zstd = mine.fault === 'zstd-needs-native-kernel';
      must(zstd || mine.fault === theirs.fault, () => `typescript says ${mine.fault}, native ${theirs.fault}`);
      must(mine.fault !== null || mine.data.equals(theirs.data), 'the kernels give different bytes');
    }
    return `${ciphers[which]} ${stored.length > 14 ? (stored[14]! & 15) % 4 : '-'} ${count === 1 ? 'part' : 'more'} ${mine.fault}`;
  }

  async close(): Promise<void> {
    for (const ring of [...this.#twinRings, ...this.#otherRings]) ring.destroy();
  }
}

/** The record without padding. */
function exact(stored: Buffer): string {
  return stored.subarray(0, stored.readUInt32LE(8)).toString('base64');
}

function open(
  kernel: typeof twin,
  ring: KeyRing,
  ask: { stored: Buffer; length: number; block: number; count: number },
): { fault: string | null; data: Buffer } {
  const batch = new OpenBatch();
  const guard = 16;
  const into = Buffer.alloc(ask.count * BLOCK + 2 * guard, 0xee);
  batch.add(Buffer.from(ask.stored), 0, ask.length, ask.block, ask.count, into, guard);
  kernel.open(ring, batch);
  for (let i = 0; i < guard; i++)
    must(into[i] === 0xee && into[into.length - 1 - i] === 0xee, `${kernel.name} wrote beyond what it was given`);
  return { fault: batch.fault(0), data: into.subarray(guard, into.length - guard) };
}

export const records: FuzzTarget = {
  name: 'records',
  sources: ['hotpath/kernel-twin', 'hotpath/compress-twin', 'hotpath/lz4', 'format/entry'],
  open: async () => new RecordBench(),
};
