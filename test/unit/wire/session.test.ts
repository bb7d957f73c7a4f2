// Client and server against peers that misbehave, stall or vanish; time is the test's own.

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type Clock,
  type HoldfastError,
  type NodeId,
  type ReplicaId,
  realRandom,
  silentLogger,
} from '../../../src/base/index.js';
import type { ReplicaHost } from '../../../src/replica/index.js';
import { connectReplica, type ReplicaPort, WireServer } from '../../../src/wire/index.js';
import {
  encodeHeader,
  encodeReign,
  MESSAGE_HEADER_SIZE,
  type MessageFields,
  messageType,
  noReign,
} from '../../../src/wire/message.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { PipeNet, type PipeStream } from '../../lib/pipe-net.js';
import { freshHost, hear, nodeA, replicaA, synced } from '../../lib/replica-setup.js';
import { ManualClock } from '../nbd/manual-clock.js';

const turns = async (count = 20) => {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

async function failure(promise: Promise<unknown>): Promise<HoldfastError> {
  return await promise.then(
    () => Promise.reject(new Error('it did not fail')),
    (error) => error,
  );
}

describe('replica session', () => {
  let net: PipeNet;
  let clock: ManualClock;
  let host: ReplicaHost;
  let server: WireServer;
  beforeEach(async () => {
    net = new PipeNet();
    clock = new ManualClock();
    ({ host } = await freshHost());
    server = await WireServer.listen(net, 'any', { source: host, nodeId: nodeA, clock, logger: silentLogger });
  });
  afterEach(async () => {
    await server.close();
    await host.close();
  });
  const connect = (changes: { nodeId?: NodeId; replicaId?: ReplicaId; clock?: Clock } = {}): Promise<ReplicaPort> => {
    const options = {
      volumeId: volumeA,
      replicaId: replicaA,
      nodeId: nodeA,
      clock,
      random: realRandom,
      logger: silentLogger,
      ...changes,
    };
    return connectReplica(net, server.address, options, 2000);
  };
  const ready = async () => {
    const port = await connect();
    const heard = hear(port);
    await port.fence(reignOf(1));
    const [data, ...others] = net.clients.slice(-3) as [PipeStream, PipeStream, PipeStream];
    return { port, heard, data, others };
  };

  it('passes on why a replica is not served', async () => {
    expect(await failure(connect({ replicaId: '0b000000-0000-4000-8000-0000000000ee' as ReplicaId }))).toMatchObject({
      code: 'NOT_FOUND',
      reason: 'ReplicaLost',
    });
    expect(await failure(connect({ nodeId: 'node-b' as NodeId }))).toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringMatching(/node-a.*node-b/),
    });
    await turns();
    expect(net.clients.every((stream) => stream.destroyed)).toBe(true);
  });

  it('is lost as a whole when any of its three connections ends', async () => {
    for (const index of [0, 1, 2]) {
      const { port, heard, data, others } = await ready();
      const sockets = [data, ...others];
      sockets[index]!.other!.destroy();
      await turns();
      // Whoever asks must not take a broken connection for a replica that is gone for good.
      expect(heard.lost, `connection ${index}`).toMatchObject({ code: 'UNAVAILABLE', reason: 'Generic' });
      expect(sockets.map((stream) => stream.destroyed)).toEqual([true, true, true]);
      await failure(synced(port));
    }
  });

  it('gives a silent peer up after the timeout, not before, and only with something outstanding', async () => {
    const { port, heard, data } = await ready();
    clock.pass(60_000);
    await turns();
    expect(heard.lost).toBeNull();
    data.other!.stalled = true;
    const frame = new FrameMaker(reignOf(1)).next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    for (let second = 0; second < 5; second++) {
      clock.pass(1000);
      await turns(3);
      expect(heard.lost).toBeNull();
    }
    clock.pass(1000);
    await turns();
    expect(heard.lost?.message).toMatch(/acknowledged nothing for 5000 ms/);
    expect(clock.waiting).toBeLessThan(4);
  });

  it('notices a connection that hangs although the others answer', async () => {
    const { port, heard, others } = await ready();
    for (const socket of others) socket.other!.stalled = true;
    const confirmed = new Promise<Error | null>((resolve) => port.confirm(resolve));
    for (let second = 0; second < 8; second++) {
      clock.pass(1000);
      await turns(3);
    }
    expect((await confirmed)?.message).toMatch(/silent on its control connection/);
    expect(heard.lost).not.toBeNull();
  });

  it('waits longer for a slow disk whose server still answers', async () => {
    const { port, heard } = await ready();
    const { disk, host: slow } = await freshHost();
    const slowServer = await WireServer.listen(net, 'any', {
      source: slow,
      nodeId: nodeA,
      clock,
      logger: silentLogger,
    });
    const options = {
      volumeId: volumeA,
      replicaId: replicaA,
      nodeId: nodeA,
      clock,
      random: realRandom,
      logger: silentLogger,
    };
    const other = await connectReplica(net, slowServer.address, options, 2000);
    const otherHeard = hear(other);
    await other.fence(reignOf(1));
    const frame = new FrameMaker(reignOf(1)).next();
    other.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await turns();
    disk.holdSyncs = true;
    let done: Error | null | undefined;
    other.sync(1, (error) => {
      done = error;
    });
    for (let second = 0; second < 20; second++) {
      clock.pass(1000);
      await turns(4);
    }
    expect([done, otherHeard.lost]).toEqual([undefined, null]);
    disk.releaseSyncs();
    await turns();
    expect(done).toBeNull();
    disk.holdSyncs = true;
    other.describe({ sizeBytes: 5 }).catch(() => {});
    for (let second = 0; second < 31; second++) {
      clock.pass(1000);
      await turns(4);
    }
    expect(otherHeard.lost?.message).toMatch(/left a request unanswered/);
    expect(heard.lost).toBeNull();
    port.close();
    disk.releaseSyncs();
    disk.holdSyncs = false;
    await turns();
    await slowServer.close();
  });

  it('does not blame the peer for its own pause', async () => {
    let slept = 0;
    const waking: Clock = {
      monotonicMs: () => clock.monotonicMs() + slept,
      wallMs: () => 0,
      after: (delayMs, fn) => clock.after(delayMs, fn),
      sleep: (delayMs) => clock.sleep(delayMs),
    };
    const port = await connect({ clock: waking });
    const heard = hear(port);
    await port.fence(reignOf(1));
    const confirmed = new Promise<Error | null>((resolve) => port.confirm(resolve));
    slept = 60_000;
    clock.pass(1000);
    await turns();
    expect([await confirmed, heard.lost]).toEqual([null, null]);
  });

  it('delivers everything in the smallest pieces', async () => {
    const { port, heard, data } = await ready();
    data.pieceBytes = 11;
    data.other!.pieceBytes = 5;
    const maker = new FrameMaker(reignOf(1));
    for (const frame of [maker.next(), maker.next(900), maker.seal(), maker.next()])
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await synced(port);
    expect(heard).toMatchObject({ appended: 4, lost: null });
  });

  it('acknowledges once for all that one read brought', async () => {
    const { port, heard } = await ready();
    const maker = new FrameMaker(reignOf(1));
    for (let i = 0; i < 10; i++) {
      const frame = maker.next();
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    }
    await turns();
    expect(heard).toMatchObject({ appended: 10, acks: 1 });
  });
});

