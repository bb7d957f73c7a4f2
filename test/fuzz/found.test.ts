// What fuzzing found, each by itself. The inputs that found it are in corpus/.

import { expect, it } from 'vitest';
import { crc32c, type HoldfastError, realRandom, silentLogger } from '../../src/base/index.js';
import {
  decodeFrame,
  decodeSegmentHeader,
  decodeSuperblock,
  encodeSegmentHeader,
  encodeSuperblock,
  FRAME_HEADER_SIZE,
  finishEntry,
  IndexBuilder,
  indexItems,
  SEGMENT_HEADER_SIZE,
  type SegmentHeader,
} from '../../src/format/index.js';
import { LogTail } from '../../src/segment/index.js';
import { connectReplica } from '../../src/wire/index.js';
import { encodeHeader, MESSAGE_HEADER_SIZE, messageType, noReign } from '../../src/wire/message.js';
import { FrameMaker, reignOf, volumeA } from '../lib/frame-maker.js';
import { emptySuperblock } from '../lib/memory-replica.js';
import { PipeNet, type PipeStream } from '../lib/pipe-net.js';
import { nodeA, replicaA } from '../lib/replica-setup.js';
import { ManualClock } from '../unit/nbd/manual-clock.js';

it('a frame with a number of 2^53 or more is none, to either check', () => {
  const maker = new FrameMaker(reignOf(1));
  const header = maker.next().bytes.subarray(0, SEGMENT_HEADER_SIZE);
  for (const field of [24, 32, 40, 48]) {
    const { bytes } = new FrameMaker(reignOf(1)).next();
    const frame = Buffer.from(bytes.subarray(SEGMENT_HEADER_SIZE));
    frame.writeUInt32LE(0x200000, field + 4);
    frame.writeUInt32LE(0, 8);
    frame.writeUInt32LE(crc32c(frame.subarray(0, FRAME_HEADER_SIZE)), 8);
    expect(decodeFrame(frame, 0, true)).toBe('length');
    for (const check of ['verify', 'verifyTwin'] as const) {
      const tail = new LogTail();
      const { volumeId, previousDigest } = decodeSegmentHeader(header, 'here');
      tail.enter({ name: { epoch: 1, ordinal: 1 }, volumeId }, 0, previousDigest, SEGMENT_HEADER_SIZE, false);
      expect(tail[check](frame, 0)).toBe('length');
    }
  }
});

it('a segment header names a segment that can be', () => {
  const { bytes } = new FrameMaker(reignOf(1)).next();
  const header = decodeSegmentHeader(bytes, 'here');
  const refused = (change: Partial<SegmentHeader>) => {
    const made = encodeSegmentHeader({ ...header, ...change });
    expect(() => decodeSegmentHeader(made, 'here')).toThrow(/segment header of here: (epoch|ordinal|first seq) \d+/);
  };
  refused({ epoch: 2 ** 48 });
  refused({ ordinal: 2 ** 32 });
  refused({ firstSeq: 0 });
});

it('an index holds no more items than it has room for', () => {
  const builder = new IndexBuilder();
  for (let i = 0; i < 3; i++) builder.add(1, 8192 + i * 64, 64, i, 1);
  const entry = builder.encode(4096);
  entry.writeUInt32LE(1000, 16);
  finishEntry(entry, 0, entry.readUInt32LE(8));
  expect(() => indexItems(entry, 0)).toThrow(/says it has 1000 items/);
});

it('a superblock whose checksum is right and whose fields are not is none', () => {
  const parts = { volumeId: volumeA, replicaId: replicaA, nodeId: nodeA, sizeBytes: 1 } as const;
  const good = emptySuperblock({ ...parts, lineageId: volumeA as never, incarnationId: volumeA as never });
  expect(decodeSuperblock(encodeSuperblock(good, 3))).toMatchObject({ generation: 3 });
  for (const change of [
    { promised: null },
    { promised: { epoch: -1, reignId: volumeA } },
    { reigns: {} },
    { joining: 0 },
  ])
    expect(decodeSuperblock(encodeSuperblock({ ...good, ...change } as never, 3))).toBe('content');
});

it('a call is failed with its port when it is answered with something of another kind', async () => {
  const net = new PipeNet();
  const clock = new ManualClock();
  const streams: PipeStream[] = [];
  const reply = (stream: PipeStream, type: 32 | 33 | 34, requestId: number, text: string) => {
    const body = Buffer.from(text);
    const head = Buffer.alloc(MESSAGE_HEADER_SIZE);
    encodeHeader(head, 0, { type, requestId }, noReign, body.length, crc32c(body), 1);
    stream.write(Buffer.concat([head, body]));
  };
  const listener = await net.listen('any', (accepted) => {
    const stream = accepted as PipeStream;
    streams.push(stream);
    const welcome = JSON.stringify({ version: 1, nodeId: nodeA, formats: { min: 1, max: 1 } });
    const received = (slab: { bytes: Buffer }, from: number, to: number) => {
      const type = slab.bytes[from + 6];
      const id = slab.bytes.readUInt32LE(from + 8);
      if (type === messageType.hello) reply(stream, 32, id, welcome);
      // A read gets a plain reply, a confirmation a failure that is no error.
      else if (type === messageType.read) reply(stream, 32, id, '{}');
      else if (type === messageType.confirm) reply(stream, 34, id, 'nonsense');
      return to - from;
    };
    stream.start({
      wanted: MESSAGE_HEADER_SIZE,
      received,
      drained: () => {},
      ended: () => {},
      closed: () => {},
    } as never);
  });
  const options = {
    volumeId: volumeA,
    replicaId: replicaA,
    nodeId: nodeA,
    clock,
    random: realRandom,
    logger: silentLogger,
  };
  for (const ask of ['read', 'confirm'] as const) {
    const port = await connectReplica(net, listener.address, options, 1000);
    const ended = await new Promise<Error | null>((resolve) => {
      if (ask === 'confirm') return port.confirm(resolve);
      const range = { segment: { epoch: 1, ordinal: 1 }, offset: 0, into: Buffer.alloc(64) };
      port.read([range], resolve);
    });
    expect(ended as HoldfastError).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'Protocol' });
  }
});
