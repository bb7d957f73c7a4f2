// The hot path's kernel: seal and open batches of records. One call handles a whole batch, from the request's buffers into
// the frame's buffer, so that a native twin can take its place behind the same interface and the same format.

import { createCipheriv, createDecipheriv, createHmac, type KeyObject } from 'node:crypto';
import { assert, BLOCK_SIZE, crc32c } from '../base/index.js';
import {
  type Cipher,
  type Compression,
  cipherId,
  compressionId,
  ENTRY_MAGIC,
  entryKind,
  FRAME_HEADER_SIZE,
  FRAME_MAC_AT,
  FRAME_MAC_SIZE,
  RECORD_HEADER_SIZE,
  readRecordHeader,
  TAG_SIZE,
  writeRecordHeader,
} from '../format/index.js';
import type { KeyRing } from './keys.js';
import { compressBlock, decompressBlock } from './lz4.js';

/** What to seal: parallel arrays, one item a record. The kernel fills `offsets` and `lengths`. */
export class SealBatch {
  count = 0;
  readonly blocks: number[] = [];
  readonly runs: number[] = [];
  /** run * 4096 bytes each. */
  readonly sources: Uint8Array[] = [];
  /** Where each record begins in the output, and its stored length padded to 64. */
  readonly offsets: number[] = [];
  readonly lengths: number[] = [];

  add(block: number, run: number, source: Uint8Array): void {
    const i = this.count++;
    this.blocks[i] = block;
    this.runs[i] = run;
    this.sources[i] = source;
  }
  clear(): void {
    this.count = 0;
    this.sources.length = 0;
  }
}

export interface SealContext {
  readonly keys: KeyRing;
  readonly epoch: number;
  readonly cipher: Cipher;
  readonly compression: Compression;
}

/** Why a record can't be opened. */
export type OpenFault = 'checksum' | 'header' | 'address' | 'no-key' | 'tag' | 'content';

export interface Kernel {
  readonly name: string;
  /** Seals the batch into `out` from `at` on; returns the position behind the last record. Record numbers rise from `firstRecordNumber`. */
  seal(context: SealContext, batch: SealBatch, firstRecordNumber: number, out: Buffer, at: number): number;
  /**
   * Opens the record at `at` of `bytes` (`length` stored bytes), which must hold `block`; copies `count` blocks from there into `into`
   * at `intoAt`. Null when done; on a fault nothing of `into` counts.
   */
  open(
    keys: KeyRing,
    bytes: Buffer,
    at: number,
    length: number,
    block: number,
    count: number,
    into: Uint8Array,
    intoAt: number,
  ): OpenFault | null;
}

/** Most bytes a record of `run` blocks can take, padded. */
export function recordSizeMax(run: number): number {
  return Math.ceil((RECORD_HEADER_SIZE + run * BLOCK_SIZE + TAG_SIZE) / 64) * 64;
}

const nonce = Buffer.alloc(12);
const aad = Buffer.alloc(16 + RECORD_HEADER_SIZE - 8);
const plain = Buffer.alloc(8 * BLOCK_SIZE);
const packed = Buffer.alloc(8 * BLOCK_SIZE);

class TypeScriptKernel implements Kernel {
  readonly name = 'typescript';

  seal(context: SealContext, batch: SealBatch, firstRecordNumber: number, out: Buffer, start: number): number {
    const keys = context.cipher === 'none' ? undefined : context.keys.keysOf(context.epoch);
    assert(context.cipher === 'none' || keys !== undefined, 'sealing an encrypted volume needs its key');
    let at = start;
    for (let i = 0; i < batch.count; i++) {
      const source = batch.sources[i]!;
      const run = batch.runs[i]!;
      const size = run * BLOCK_SIZE;
      assert(source.length === size, 'a record is sealed from whole blocks');
      const payloadAt = at + RECORD_HEADER_SIZE;
      const target = keys ? packed : out;
      const targetAt = keys ? 0 : payloadAt;
      // Kept only if it saves at least one sixteenth.
      let payloadLength =
        context.compression === 'none' ? 0 : compressBlock(source, 0, size, target, targetAt, size - size / 16);
      const compression = payloadLength === 0 ? compressionId.none : compressionId.lz4;
      if (payloadLength === 0) {
        payloadLength = size;
        if (!keys) out.set(source, payloadAt);
      }
      const length = RECORD_HEADER_SIZE + payloadLength + (keys ? TAG_SIZE : 0);
      const cipher = cipherId[context.cipher];
      const recordNumber = firstRecordNumber + i;
      writeRecordHeader(out, at, {
        length,
        run,
        compression,
        cipher,
        block: batch.blocks[i]!,
        epoch: context.epoch,
        recordNumber,
        payloadLength,
      });
      if (keys) {
        const payload = compression === compressionId.none ? source : packed.subarray(0, payloadLength);
        sealPayload(context, keys.record, recordNumber, payload, out, at);
      }
      out.writeUInt32LE(crc32c(out.subarray(at + 8, at + length)), at + 4);
      const padded = (length + 63) & ~63;
      out.fill(0, at + length, at + padded);
      batch.offsets[i] = at;
      batch.lengths[i] = padded;
      at += padded;
    }
    return at;
  }

