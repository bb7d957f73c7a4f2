// The parts of the hot path one by one: CPU time per operation of this process, garbage collection and compiler included.
// Only CPU time means anything on a machine that others use.

import { createCipheriv, createSecretKey, randomBytes } from 'node:crypto';
import { BLOCK_SIZE, crc32c, KiB, type LineageId, type ReignId, type VolumeId } from '../../src/base/index.js';
import {
  type Cipher,
  type Compression,
  decodeFrame,
  FRAME_FLAG_MAC,
  FRAME_HEADER_SIZE,
  frameDigest,
  placeWord0,
  placeWord1,
} from '../../src/format/index.js';
import {
  BlockMap,
  createKernel,
  FramePlan,
  type Kernel,
  KeyRing,
  type NativeBinding,
  nativeBinding,
  OpenBatch,
  SealBatch,
} from '../../src/hotpath/index.js';
import { compressBlock, decompressBlock } from '../../src/hotpath/lz4.js';
import { sampleBlocks, seeded } from './sample-data.js';

export interface Primitive {
  readonly name: string;
  /** What one operation is, for the reader. */
  readonly unit: string;
  /** Operations one call of `run` does. */
  readonly operations: number;
  /** Bytes one operation handles; 0 when a rate means nothing. */
  readonly bytes: number;
  run(): void;
}

export interface PrimitiveResult {
  readonly name: string;
  readonly unit: string;
  /** Median, least and most of the samples, in microseconds of CPU per operation. */
  readonly cpuUs: readonly [number, number, number];
  readonly mbPerSecond: number;
}

const volumeId = '10000000-0000-4000-8000-000000000001' as VolumeId;
const lineageId = '20000000-0000-4000-8000-000000000002' as LineageId;
const reign = { epoch: 1, reignId: '50000000-0000-4000-8000-000000000005' as ReignId };

/** The kernels that are here: the twin, and the native one where it was built. */
export interface Subject {
  readonly kernel: Kernel;
  readonly binding: NativeBinding | null;
}

export function subjects(): Subject[] {
  const bindings = nativeBinding() === null ? [null] : [null, nativeBinding()];
  return bindings.map((binding) => ({ binding, kernel: createKernel(binding) }));
}

export interface Sealed {
  readonly keys: KeyRing;
  readonly batch: SealBatch;
  readonly out: Buffer;
  seal(): number;
}

/** A frame of `records` records of `run` blocks each, and how to seal it. */
export function sealed(
  subject: Subject,
  records: number,
  run: number,
  cipher: Cipher,
  compression: Compression,
  percent: number,
): Sealed {
  const keys = new KeyRing(lineageId, randomBytes(32), subject.binding);
  keys.addReign(reign);
  const data = sampleBlocks(records * run, percent);
  const batch = new SealBatch();
  for (let i = 0; i < records; i++) {
    const at = i * run * BLOCK_SIZE;
    // Of their own, as requests are.
    batch.add(i * run, run, data.subarray(at, at + run * BLOCK_SIZE));
  }
  const out = Buffer.alloc(FRAME_HEADER_SIZE + batch.bytesMax);
  const plan = new FramePlan({ keys, volumeId, epoch: reign.epoch, cipher, compression }, Buffer.alloc(16));
  let seq = 0;
  return {
    keys,
    batch,
    out,
    seal() {
      plan.header(++seq, seq, seq, 0, 4096, cipher === 'none' ? 0 : FRAME_FLAG_MAC);
      plan.body(0, 0, 0, seq * records);
      return subject.kernel.seal(plan, batch, out);
    },
  };
}

function sealPrimitive(
  subject: Subject,
  name: string,
  records: number,
  run: number,
  cipher: Cipher,
  compression: Compression,
  percent = 50,
): Primitive {
  const target = sealed(subject, records, run, cipher, compression, percent);
  return {
    name: `${subject.kernel.name} seal ${name}`,
    unit: `record of ${run * 4} KiB`,
    operations: records,
    bytes: run * BLOCK_SIZE,
    run: () => void target.seal(),
  };
}

function openPrimitive(
  subject: Subject,
  name: string,
  records: number,
  run: number,
  cipher: Cipher,
  compression: Compression,
  wanted = run,
): Primitive {
  const target = sealed(subject, records, run, cipher, compression, 50);
  target.seal();
  const { batch, keys, out } = target;
  const opening = new OpenBatch();
  for (let i = 0; i < records; i++) {
    const into = Buffer.alloc(wanted * BLOCK_SIZE);
    opening.add(out, batch.offset(i), batch.storedLength(i), i * run, wanted, into, 0);
  }
  return {
    name: `${subject.kernel.name} open ${name}`,
    unit: `record of ${run * 4} KiB`,
    operations: records,
    bytes: run * BLOCK_SIZE,
    run() {
      if (subject.kernel.open(keys, opening) > 0) throw new Error('a record that was just sealed does not open');
    },
  };
}

