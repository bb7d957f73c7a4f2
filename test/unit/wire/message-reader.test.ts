import { describe, expect, it } from 'vitest';
import { crc32c } from '../../../src/base/index.js';
import {
  encodeHeader,
  MESSAGE_HEADER_SIZE,
  type MessageHead,
  messageType,
  noReign,
} from '../../../src/wire/message.js';
import { type MessageHandler, MessageReader } from '../../../src/wire/message-reader.js';
import { readPlan } from '../../../src/wire/read-plan.js';
import { lcg } from '../../lib/recording-disk.js';

function message(requestId: number, body: Buffer, checksummed = true): Buffer {
  const header = Buffer.alloc(MESSAGE_HEADER_SIZE);
  encodeHeader(
    header,
    0,
    { type: messageType.reply, requestId, a: requestId * 3, b: 2 ** 52, c: 7, d: 8 },
    noReign,
    body.length,
    checksummed ? crc32c(body) : null,
    1,
  );
  return Buffer.concat([header, body]);
}

class Collector implements MessageHandler {
  readonly seen: { id: number; a: number; body: Buffer }[] = [];
  sinks: Uint8Array[] | null = null;
  max = 1 << 20;
  afterwards: () => void = () => {};
  bodyMax(): number {
    return this.max;
  }
  sink(head: MessageHead): readonly Uint8Array[] | null {
    return head.requestId === 99 ? this.sinks : null;
  }
  message(head: MessageHead, body: Buffer): void {
    this.seen.push({ id: head.requestId, a: head.a, body: Buffer.from(body) });
    this.afterwards();
  }
}

/** Feeds a stream in steps: what was not used is offered again, elsewhere, and the old place is overwritten. */
function feed(collector: Collector, stream: Buffer, step: number): MessageReader {
  const reader = new MessageReader(collector);
  let left = Buffer.alloc(0);
  for (let at = 0; at < stream.length; at += step) {
    const bytes = Buffer.concat([Buffer.alloc(at % 5), left, stream.subarray(at, at + step)]);
    const used = reader.read({ bytes, retain() {}, release() {} }, at % 5, bytes.length);
    left = Buffer.from(bytes.subarray((at % 5) + used));
    // What is asked for is never there already, else nothing would ever happen again.
    expect(reader.wanted).toBeGreaterThan(left.length);
    bytes.fill(0xdd);
  }
  return reader;
}

describe('message reader', () => {
  const bodies = [0, 1, 80, 5000, 0, 6000, 3].map((size, i) => Buffer.alloc(size, i + 1));
  const stream = Buffer.concat(bodies.map((body, i) => message(i, body, i % 2 === 0)));

  it('finds the same messages however the stream is cut', () => {
    for (const step of [1, 7, 71, 72, 73, 4096, 65_536, stream.length]) {
      const collector = new Collector();
      feed(collector, stream, step);
      expect(collector.seen.map(({ id, a }) => [id, a])).toEqual(bodies.map((_, i) => [i, i * 3]));
      for (const [i, body] of bodies.entries()) expect(collector.seen[i]!.body.equals(body)).toBe(true);
    }
  });

  it('pours a body into the places named for it', () => {
    const data = Buffer.from(Array.from({ length: 1000 }, (_, i) => i & 0xff));
    const bytes = Buffer.concat([message(99, data, false), message(5, Buffer.from('x'))]);
    for (const step of [1, 13, 72, bytes.length]) {
      const collector = new Collector();
      collector.sinks = [Buffer.alloc(1), Buffer.alloc(500), Buffer.alloc(499)];
      feed(collector, bytes, step);
      expect(Buffer.concat(collector.sinks).equals(data)).toBe(true);
      expect(collector.seen.map(({ id }) => id)).toEqual([99, 5]);
    }
  });

  it('refuses any flipped bit of a header and of a checksummed body', () => {
    const bytes = message(1, Buffer.from('hello hello'));
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const bad = Buffer.from(bytes);
      bad[bit >> 3] = bad[bit >> 3]! ^ (1 << (bit & 7));
      const collector = new Collector();
      expect(() => feed(collector, bad, bad.length), `bit ${bit}`).toThrow(
        expect.objectContaining({ reason: 'Protocol' }),
      );
      expect(collector.seen).toEqual([]);
    }
  });

  it('names the room that a large message needs as soon as its header is there', () => {
    const bytes = message(7, Buffer.alloc(100_000, 1));
    expect(feed(new Collector(), bytes.subarray(0, 72), 72).wanted).toBe(bytes.length);
    expect(feed(new Collector(), bytes.subarray(0, 99_000), 50_000).wanted).toBe(bytes.length);
    expect(feed(new Collector(), bytes, 50_000).wanted).toBe(72);
  });

  it('delivers nothing more once it is stopped in a message, and goes on where it was', () => {
    const bytes = Buffer.concat([message(1, Buffer.from('a')), message(2, Buffer.from('b'))]);
    const slab = { bytes, retain() {}, release() {} };
    const collector = new Collector();
    const reader: MessageReader = new MessageReader(collector);
    collector.afterwards = () => reader.stop();
    const used = reader.read(slab, 0, bytes.length);
    expect([used, collector.seen.length]).toEqual([73, 1]);
    expect([reader.read(slab, used, bytes.length), collector.seen.length]).toEqual([73, 2]);
  });

  it('refuses a body above the bound before it takes memory for it', () => {
    const header = Buffer.alloc(MESSAGE_HEADER_SIZE);
    encodeHeader(header, 0, { type: messageType.reply, requestId: 1 }, noReign, 0xffff_ffff, null, 1);
    expect(() => feed(new Collector(), header, header.length)).toThrow(/4294967295 bytes, at most 1048576/);
  });

  it('throws nothing but protocol errors at random bytes', () => {
    const random = lcg(7);
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(stream.subarray(0, 6000));
      for (let i = 0; i < 1 + (round % 5); i++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      try {
        feed(new Collector(), bytes, 1 + (round % 7) * 100);
      } catch (error) {
        expect(error).toMatchObject({ reason: 'Protocol' });
      }
    }
  });
});

describe('read plan', () => {
  it('splits reads so that every byte is asked for once, within the bounds', () => {
    const segment = { epoch: 1, ordinal: 1 };
    const into = Buffer.alloc(9_000_000);
    const ranges = [
      { segment, offset: 10, into: into.subarray(0, 5) },
      { segment, offset: 4096, into: into.subarray(5, 8_800_005) },
      ...Array.from({ length: 3000 }, (_, i) => ({
        segment,
        offset: i * 64,
        into: into.subarray(8_800_005 + i * 64, 8_800_069 + i * 64),
      })),
    ];
    const { requests, bytes } = readPlan(ranges);
    expect(bytes).toBe(5 + 8_800_000 + 3000 * 64);
    let at = 0;
    for (const request of requests) {
      expect(request.length).toBeLessThanOrEqual(1024);
      expect(request.reduce((sum, range) => sum + range.into.length, 0)).toBeLessThanOrEqual(4 << 20);
      for (const range of request) {
        expect(range.into.byteOffset).toBe(into.byteOffset + at);
        at += range.into.length;
      }
    }
    expect(at).toBe(bytes);
    expect(readPlan([]).requests).toEqual([]);
  });
});