describe('replica server', () => {
  let net: PipeNet;
  let clock: ManualClock;
  let host: ReplicaHost;
  let server: WireServer;
  beforeEach(async () => {
    net = new PipeNet();
    clock = new ManualClock();
    ({ host } = await freshHost());
    server = await WireServer.listen(net, 'any', { source: host, nodeId: nodeA, clock, logger: silentLogger });
  });
  afterEach(async () => {
    await server.close();
    await host.close();
  });

  /** A client that says whatever the test wants. */
  async function raw() {
    const socket = await net.connect(server.address);
    const received: Buffer[] = [];
    let closed = false;
    socket.start({
      wanted: 0,
      received: (slab, from, to) => {
        received.push(Buffer.from(slab.bytes.subarray(from, to)));
        return to - from;
      },
      drained: () => {},
      ended: () => socket.destroy(),
      closed: () => {
        closed = true;
      },
    });
    const send = (fields: MessageFields, body: Buffer = Buffer.alloc(0), reign = noReign) => {
      const header = Buffer.alloc(MESSAGE_HEADER_SIZE);
      encodeHeader(header, 0, fields, reign, body.length, null, 1);
      socket.write(Buffer.concat([header, body]));
    };
    const json = (fields: MessageFields, value: unknown, reign = noReign) =>
      send(fields, Buffer.from(JSON.stringify(value)), reign);
    return { socket, send, json, text: () => Buffer.concat(received).toString('latin1'), isClosed: () => closed };
  }
  const hello = (changes: object = {}) => ({
    minVersion: 1,
    maxVersion: 1,
    volumeId: volumeA,
    replicaId: replicaA,
    channel: 'data',
    session: realRandom.uuid(),
    ...changes,
  });
  const helloFields = { type: messageType.hello, requestId: 1 };

  it('ends a connection that says nothing, nonsense, or the wrong thing first', async () => {
    const silent = await raw();
    clock.pass(9_999);
    await turns();
    expect(silent.isClosed()).toBe(false);
    clock.pass(1);
    await turns();
    expect(silent.isClosed()).toBe(true);
    const firsts: ((client: Awaited<ReturnType<typeof raw>>) => void)[] = [
      (client) => client.socket.write(Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(5))),
      (client) => client.send({ type: messageType.append, requestId: 1 }),
      (client) => client.send({ type: messageType.fence, requestId: 1 }),
      (client) => client.send(helloFields, Buffer.from('{')),
      (client) => client.send(helloFields, Buffer.from('null')),
      (client) => client.send(helloFields, Buffer.alloc(20_000, 32)),
      (client) => client.json(helloFields, hello({ volumeId: '../../etc' })),
      (client) => client.json(helloFields, hello({ channel: 'x' })),
      (client) => client.json(helloFields, hello({ minVersion: 2, maxVersion: 9 })),
      (client) => client.json(helloFields, hello({ channel: 'bulk' })),
    ];
    for (const [i, first] of firsts.entries()) {
      const client = await raw();
      first(client);
      await turns();
      expect(client.isClosed(), `case ${i}`).toBe(true);
    }
  });

  it('ends a session at any malformed request and goes on serving others', async () => {
    const reign = encodeReign(reignOf(1));
    const bad: ((client: Awaited<ReturnType<typeof raw>>) => void)[] = [
      (client) => client.send({ type: messageType.confirm, requestId: 3 }, undefined, reign),
      (client) => client.send({ type: messageType.read, requestId: 3 }, Buffer.alloc(24), reign),
      (client) => client.send({ type: messageType.reply, requestId: 3 }, undefined, reign),
      (client) => client.send({ type: 200 as never, requestId: 3 }, undefined, reign),
      (client) => client.json({ type: messageType.describe, requestId: 3 }, { sizeBytes: -1 }, reign),
      (client) => client.json({ type: messageType.describe, requestId: 3 }, { members: {} }, reign),
      (client) =>
        client.json(
          { type: messageType.describe, requestId: 3 },
          { flushed: { epoch: 1, seq: 1, digest: 'zz' } },
          reign,
        ),
      (client) => client.json({ type: messageType.describe, requestId: 3 }, [], reign),
      (client) =>
        client.json(
          { type: messageType.deleteSegments, requestId: 3 },
          { segments: [{ epoch: 1, ordinal: 2 ** 40 }] },
          reign,
        ),
      (client) => client.json({ type: messageType.clone, requestId: 3 }, { superblock: {}, segments: [] }, reign),
      (client) => client.send({ type: messageType.sync, requestId: 3 }, Buffer.alloc(1), reign),
      (client) =>
        client.send(
          { type: messageType.append, requestId: 3, a: 1, b: 1, c: 1 },
          Buffer.from('no segment header'),
          reign,
        ),
    ];
    for (const [i, say] of bad.entries()) {
      const client = await raw();
      client.json(helloFields, hello());
      await turns(6);
      client.send({ type: messageType.fence, requestId: 2 }, undefined, reign);
      await turns(6);
      expect(client.text(), `case ${i}`).toContain('cacheSurvived');
      say(client);
      await turns();
      expect(client.isClosed(), `case ${i}`).toBe(true);
    }
    const options = {
      volumeId: volumeA,
      replicaId: replicaA,
      nodeId: nodeA,
      clock,
      random: realRandom,
      logger: silentLogger,
    };
    const port = await connectReplica(net, server.address, options, 2000);
    hear(port);
    expect((await port.fence(reignOf(1))).end.seq).toBe(0);
  });

  it('refuses a message of another reign than the session has, without doing it', async () => {
    const client = await raw();
    client.json(helloFields, hello());
    await turns(6);
    client.send({ type: messageType.fence, requestId: 2 }, undefined, encodeReign(reignOf(5)));
    await turns(6);
    const frame = new FrameMaker(reignOf(5)).next();
    client.send(
      { type: messageType.append, requestId: 0, a: 5, b: 1, c: 1, d: 0 },
      frame.bytes,
      encodeReign(reignOf(4)),
    );
    client.send({ type: messageType.sync, requestId: 9, a: 1 }, undefined, encodeReign(reignOf(4)));
    await turns();
    expect(client.text()).toContain('StaleReign');
    expect(host.status(null)[0]!.storedBytes).toBe(0);
  });

  it('does not let another session use its number', async () => {
    const first = await raw();
    const greeting = hello();
    first.json(helloFields, greeting);
    await turns(6);
    const second = await raw();
    second.json(helloFields, greeting);
    const third = await raw();
    third.json(helloFields, { ...greeting, channel: 'bulk', replicaId: '0b000000-0000-4000-8000-0000000000ee' });
    await turns();
    expect([first.isClosed(), second.isClosed(), third.isClosed()]).toEqual([false, true, true]);
  });
});
