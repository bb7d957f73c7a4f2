// The kernel without native code: the same format through Node's crypto and an LZ4 of our own. Records sealed without compression
// are the same bytes; compressed ones may differ, and each kernel opens what the other sealed.

import { createCipheriv, createDecipheriv, createHmac, type KeyObject } from 'node:crypto';
import { assert, BLOCK_SIZE, crc32c } from '../base/index.js';
import {
  type Cipher,
  type Compression,
  cipherId,
  compressionId,
  ENTRY_MAGIC,
  encodeFrameHeader,
  entryKind,
  FRAME_FLAG_MAC,
  FRAME_HEADER_SIZE,
  FRAME_MAC_AT,
  FRAME_MAC_SIZE,
  frameDigest,
  RECORD_HEADER_SIZE,
  readRecordHeader,
  TAG_SIZE,
  writeRecordHeader,
} from '../format/index.js';
import { compressRecord, decompressRecord, zstdAvailable } from './compress-twin.js';
import type { Kernel } from './kernel.js';
import { type FramePlan, type OpenBatch, type OpenFault, recordSizeMax, type SealBatch } from './kernel-batch.js';
import type { KeyRing, ReignKeys } from './keys.js';

const nonce = Buffer.alloc(12);
const aad = Buffer.alloc(16 + RECORD_HEADER_SIZE - 8);
const packed = Buffer.alloc(8 * BLOCK_SIZE);

export class TypeScriptKernel implements Kernel {
  readonly name = 'typescript';
  readonly compressions: readonly Compression[] = zstdAvailable ? ['none', 'lz4', 'zstd'] : ['none', 'lz4'];

  seal(plan: FramePlan, batch: SealBatch, output: Uint8Array): number {
    const out = Buffer.from(output.buffer, output.byteOffset, output.byteLength);
    const keyed = (plan.flags & FRAME_FLAG_MAC) !== 0;
    const keys = keyed || plan.cipher !== 'none' ? plan.keys.keysOf(plan.epoch) : undefined;
    assert(!keyed || keys !== undefined, 'a frame is authenticated with its reign key');
    const bodyAt = plan.at + FRAME_HEADER_SIZE;
    let at = bodyAt + plan.controlBytes;
    assert(at + batch.bytesMax <= out.length, "there is room for the frame's records");
    for (let i = 0; i < batch.count; i++) {
      const padded = sealRecord(plan, keys, batch, i, out, at);
      batch.placed(i, at, padded);
      at += padded;
    }
    finishFrame(plan, keyed ? keys : undefined, out, at - bodyAt, plan.controlEntries + batch.count);
    return at;
  }

  open(keys: KeyRing, batch: OpenBatch): number {
    let faults = 0;
    for (let i = 0; i < batch.count; i++) {
      const fault = openRecord(keys, batch, i);
      batch.found(i, fault);
      if (fault !== null) faults++;
    }
    return faults;
  }

  macMatches(keys: KeyRing, epoch: number, frame: Buffer): boolean {
    const frameKeys = keys.keysOf(epoch);
    if (frameKeys === undefined) return false;
    const mac = frameMac(frameKeys.frame, frame, 0, frame.length - FRAME_HEADER_SIZE);
    return mac.equals(frame.subarray(FRAME_MAC_AT, FRAME_MAC_AT + FRAME_MAC_SIZE));
  }
}

function finishFrame(
  plan: FramePlan,
  keys: ReignKeys | undefined,
  out: Buffer,
  bodyLength: number,
  entryCount: number,
) {
  const { at, flags, epoch, seq, committedThrough, flushedThrough, ordinal, offset, volumeId } = plan;
  const header = {
    flags,
    bodyLength,
    entryCount,
    epoch,
    seq,
    committedThrough,
    flushedThrough,
    ordinal,
    offset,
    volumeId,
  };
  const bodyChecksum = encodeFrameHeader(out, at, header, plan.digest);
  if (keys !== undefined) {
    // The mac covers the header's other fields, so they are written first, and the header's checksum once more after it.
    frameMac(keys.frame, out, at, bodyLength).copy(out, at + FRAME_MAC_AT);
    encodeFrameHeader(out, at, header, plan.digest, bodyChecksum);
  }
  plan.digest.set(frameDigest(out, at));
}

