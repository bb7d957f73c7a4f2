import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import type { BlockRequest } from '../../../src/engine/index.js';
import { ExportTable, NbdClient, type NbdLimits, NbdServer } from '../../../src/nbd/index.js';
import { openNet } from '../../../src/transport/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';
import { type FakeSocket, settle, socketPair } from './fake-socket.js';
import { streamOf } from './fake-stream.js';
import { go, Inbox, option, request, u32 } from './raw-peer.js';

const CLIENT = 0x48466331;

function served(limits: Partial<NbdLimits> = {}) {
  const device = new MemoryDevice(1024 * 1024);
  const held: BlockRequest[] = [];
  device.intercept = (asked) => held.push(asked) > 0;
  const exports = new ExportTable();
  exports.add({ name: 'vol', device });
  const server = new NbdServer({ exports, logger: silentLogger, limits });
  return { device, held, exports, server };
}

interface Client {
  near: FakeSocket;
  far: FakeSocket;
  inbox: Inbox;
}

async function attach(server: NbdServer, id?: Buffer): Promise<Client> {
  const [near, far] = socketPair();
  const inbox = new Inbox(near);
  server.serve(streamOf(far));
  near.write(u32(3));
  if (id !== undefined) near.write(option(CLIENT, id));
  near.write(go('vol'));
  await settle();
  return { near, far, inbox };
}

const write = (byte: number) => request({ command: 1, handle: BigInt(byte), length: 1, payload: Buffer.of(byte) });

describe('ExportTable', () => {
  it('refuses names that are taken or that the protocol can not carry', () => {
    const { exports, device } = served();
    expect(() => exports.add({ name: 'vol', device })).toThrowError(/exists/);
    for (const name of ['', 'a\0b', 'ä'.repeat(2049)]) {
      expect(() => exports.add({ name, device })).toThrowError(/1 to 4096 bytes/);
    }
    expect(() => exports.add({ name: 'x', description: 'd'.repeat(4097), device })).toThrowError(/description/);
  });
});