function crcPrimitive(bytes: number): Primitive {
  const data = randomBytes(bytes);
  const operations = 64;
  return {
    name: `crc32c of ${bytes < KiB ? `${bytes} B` : `${bytes / KiB} KiB`}`,
    unit: 'call',
    operations,
    bytes,
    run() {
      for (let i = 0; i < operations; i++) crc32c(data);
    },
  };
}

function lz4Primitives(percent: number): Primitive[] {
  const data = sampleBlocks(64, percent);
  const packed = Buffer.alloc(BLOCK_SIZE);
  const length = compressBlock(data, 0, BLOCK_SIZE, packed, 0, BLOCK_SIZE);
  const into = Buffer.alloc(BLOCK_SIZE);
  const compress: Primitive = {
    name: `lz4 compress, ${percent} % compressible`,
    unit: '4 KiB',
    operations: 64,
    bytes: BLOCK_SIZE,
    run() {
      const scratch = Buffer.allocUnsafe(BLOCK_SIZE);
      for (let i = 0; i < 64; i++) compressBlock(data, i * BLOCK_SIZE, BLOCK_SIZE, scratch, 0, BLOCK_SIZE - 256);
    },
  };
  if (length === 0) return [compress];
  const decompress: Primitive = {
    name: `lz4 decompress, ${percent} % compressible`,
    unit: '4 KiB',
    operations: 64,
    bytes: BLOCK_SIZE,
    run() {
      for (let i = 0; i < 64; i++) decompressBlock(packed, 0, length, into, 0, BLOCK_SIZE);
    },
  };
  return [compress, decompress];
}

function gcmPrimitive(bytes: number): Primitive {
  const key = createSecretKey(randomBytes(32));
  const nonce = randomBytes(12);
  const aad = randomBytes(56);
  const data = randomBytes(bytes);
  return {
    name: `aes-256-gcm of ${bytes / KiB} KiB`,
    unit: 'call',
    operations: 16,
    bytes,
    run() {
      for (let i = 0; i < 16; i++) {
        const cipher = createCipheriv('aes-256-gcm', key, nonce);
        cipher.setAAD(aad, { plaintextLength: bytes });
        cipher.update(data);
        cipher.final();
        cipher.getAuthTag();
      }
    },
  };
}

/** What a frame costs beside its records, and what a replica does to take one. */
function framePrimitives(subject: Subject, records: number): Primitive[] {
  const target = sealed(subject, records, 1, 'aes-256-gcm', 'lz4', 50);
  const end = target.seal();
  const bytes = target.out.subarray(0, end);
  const unit = `frame of ${records} records`;
  const one = (name: string, size: number, run: () => void): Primitive => ({
    name: `${subject.kernel.name} ${name}`,
    unit,
    operations: 1,
    bytes: size,
    run,
  });
  const empty = sealed(subject, 0, 1, 'aes-256-gcm', 'lz4', 50);
  return [
    one('frame without records', 0, () => void empty.seal()),
    one(`frame mac check, ${records} records`, 0, () => {
      if (!subject.kernel.macMatches(target.keys, 1, bytes)) throw new Error('a mac that was just made does not match');
    }),
    one('frame digest', 0, () => void frameDigest(bytes, 0)),
    one(`frame check, ${records} records`, end, () => {
      if (typeof decodeFrame(bytes, 0, true) === 'string')
        throw new Error('a frame that was just made does not verify');
    }),
  ];
}

function mapPrimitives(): Primitive[] {
  const blocks = 1 << 20;
  const map = new BlockMap(blocks * BLOCK_SIZE);
  const next = seeded(3);
  const picks = Uint32Array.from({ length: 4096 }, () => next() % blocks);
  const word0 = placeWord0(7, 0);
  const word1 = placeWord1(4096, 2176);
  for (let block = 0; block < blocks; block++) map.setRun(block, 1, word0, word1);
  let sum = 0;
  return [
    {
      name: 'map set, random block of 4 GiB',
      unit: 'block',
      operations: picks.length,
      bytes: 0,
      run() {
        for (const block of picks) map.setRun(block, 1, word0, word1);
      },
    },
    {
      name: 'map lookup, random block of 4 GiB',
      unit: 'block',
      operations: picks.length,
      bytes: 0,
      run() {
        for (const block of picks) sum += map.page(block)?.words[(block % 1024) * 2 + 1] ?? 0;
        if (sum === 0) throw new Error('a map that was filled is empty');
      },
    },
  ];
}