/** Seals record `i` of the batch at `at`; returns its stored length. */
function sealRecord(
  plan: FramePlan,
  keys: ReignKeys | undefined,
  batch: SealBatch,
  i: number,
  out: Buffer,
  at: number,
): number {
  const run = batch.run(i);
  const size = run * BLOCK_SIZE;
  const from = batch.sourceAt(i);
  const source = batch.source(i).subarray(from, from + size);
  const encrypted = plan.cipher !== 'none';
  assert(!encrypted || keys !== undefined, 'sealing an encrypted volume needs its key');
  const payloadAt = at + RECORD_HEADER_SIZE;
  const target = encrypted ? packed : out;
  const targetAt = encrypted ? 0 : payloadAt;
  // Kept only if it saves at least one sixteenth.
  let payloadLength = compressRecord(plan.compression, source, target, targetAt, size - size / 16);
  const compressed = payloadLength > 0;
  if (!compressed) {
    payloadLength = size;
    if (!encrypted) out.set(source, payloadAt);
  }
  const length = RECORD_HEADER_SIZE + payloadLength + (encrypted ? TAG_SIZE : 0);
  const recordNumber = plan.firstRecordNumber + i;
  writeRecordHeader(out, at, {
    length,
    run,
    compression: compressed ? compressionId[plan.compression] : compressionId.none,
    cipher: cipherId[plan.cipher],
    block: batch.block(i),
    epoch: plan.epoch,
    recordNumber,
    payloadLength,
  });
  if (encrypted) {
    const payload = compressed ? packed.subarray(0, payloadLength) : source;
    sealPayload(plan.keys.lineage, plan.cipher, keys!.record, recordNumber, payload, out, at);
  }
  out.writeUInt32LE(crc32c(out.subarray(at + 8, at + length)), at + 4);
  const padded = (length + 63) & ~63;
  assert(padded <= recordSizeMax(run), 'a record keeps to its worst case');
  out.fill(0, at + length, at + padded);
  return padded;
}

function openRecord(keys: KeyRing, batch: OpenBatch, i: number): OpenFault | null {
  const from = batch.bytes(i);
  const bytes = Buffer.from(from.buffer, from.byteOffset, from.byteLength);
  const [at, length, count] = [batch.at(i), batch.length(i), batch.blocks(i)];
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
  const index = batch.block(i) - header.block;
  if (index < 0 || index + count > header.run) return 'address';
  let payload = bytes.subarray(at + RECORD_HEADER_SIZE, at + RECORD_HEADER_SIZE + header.payloadLength);
  if (header.cipher !== cipherId.none) {
    const key = keys.keysOf(header.epoch)?.record;
    if (key === undefined || header.cipher > cipherId['chacha20-poly1305']) return 'no-key';
    const opened = openPayload(keys, key, header.cipher, header.recordNumber, payload, bytes, at, exact);
    if (opened === undefined) return 'tag';
    payload = opened;
  } else if (keys.keyed) {
    // A volume with a key has no plain records: who owns a disk must not be able to put one in place of a sealed one.
    return 'tag';
  }
  const size = header.run * BLOCK_SIZE;
  const first = index * BLOCK_SIZE;
  return decompressRecord(header.compression, payload, size, first, count * BLOCK_SIZE, batch.into(i), batch.intoAt(i));
}

function prepare(lineage: Buffer, recordNumber: number, header: Buffer, at: number): void {
  nonce.writeUInt32LE(recordNumber >>> 0, 4);
  nonce.writeUInt32LE(Math.floor(recordNumber / 0x1_0000_0000), 8);
  lineage.copy(aad, 0);
  header.copy(aad, 16, at + 8, at + RECORD_HEADER_SIZE);
}

function sealPayload(
  lineage: Buffer,
  name: Cipher,
  key: KeyObject,
  recordNumber: number,
  payload: Uint8Array,
  out: Buffer,
  at: number,
): void {
  prepare(lineage, recordNumber, out, at);
  const cipher =
    name === 'aes-256-gcm'
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
export function frameMac(key: KeyObject, bytes: Buffer, at: number, bodyLength: number): Buffer {
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