describe('NbdServer', () => {
  it('drops the connections of an export that is removed, and no others', async () => {
    const { server, exports, held } = served();
    exports.add({ name: 'other', device: new MemoryDevice(4096) });
    const { near, inbox } = await attach(server);
    const [otherNear, otherFar] = socketPair();
    const other = new Inbox(otherNear);
    server.serve(streamOf(otherFar));
    otherNear.write(Buffer.concat([u32(3), go('other')]));
    near.write(write(1));
    await settle();
    exports.remove('vol');
    expect(held[0]!.cancelled).toBe(true);
    held[0]!.complete('ESHUTDOWN');
    await settle();
    expect(inbox.ended).toBe(true);
    expect(other.ended).toBe(false);
    expect(server.connections.size).toBe(1);
  });

  it('close() answers what is in flight, takes nothing more, and resolves when all are gone', async () => {
    const { server, held } = served();
    const { near, inbox } = await attach(server);
    inbox.bytes = Buffer.alloc(0);
    near.write(write(1));
    await settle();
    let closed = false;
    const closing = server.close().then(() => {
      closed = true;
    });
    near.write(write(2));
    await settle();
    expect([held.length, held[0]!.cancelled, closed]).toEqual([1, true, false]);
    held[0]!.complete(null);
    await closing;
    await settle();
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: 0 });
    expect(inbox.ended).toBe(true);
    const late = await attach(server);
    expect(late.inbox.ended).toBe(true);
  });

  it('never answers ESHUTDOWN to a client that comes back by itself: what is done is answered, then the connection ends', async () => {
    const { server, held, device } = served();
    const { near, inbox } = await attach(server, Buffer.alloc(16, 7));
    inbox.bytes = Buffer.alloc(0);
    near.write(Buffer.concat([write(1), write(2), request({ command: 0, handle: 3n, length: 512 })]));
    await settle();
    expect(held.length).toBe(3);
    held[0]!.complete(null);
    held[2]!.complete('ESHUTDOWN');
    near.write(write(4));
    await settle();
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: 0 });
    expect(inbox.bytes.length).toBe(0);
    expect(inbox.ended).toBe(true);
    expect([held.length, held[1]!.cancelled]).toEqual([3, true]);
    held[1]!.complete(null);
    await settle();
    expect(server.connections.size).toBe(0);
    // Nor when it is refused before it reaches the device, with a payload behind it.
    const next = await attach(server, Buffer.alloc(16, 7));
    next.inbox.bytes = Buffer.alloc(0);
    device.closed = true;
    next.near.write(write(5));
    await settle();
    expect([next.inbox.bytes.length, next.inbox.ended, held.length]).toEqual([0, true, 3]);
  });

  it('close() does not wait for a peer that reads nothing', async () => {
    const { server, device } = served();
    device.intercept = undefined;
    const { near, far } = await attach(server);
    near.pause();
    for (let i = 0; i < 8; i++) near.write(request({ command: 0, handle: 1n, length: 512 * 1024 }));
    await settle();
    expect(far.writableLength).toBeGreaterThan(0);
    near.write(request({ command: 2, handle: 1n, length: 0 }));
    await settle();
    await server.close();
    expect(far.destroyed).toBe(true);
  });

  it('refuses more connections than allowed', async () => {
    const { server } = served({ connectionsMax: 2 });
    const first = await attach(server);
    await attach(server);
    expect((await attach(server)).inbox.ended).toBe(true);
    first.near.destroy();
    await settle();
    expect((await attach(server)).inbox.ended).toBe(false);
  });

  it('serves a client that comes back only when nothing of its old connection can happen any more', async () => {
    const { server, held, device } = served();
    const id = Buffer.alloc(16, 7);
    const old = await attach(server, id);
    old.near.write(write(1));
    await settle();
    // These lie unread in the old socket when the client dies and comes back.
    old.far.pause();
    old.near.write(write(2));
    await settle();
    old.near.destroy();
    const back = await attach(server, id);
    back.inbox.take(18);
    expect(old.far.destroyed).toBe(true);
    expect(back.inbox.bytes.length).toBe(0);
    // And one that came back in between and left again does not hide the oldest from the newest.
    back.near.destroy();
    const again = await attach(server, id);
    again.inbox.take(18);
    expect(again.inbox.bytes.length).toBe(0);
    expect(held.map((asked) => asked.data?.[asked.dataAt])).toEqual([1]);
    device.apply(held[0]!);
    held[0]!.complete(null);
    await settle();
    expect(again.inbox.optionReply()).toMatchObject({ option: CLIENT, type: 1 });
    expect(again.inbox.optionReply()).toMatchObject({ option: 7, type: 3 });
    again.near.write(write(3));
    await settle();
    expect(held.slice(1).map((asked) => asked.data?.[asked.dataAt])).toEqual([3]);
  });

  it('leaves connections of other clients, and of clients without a name, alone', async () => {
    const { server } = served();
    const peers = [
      await attach(server),
      await attach(server, Buffer.alloc(16, 1)),
      await attach(server, Buffer.alloc(16, 2)),
    ];
    await attach(server);
    expect(peers.map(({ inbox }) => inbox.ended)).toEqual([false, false, false]);
    await attach(server, Buffer.alloc(16, 2));
    expect(peers.map(({ inbox }) => inbox.ended)).toEqual([false, false, true]);
  });
});

describe('listening', () => {
  it('serves whoever connects, and is gone after close()', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nbd-'));
    const { server, device } = served();
    device.intercept = undefined;
    const path = join(dir, 's');
    await server.listen(openNet(realClock), `unix:${path}`);
    const client = await NbdClient.connect({ address: { path }, exportName: 'vol' });
    await client.write(5, Buffer.from('all the way'));
    expect(device.bytes.toString('latin1', 5, 16)).toBe('all the way');
    await client.close();
    await server.close();
    expect(existsSync(path)).toBe(false);
    rmSync(dir, { recursive: true });
  });
});