/** Sealing and opening, whole and with one part at a time left out. */
function kernelPrimitives(subject: Subject): Primitive[] {
  const all = ['aes-256-gcm', 'lz4'] as const;
  return [
    sealPrimitive(subject, 'aes-256-gcm + lz4, batch of 1', 1, 1, ...all),
    sealPrimitive(subject, 'aes-256-gcm + lz4, batch of 16', 16, 1, ...all),
    sealPrimitive(subject, 'aes-256-gcm + lz4, batch of 32', 32, 1, ...all),
    sealPrimitive(subject, 'aes-256-gcm + lz4, incompressible, batch of 32', 32, 1, ...all, 0),
    sealPrimitive(subject, 'aes-256-gcm only, incompressible, batch of 32', 32, 1, 'aes-256-gcm', 'none', 0),
    sealPrimitive(subject, 'chacha20-poly1305 + lz4, batch of 32', 32, 1, 'chacha20-poly1305', 'lz4'),
    sealPrimitive(subject, 'lz4 only, batch of 32', 32, 1, 'none', 'lz4'),
    sealPrimitive(subject, 'neither (checksums only), batch of 32', 32, 1, 'none', 'none'),
    sealPrimitive(subject, 'aes-256-gcm + lz4, runs of 4', 8, 4, ...all),
    sealPrimitive(subject, 'aes-256-gcm + lz4, runs of 8', 4, 8, ...all),
    openPrimitive(subject, 'aes-256-gcm + lz4, batch of 1', 1, 1, ...all),
    openPrimitive(subject, 'aes-256-gcm + lz4, batch of 16', 16, 1, ...all),
    openPrimitive(subject, 'aes-256-gcm + lz4, batch of 32', 32, 1, ...all),
    openPrimitive(subject, 'neither (checksum only), batch of 32', 32, 1, 'none', 'none'),
    openPrimitive(subject, 'aes-256-gcm + lz4, runs of 4', 8, 4, ...all),
    openPrimitive(subject, 'aes-256-gcm + lz4, one block of runs of 4', 8, 4, ...all, 1),
    openPrimitive(subject, 'aes-256-gcm + lz4, runs of 8', 4, 8, ...all),
    ...zstdPrimitives(subject),
    ...framePrimitives(subject, 32),
  ];
}

function zstdPrimitives(subject: Subject): Primitive[] {
  if (!subject.kernel.compressions.includes('zstd')) return [];
  return [1, 4, 8].flatMap((run) => [
    sealPrimitive(subject, `aes-256-gcm + zstd, runs of ${run}`, 32 / run, run, 'aes-256-gcm', 'zstd'),
    openPrimitive(subject, `aes-256-gcm + zstd, runs of ${run}`, 32 / run, run, 'aes-256-gcm', 'zstd'),
  ]);
}

export function primitives(): Primitive[] {
  return [
    ...subjects().flatMap(kernelPrimitives),
    ...lz4Primitives(50),
    ...lz4Primitives(0),
    gcmPrimitive(2 * KiB),
    gcmPrimitive(16 * KiB),
    ...[64, 2 * KiB, 64 * KiB].map(crcPrimitive),
    ...mapPrimitives(),
  ];
}

const samples = 7;

/** Runs `primitive` for about `budgetMs` of CPU time, after a warm-up of a fifth of it. */
export function measure(primitive: Primitive, budgetMs: number): PrimitiveResult {
  const warmUntil = cpuUsOfProcess() + budgetMs * 200;
  let calls = 0;
  const start = cpuUsOfProcess();
  do {
    primitive.run();
    calls++;
  } while (cpuUsOfProcess() < warmUntil);
  const callUs = Math.max(0.05, (cpuUsOfProcess() - start) / calls);
  const perSample = Math.max(1, Math.floor((budgetMs * 1000) / samples / callUs));
  const cpuUs: number[] = [];
  for (let sample = 0; sample < samples; sample++) {
    const before = cpuUsOfProcess();
    for (let i = 0; i < perSample; i++) primitive.run();
    cpuUs.push((cpuUsOfProcess() - before) / perSample / primitive.operations);
  }
  cpuUs.sort((a, b) => a - b);
  const median = cpuUs[(samples - 1) / 2]!;
  return {
    name: primitive.name,
    unit: primitive.unit,
    cpuUs: [median, cpuUs[0]!, cpuUs[samples - 1]!],
    mbPerSecond: primitive.bytes === 0 ? 0 : primitive.bytes / median,
  };
}

export function cpuUsOfProcess(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}
