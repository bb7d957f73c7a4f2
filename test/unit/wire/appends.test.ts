// The way of appends, acknowledgements and reads between the two ends: what is shared, kept, ordered and held back.

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MiB, realClock, realRandom, silentLogger } from '../../../src/base/index.js';
import { segmentFileName } from '../../../src/format/index.js';
import type { ReplicaHost } from '../../../src/replica/index.js';
import { connectReplica, type ReplicaPort, WireServer } from '../../../src/wire/index.js';
import { FrameMaker, type MadeFrame, reignOf, volumeA } from '../../lib/frame-maker.js';
import { PipeNet, type PipeStream } from '../../lib/pipe-net.js';
import type { RecordingDisk } from '../../lib/recording-disk.js';
import { freshHost, type Heard, hear, nodeA, readBytes, replicaA, synced } from '../../lib/replica-setup.js';

const parts = { nodeId: nodeA, clock: realClock, logger: silentLogger };
const turns = async (count = 20) => {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

describe('appends over the wire', () => {
  let net: PipeNet;
  let disk: RecordingDisk;
  let host: ReplicaHost;
  let server: WireServer;
  let maker: FrameMaker;
  beforeEach(async () => {
    net = new PipeNet();
    ({ disk, host } = await freshHost());
    server = await WireServer.listen(net, 'any', { ...parts, source: host });
    maker = new FrameMaker(reignOf(1));
  });
  afterEach(async () => {
    await server.close();
    await host.close();
  });
  const ready = async (address = server.address) => {
    const target = { ...parts, volumeId: volumeA, replicaId: replicaA, random: realRandom };
    const port = await connectReplica(net, address, target, 2000);
    const heard: Heard = hear(port);
    await port.fence(reignOf(1));
    const [data, bulk, control] = net.clients.slice(-3) as [PipeStream, PipeStream, PipeStream];
    return { port, heard, data, bulk, control };
  };
  const append = (port: ReplicaPort, frame: MadeFrame) =>
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);

  it('keep the memory of what waits behind a slow request until it is written', async () => {
    const { port, heard, data } = await ready();
    const first = maker.next(500);
    append(port, first);
    await turns();
    const taker = data.other!;
    expect([heard.appended, taker.retained]).toEqual([1, 0]);
    disk.holdSyncs = true;
    const described = port.describe({ joining: false });
    const frames: MadeFrame[] = [];
    for (let i = 0; i < 12; i++) {
      frames.push(maker.next(3000));
      append(port, frames[i]!);
      if (i % 3 === 0) await turns(3);
    }
    await turns();
    expect([heard.appended, heard.lost]).toEqual([1, null]);
    expect(taker.retained).toBeGreaterThan(1);
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await described;
    await turns();
    expect([heard.appended, heard.lost, taker.retained]).toEqual([13, null, 0]);
    await synced(port);
    for (const frame of frames) {
      const found = await readBytes(port, frame.segment, frame.offset, frame.bytes.length);
      expect(found.equals(frame.bytes), `frame ${frame.lastSeq}`).toBe(true);
    }
  });

  it('come from an engine elsewhere: what they sealed leaves the page cache', async () => {
    const { port } = await ready();
    const frame = maker.next();
    append(port, frame);
    append(port, maker.seal());
    await synced(port);
    await turns();
    expect(disk.dropped).toEqual([segmentFileName(frame.segment)]);
  });

  it('are acknowledged although others behind them have to wait', async () => {
    const { port, heard } = await ready();
    append(port, maker.next());
    disk.holdSyncs = true;
    const described = port.describe({ joining: false });
    append(port, maker.next());
    await turns();
    expect(heard.appended).toBe(1);
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await described;
    await turns();
    expect(heard.appended).toBe(2);
  });

  it('are acknowledged before the answer to anything sent after them', async () => {
    const { port } = await ready();
    append(port, maker.next());
    await synced(port);
    const order: string[] = [];
    const { port: other } = await ready();
    other.listen({ appended: (seq) => order.push(`appended ${seq}`), lost: () => order.push('lost') });
    append(other, maker.next());
    // Durable already: the server can answer in the same turn.
    other.sync(1, (error) => order.push(error === null ? 'synced 1' : error.message));
    await turns();
    expect(order).toEqual(['appended 2', 'synced 1']);
  });

  it('send the same bytes to every replica, header included', async () => {
    const { host: second } = await freshHost();
    const secondServer = await WireServer.listen(net, 'any', { ...parts, source: second });
    const ends = [await ready(), await ready(secondServer.address)];
    const written = ends.map(({ data }) => {
      const pieces: unknown[] = [];
      const { write } = data;
      data.write = (bytes: Uint8Array, from?: number, to?: number) => {
        pieces.push(bytes, from);
        write.call(data, bytes, from, to);
      };
      return pieces;
    });
    for (let i = 0; i < 3; i++) {
      const frame = maker.next();
      for (const { port } of ends) append(port, frame);
    }
    expect(written[0]!.length).toBe(12);
    written[0]!.forEach((piece, i) => void expect(piece).toBe(written[1]![i]));
    await turns();
    expect(ends.map(({ heard }) => heard.appended)).toEqual([3, 3]);
    for (const { port } of ends) port.close();
    await secondServer.close();
    await second.close();
  });

  it('have headers of their own when anything differs', async () => {
    const { port, heard } = await ready();
    const frame = maker.next();
    append(port, frame);
    await turns();
    // The same bytes once more: a wrong place is what the replica must see, not the header of before.
    port.append(frame.segment, frame.offset + 4096, frame.bytes, frame.lastSeq);
    await turns();
    expect(heard.lost?.message).toMatch(/offset/);
  });

  it('do not let answers pile up that nobody takes', async () => {
    const { port, heard, control } = await ready();
    const frame = maker.next(64 * 1024);
    append(port, frame);
    await turns();
    const answers = control.other!;
    answers.stalled = true;
    let done = 0;
    const into = Array.from({ length: 1200 }, () => Buffer.alloc(60_000));
    for (const buffer of into) {
      port.read([{ segment: frame.segment, offset: 4096, into: buffer }], (error) => {
        if (error === null) done++;
      });
    }
    await turns(40);
    expect(done).toBe(0);
    expect(answers.unsentBytes).toBeGreaterThan(32 * MiB);
    expect(answers.unsentBytes).toBeLessThan(33 * MiB);
    answers.stalled = false;
    answers.schedule();
    await turns(60);
    expect([done, heard.lost]).toEqual([1200, null]);
    const expected = frame.bytes.subarray(4096, 64_096);
    expect(into.every((buffer) => buffer.equals(expected))).toBe(true);
  });
});
