import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import {
  BlockRequestError,
  dialer,
  ExportTable,
  isConnectionLost,
  NbdClient,
  NbdServer,
} from '../../../src/nbd/index.js';
import { openNet } from '../../../src/transport/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';
import { type FakeSocket, settle, socketPair } from './fake-socket.js';
import { Inbox, u16, u32, u64 } from './raw-peer.js';

const MiB = 1024 * 1024;

describe('NbdClient over a real socket', () => {
  let dir = '';
  let server: NbdServer;
  let device: MemoryDevice;
  const exports = new ExportTable();
  const address = () => ({ path: join(dir, 's') });
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nbd-'));
    device = new MemoryDevice(40 * MiB);
    exports.remove('vol');
    exports.add({ name: 'vol', device });
    server = new NbdServer({ exports, logger: silentLogger });
    await server.listen(openNet(realClock), `unix:${address().path}`);
  });
  afterEach(async () => {
    await server.close();
    rmSync(dir, { recursive: true });
  });

  it('writes, reads, trims, zeroes and flushes, in any size and many at once', async () => {
    const client = await NbdClient.connect({ address: address() });
    expect([client.sizeBytes, client.readOnly]).toEqual([40 * MiB, false]);
    const big = Buffer.alloc(33 * MiB + 3);
    for (let i = 0; i < big.length; i += 4) big.writeUInt32LE((i * 2654435761) >>> 0, Math.min(i, big.length - 4));
    await client.write(5, big, { fua: true });
    expect(device.log.map(({ length, fua }) => [length, fua])).toEqual([
      [32 * MiB, true],
      [MiB + 3, true],
    ]);
    expect(device.bytes.subarray(5, 5 + big.length).equals(big)).toBe(true);
    expect((await client.read(5, big.length)).equals(big)).toBe(true);
    await Promise.all([client.trim(4096, 8192), client.writeZeroes(20_000, 100), client.flush()]);
    const target = Buffer.alloc(40_000, 1);
    await client.readInto(5, target);
    big.fill(0, 4096 - 5, 12_288 - 5).fill(0, 20_000 - 5, 20_100 - 5);
    expect(target.equals(big.subarray(0, 40_000))).toBe(true);
    device.log.length = 0;
    const lengths = Array.from({ length: 300 }, (_, i) => 1 + ((i * 7919) % 40_000));
    await Promise.all(lengths.map((length, i) => client.write(i * 40_000, big.subarray(i, i + length))));
    const read = await Promise.all(lengths.map((length, i) => client.read(i * 40_000, length)));
    expect(read.every((bytes, i) => bytes.equals(big.subarray(i, i + (lengths[i] ?? 0))))).toBe(true);
    expect(await client.read(0, 0)).toEqual(Buffer.alloc(0));
    await client.close();
  });

  it('reports what the server answered', async () => {
    const client = await NbdClient.connect({ address: address(), exportName: 'vol' });
    const past = await client.write(40 * MiB - 1, Buffer.alloc(2)).catch((error: unknown) => error);
    expect(past).toBeInstanceOf(BlockRequestError);
    expect(past).toMatchObject({ blockError: 'ENOSPC', code: 'RESOURCE_EXHAUSTED', reason: 'NoSpace' });
    expect(isConnectionLost(past)).toBe(false);
    await expect(client.read(40 * MiB, 1)).rejects.toMatchObject({ blockError: 'EINVAL' });
    await expect(client.trim(-1, 1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(client.read(Number.MAX_SAFE_INTEGER, 4096)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await client.close();
  });

  it('learns a new size out of band and can use it at once', async () => {
    const client = await NbdClient.connect({ address: address() });
    device.grow(41 * MiB);
    expect(await client.refreshSize()).toBe(41 * MiB);
    await client.write(40 * MiB, Buffer.from('new'));
    expect(device.bytes.toString('latin1', 40 * MiB, 40 * MiB + 3)).toBe('new');
    await client.close();
  });

  it('speaks TCP as well', async () => {
    const listener = await openNet(realClock).listen('127.0.0.1:0', (stream) => void server.serve(stream));
    const port = Number(listener.address.split(':')[1]);
    const client = await NbdClient.connect({ address: { host: '127.0.0.1', port }, exportName: 'vol' });
    await client.write(1000, Buffer.from('over tcp'));
    expect((await client.read(1000, 8)).toString()).toBe('over tcp');
    await client.close();
    await listener.close();
    await expect(NbdClient.connect({ address: { host: '127.0.0.1', port } })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });

  it('rejects when nobody listens, and when there is no such export', async () => {
    await expect(NbdClient.connect({ address: { path: join(dir, 'no') } })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    await expect(NbdClient.connect({ address: address(), exportName: 'no' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    await expect(NbdClient.connect({ address: address(), exportName: 'n'.repeat(5000) })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(() => dialer({ path: 'x'.repeat(108) })).toThrowError(/107/);
    await settle();
    expect(server.connections.size).toBe(0);
  });
});

/** A server played by hand: the handshake up to the size, then silence. */
async function played(): Promise<{
  client: NbdClient;
  far: FakeSocket;
  inbox: Inbox;
  say(...bytes: Buffer[]): Promise<void>;
}> {
  const [near, far] = socketPair();
  const inbox = new Inbox(far);
  const connecting = NbdClient.connect({ address: () => Promise.resolve(near), exportName: 'vol' });
  far.write(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), u16(3)]));
  far.write(optionReply(7, 3, Buffer.concat([u16(0), u64(4096n), u16(0x6d)])));
  far.write(optionReply(7, 1));
  const client = await connecting;
  const say = async (...bytes: Buffer[]): Promise<void> => {
    far.write(Buffer.concat(bytes));
    await settle();
  };
  await settle();
  expect(inbox.take(4)).toEqual(u32(3));
  expect(inbox.take(16).toString('hex')).toBe('49484156454f5054' + '00000007' + '0000000b');
  expect(inbox.take(11)).toEqual(Buffer.concat([u32(3), Buffer.from('vol'), u16(1), u16(3)]));
  return { client, far, inbox, say };
}

const optionReply = (number: number, type: number, data: Buffer = Buffer.alloc(0)) =>
  Buffer.concat([Buffer.from('0003e889045565a9', 'hex'), u32(number), u32(type), u32(data.length), data]);
const reply = (error: number, handle: Buffer, data: Buffer = Buffer.alloc(0)) =>
  Buffer.concat([u32(0x67446698), u32(error), handle, data]);

describe('NbdClient', () => {
  it('puts on the wire what the protocol says, all requests of a turn at once', async () => {
    const { client, inbox, far } = await played();
    far.peer!.sends = 0;
    const requests = [
      client.write(1, Buffer.from('ab'), { fua: true }),
      client.read(7, 3),
      client.flush(),
      client.writeZeroes(0, 9),
    ];
    await settle();
    expect(far.peer!.sends).toBe(1);
    const sent = [2, 0, 0, 0].map((payload) => {
      const head = inbox.take(28);
      return [head.toString('hex', 0, 8), head.toString('hex', 16, 28), inbox.take(payload).toString()];
    });
    expect(sent).toEqual([
      ['2560951300010001', '0000000000000001' + '00000002', 'ab'],
      ['2560951300000000', '0000000000000007' + '00000003', ''],
      ['2560951300000003', '0000000000000000' + '00000000', ''],
      ['2560951300000006', '0000000000000000' + '00000009', ''],
    ]);
    far.destroy();
    expect((await Promise.allSettled(requests)).map(({ status }) => status)).toEqual(Array(4).fill('rejected'));
  });

  it('matches answers in any order, cut anywhere', async () => {
    const { client, inbox, far, say } = await played();
    const reads = [client.read(0, 5), client.read(0, 4000), client.read(0, 1)];
    const flushed = expect(client.flush()).rejects.toMatchObject({ blockError: 'EINVAL' });
    await settle();
    const handles = [0, 1, 2, 3].map(() => inbox.take(28).subarray(8, 16));
    far.peer!.chunkBytes = 3;
    const data = Buffer.alloc(4000, 'xyz');
    await say(
      reply(0, handles[2]!, Buffer.from('c')),
      reply(0, handles[1]!, data),
      // An errno the protocol does not know.
      reply(4711, handles[3]!),
      reply(0, handles[0]!, Buffer.from('first')),
    );
    await settle(2000);
    expect(await Promise.all(reads)).toEqual([Buffer.from('first'), data, Buffer.from('c')]);
    await flushed;
  });

  it.each<[string, (handle: Buffer) => Buffer]>([
    ['bytes that are no reply', () => Buffer.alloc(16, 1)],
    ['an answer to nothing', () => reply(0, u64(12345n))],
    [
      'an answer to a slot of long ago',
      (handle) => reply(0, Buffer.concat([u32(handle.readUInt32BE(0) + 1), handle.subarray(4)])),
    ],
    ['the same answer twice', (handle) => Buffer.concat([reply(0, handle), reply(0, handle)])],
  ])('gives up a server that sends %s', async (_what, bytes) => {
    const { client, inbox, say } = await played();
    const closed = new Promise((resolve) => client.onClose(resolve));
    const flushed = client.flush().catch((error: unknown) => error);
    const other = client.read(0, 1);
    const lost = expect(other).rejects.toMatchObject({ reason: 'Protocol' });
    await settle();
    await say(bytes(inbox.take(28).subarray(8, 16)));
    await lost;
    await flushed;
    expect(await closed).toMatchObject({ reason: 'Protocol' });
    await expect(client.flush()).rejects.toMatchObject({ reason: 'Protocol' });
  });

  it('rejects what was pending when the server goes', async () => {
    const { client, far } = await played();
    const causes: unknown[] = [];
    client.onClose((error) => causes.push(error));
    const pending = [client.read(0, 512), client.flush()];
    await settle();
    far.destroy();
    const errors = await Promise.all(pending.map((promise) => promise.catch((error: unknown) => error)));
    expect(errors.map(isConnectionLost)).toEqual([true, true]);
    expect(causes.map(isConnectionLost)).toEqual([true]);
    expect(isConnectionLost(await client.flush().catch((error: unknown) => error))).toBe(true);
  });

  it('says goodbye on close() and waits for the server to go', async () => {
    const { client, far, inbox } = await played();
    const causes: unknown[] = [];
    client.onClose((error) => causes.push(error));
    const closing = client.close();
    await settle();
    expect(inbox.take(28).toString('hex', 0, 8)).toBe('2560951300000002');
    expect(causes).toEqual([]);
    far.end();
    await closing;
    expect(causes).toEqual([null]);
    await expect(client.flush()).rejects.toMatchObject({
      code: expect.stringMatching(/UNAVAILABLE|FAILED_PRECONDITION/),
    });
  });

  const greeting = Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), u16(3)]);
  const size = optionReply(7, 3, Buffer.concat([u16(0), u64(4096n), u16(1)]));
  it.each<[string, Buffer[], object]>([
    ['no NBD at all', [Buffer.from('HTTP/1.1 400 Bad Request\r\n')], { reason: 'Protocol' }],
    [
      'an oldstyle server',
      [Buffer.from('NBDMAGIC'), Buffer.from('0000420281861253', 'hex'), u64(4096n)],
      { reason: 'Protocol' },
    ],
    ['a server without fixed newstyle', [Buffer.from('NBDMAGICIHAVEOPT'), u16(0)], { reason: 'Protocol' }],
    ['a bad reply magic', [greeting, Buffer.alloc(20, 7)], { reason: 'Protocol' }],
    ['a reply to another option', [greeting, optionReply(6, 1)], { reason: 'Protocol' }],
    ['a reply of 4 GiB', [greeting, optionReply(7, 3).subarray(0, 16), u32(0xffffffff)], { reason: 'Protocol' }],
    ['an ACK without a size', [greeting, optionReply(7, 1)], { reason: 'Protocol' }],
    [
      'a size above 2^53',
      [greeting, optionReply(7, 3, Buffer.concat([u16(0), u64(1n << 60n), u16(1)]))],
      { reason: 'Protocol' },
    ],
    ['a truncated size', [greeting, optionReply(7, 3, Buffer.concat([u16(0), u32(1)]))], { reason: 'Protocol' }],
    [
      'blocks larger than a byte',
      [greeting, size, optionReply(7, 3, Buffer.concat([u16(3), u32(512), u32(4096), u32(MiB)]))],
      { reason: 'Protocol' },
    ],
    ['a refusal', [greeting, optionReply(7, 0x80000006, Buffer.from('no such thing'))], { code: 'NOT_FOUND' }],
    ['a shutdown', [greeting, optionReply(7, 0x80000007)], { code: 'UNAVAILABLE' }],
    ['a policy', [greeting, optionReply(7, 0x80000002)], { code: 'FAILED_PRECONDITION' }],
  ])('does not connect to %s', async (_what, bytes, error) => {
    const [near, far] = socketPair();
    const connecting = expect(NbdClient.connect({ address: () => Promise.resolve(near) })).rejects.toMatchObject(error);
    far.on('end', () => {});
    far.on('data', () => {});
    far.write(Buffer.concat(bytes));
    await connecting;
    expect(near.destroyed).toBe(true);
  });
});
