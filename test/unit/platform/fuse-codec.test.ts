// The FUSE layouts are pinned as bytes written out by hand from include/uapi/linux/fuse.h, not through the encoder.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  decodeRequest,
  encodeAttr,
  encodeInit,
  encodeOpen,
  encodeReplyHeader,
  encodeResend,
  FuseProtocolError,
  offersResend,
  opcodes,
} from '../../../src/platform/attach/fuse-codec.js';

function fuseMessage(opcode: number, unique: bigint, body: Buffer): Buffer {
  const header = Buffer.alloc(40);
  header.writeUInt32LE(40 + body.length, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeBigUInt64LE(unique, 8);
  header.writeBigUInt64LE(1n, 16);
  return Buffer.concat([header, body]);
}

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');

describe('decodeRequest', () => {
  it('reads a WRITE at an offset above 4 GiB without copying its data', () => {
    const fixed = hex('0100000000000000 0010000002000000 04000000 00000000 0000000000000000 00000000 00000000');
    const message = fuseMessage(opcodes.write, 0x8000000000000007n, Buffer.concat([fixed, hex('deadbeef')]));
    const { unique, request } = decodeRequest(message);
    expect(unique).toBe(0x8000000000000007n);
    expect(request).toEqual({ op: 'write', offset: 0x200001000, data: hex('deadbeef') });
    message[message.length - 1] = 0x11;
    expect((request as { data: Buffer }).data[3]).toBe(0x11);
  });

  it('reads a READ', () => {
    const body = hex('0100000000000000 0000100000000000 00001000 00000000 0000000000000000 00000000 00000000');
    expect(decodeRequest(fuseMessage(opcodes.read, 5n, body)).request).toEqual({
      op: 'read',
      offset: 0x100000,
      length: 0x100000,
    });
  });

  it.each([
    [3, 'punch'], // PUNCH_HOLE | KEEP_SIZE
    [2, 'punch'],
    [16, 'zero'], // ZERO_RANGE
    [17, 'zero'],
    [0, 'unsupported'],
    [1, 'unsupported'],
    [8, 'unsupported'], // COLLAPSE_RANGE
  ])('reads FALLOCATE mode %i as %s', (mode, op) => {
    const body = Buffer.alloc(32);
    body.writeBigUInt64LE(4096n, 8);
    body.writeBigUInt64LE(8192n, 16);
    body.writeUInt32LE(mode, 24);
    const { request } = decodeRequest(fuseMessage(opcodes.fallocate, 1n, body));
    expect(request.op).toBe(op);
    if (op !== 'unsupported') expect(request).toMatchObject({ offset: 4096, length: 8192 });
  });

  it('places an offset beyond 2^53 past every end instead of rounding it into the device', () => {
    const body = Buffer.alloc(40);
    body.writeBigUInt64LE(0xffffffffffffffffn, 8);
    body.writeUInt32LE(4096, 16);
    expect(decodeRequest(fuseMessage(opcodes.read, 1n, body)).request).toMatchObject({
      offset: Number.MAX_SAFE_INTEGER,
    });
  });

  it('refuses bytes that no kernel sends', () => {
    const write = Buffer.alloc(44);
    write.writeUInt32LE(8, 16); // says 8 bytes, carries 4
    for (const bad of [
      Buffer.alloc(0),
      Buffer.alloc(39),
      fuseMessage(opcodes.read, 1n, Buffer.alloc(8)),
      fuseMessage(opcodes.write, 1n, write),
      fuseMessage(opcodes.init, 1n, Buffer.alloc(12)),
      fuseMessage(opcodes.fallocate, 1n, Buffer.alloc(8)),
      fuseMessage(opcodes.setattr, 1n, Buffer.alloc(8)),
      Buffer.concat([fuseMessage(opcodes.open, 1n, Buffer.alloc(8)), Buffer.alloc(1)]),
    ]) {
      expect(() => decodeRequest(bad)).toThrow(FuseProtocolError);
    }
  });

  it('has an answer or a protocol error for any bytes, and keeps ranges within safe integers', () => {
    const opcode = fc.oneof(fc.constantFrom(...Object.values(opcodes)), fc.nat());
    fc.assert(
      fc.property(opcode, fc.uint8Array({ maxLength: 96 }), (code, bytes) => {
        try {
          const { request } = decodeRequest(fuseMessage(code, 1n, Buffer.from(bytes)));
          for (const value of Object.values(request)) {
            if (typeof value === 'number') expect(Number.isSafeInteger(value) && value >= 0).toBe(true);
          }
          if (request.op === 'write') expect(request.data.length).toBe(bytes.length - 40);
        } catch (error) {
          expect(error).toBeInstanceOf(FuseProtocolError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('answers ENOSYS to what one file does not need, and nothing to FORGET', () => {
    for (const opcode of [1, 22, 24, 34, 39, 46, 52, 9999]) {
      expect(decodeRequest(fuseMessage(opcode, 1n, Buffer.alloc(64))).request).toEqual({
        op: 'unsupported',
        errno: 'ENOSYS',
      });
    }
    expect(decodeRequest(fuseMessage(opcodes.batchForget, 1n, Buffer.alloc(16))).request.op).toBe('forget');
  });
});

describe('replies', () => {
  it('carries errors negated and the id as it came', () => {
    expect(encodeReplyHeader(0x8000000000000009n, 0, 'ENOSPC')).toEqual(hex('10000000 e4ffffff 0900000000000080'));
    expect(encodeReplyHeader(2n, 4096, null)).toEqual(hex('10100000 00000000 0200000000000000'));
  });

  it('asks for a resend with notification code 7 and id 0', () => {
    expect(encodeResend()).toEqual(hex('10000000 07000000 0000000000000000'));
  });

  it('accepts only what the kernel offered', () => {
    const init = { flags: 0x40408021 | 0x8, flags2: 0x80 | 0x1 };
    const reply = encodeInit(init);
    expect(reply.length).toBe(64);
    expect(reply.readUInt32LE(0)).toBe(7);
    expect(reply.readUInt32LE(4)).toBe(31);
    expect(reply.readUInt32LE(12)).toBe(0x40408021); // not ATOMIC_O_TRUNC (8)
    expect(reply.readUInt32LE(20)).toBe(1 << 20);
    expect(reply.readUInt16LE(28)).toBe(256);
    expect(reply.readUInt32LE(32)).toBe(0x80);
    expect(encodeInit({ flags: 1, flags2: 0 }).readUInt32LE(12)).toBe(1);
    expect(offersResend({ flags2: 0x80 })).toBe(true);
    expect(offersResend({ flags2: 0x7f })).toBe(false);
  });

  it('describes a regular file of the size, direct I/O only', () => {
    const attr = encodeAttr(3 * 2 ** 40, false);
    expect(attr.length).toBe(104);
    expect(attr.readBigUInt64LE(0)).toBe(0n); // valid for no time
    expect(attr.readBigUInt64LE(16)).toBe(1n);
    expect(attr.readBigUInt64LE(24)).toBe(3n << 40n);
    expect(attr.readUInt32LE(76)).toBe(0o100600);
    expect(encodeAttr(4096, true).readUInt32LE(76)).toBe(0o100400);
    expect(encodeOpen().readUInt32LE(8)).toBe(1 | 64);
  });
});