  open(
    keys: KeyRing,
    bytes: Buffer,
    at: number,
    length: number,
    block: number,
    count: number,
    into: Uint8Array,
    intoAt: number,
  ): OpenFault | null {
    if (
      bytes.length - at < length ||
      length < RECORD_HEADER_SIZE ||
      bytes.readUInt32LE(at) !== ENTRY_MAGIC ||
      bytes[at + 12] !== entryKind.record
    )
      return 'header';
    const exact = bytes.readUInt32LE(at + 8);
    if (exact > length || exact < RECORD_HEADER_SIZE) return 'header';
    if (crc32c(bytes.subarray(at + 8, at + exact)) !== bytes.readUInt32LE(at + 4)) return 'checksum';
    const header = readRecordHeader(bytes, at);
    if (header === undefined) return 'header';
    const index = block - header.block;
    if (index < 0 || index + count > header.run) return 'address';
    const size = header.run * BLOCK_SIZE;
    let payload = bytes.subarray(at + RECORD_HEADER_SIZE, at + RECORD_HEADER_SIZE + header.payloadLength);
    if (header.cipher !== cipherId.none) {
      const key = keys.keysOf(header.epoch)?.record;
      if (key === undefined) return 'no-key';
      const opened = openPayload(keys, key, header.cipher, header.recordNumber, payload, bytes, at, exact);
      if (opened === undefined) return 'tag';
      payload = opened;
    }
    if (header.compression === compressionId.none) {
      if (payload.length !== size) return 'content';
      into.set(payload.subarray(index * BLOCK_SIZE, (index + count) * BLOCK_SIZE), intoAt);
      return null;
    }
    if (header.compression !== compressionId.lz4) return 'content';
    // A whole run goes straight to its destination; of a part of one only what leads up to its end is decompressed, aside.
    if (index === 0 && count === header.run) {
      return decompressBlock(payload, 0, payload.length, into, intoAt, size) === size ? null : 'content';
    }
    const from = index * BLOCK_SIZE;
    const to = from + count * BLOCK_SIZE;
    if (decompressBlock(payload, 0, payload.length, plain, 0, size, to) < to) return 'content';
    into.set(plain.subarray(from, to), intoAt);
    return null;
  }
}

function prepare(lineage: Buffer, recordNumber: number, header: Buffer, at: number): void {
  nonce.writeUInt32LE(recordNumber >>> 0, 4);
  nonce.writeUInt32LE(Math.floor(recordNumber / 0x1_0000_0000), 8);
  lineage.copy(aad, 0);
  header.copy(aad, 16, at + 8, at + RECORD_HEADER_SIZE);
}

function sealPayload(
  context: SealContext,
  key: KeyObject,
  recordNumber: number,
  payload: Uint8Array,
  out: Buffer,
  at: number,
): void {
  prepare(context.keys.lineage, recordNumber, out, at);
  const cipher =
    context.cipher === 'aes-256-gcm'
      ? createCipheriv('aes-256-gcm', key, nonce)
      : createCipheriv('chacha20-poly1305', key, nonce, { authTagLength: TAG_SIZE });
  cipher.setAAD(aad, { plaintextLength: payload.length });
  const sealed = cipher.update(payload);
  cipher.final();
  sealed.copy(out, at + RECORD_HEADER_SIZE);
  cipher.getAuthTag().copy(out, at + RECORD_HEADER_SIZE + payload.length);
}

function openPayload(
  keys: KeyRing,
  key: KeyObject,
  id: number,
  recordNumber: number,
  payload: Buffer,
  bytes: Buffer,
  at: number,
  exact: number,
): Buffer | undefined {
  prepare(keys.lineage, recordNumber, bytes, at);
  const decipher =
    id === cipherId['aes-256-gcm']
      ? createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_SIZE })
      : createDecipheriv('chacha20-poly1305', key, nonce, { authTagLength: TAG_SIZE });
  decipher.setAAD(aad, { plaintextLength: payload.length });
  decipher.setAuthTag(bytes.subarray(at + exact - TAG_SIZE, at + exact));
  const opened = decipher.update(payload);
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  return opened;
}

/**
 * The MAC of a keyed engine's frame: HMAC-SHA-256, 16 bytes, over header bytes 12..96 (body checksum to previous digest), the
 * tags of its records and the whole of its control entries. `at` is the frame's start in `bytes`; the body must be complete.
 */
export function frameMac(keys: KeyRing, epoch: number, bytes: Buffer, at: number, bodyLength: number): Buffer {
  const key = keys.keysOf(epoch)?.frame;
  assert(key !== undefined, 'a frame is authenticated with its reign key');
  const mac = createHmac('sha256', key);
  mac.update(bytes.subarray(at + 12, at + FRAME_MAC_AT));
  let entry = at + FRAME_HEADER_SIZE;
  const end = entry + bodyLength;
  while (entry < end) {
    const length = bytes.readUInt32LE(entry + 8);
    const tagOnly = bytes[entry + 12] === entryKind.record && length >= RECORD_HEADER_SIZE + TAG_SIZE;
    mac.update(bytes.subarray(tagOnly ? entry + length - TAG_SIZE : entry, entry + length));
    entry += Math.max(64, (length + 63) & ~63);
  }
  return mac.digest().subarray(0, FRAME_MAC_SIZE);
}

export const kernel: Kernel = new TypeScriptKernel();
