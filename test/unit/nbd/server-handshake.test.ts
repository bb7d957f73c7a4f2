import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/index.js';
import { ExportTable, NbdServer } from '../../../src/nbd/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';
import { type FakeSocket, settle, socketPair } from './fake-socket.js';
import { streamOf } from './fake-stream.js';
import { go, IHAVEOPT, Inbox, option, u16, u32 } from './raw-peer.js';

const MiB = 1024 * 1024;
const ACK = 1;
const ERR_UNSUP = 0x80000001;
const ERR_POLICY = 0x80000002;
const ERR_INVALID = 0x80000003;
const ERR_UNKNOWN = 0x80000006;
const ERR_SHUTDOWN = 0x80000007;
const ERR_TOO_BIG = 0x80000009;

interface Peer {
  socket: FakeSocket;
  inbox: Inbox;
  say(...bytes: Buffer[]): Promise<void>;
}

function table(): { exports: ExportTable; one: MemoryDevice; two: MemoryDevice } {
  const exports = new ExportTable();
  const one = new MemoryDevice(8 * MiB);
  const two = new MemoryDevice(4 * MiB);
  Object.assign(two, { readOnly: true });
  exports.add({ name: 'one', description: 'the first', device: one });
  exports.add({ name: 'two', device: two });
  return { exports, one, two };
}

async function connect(exports: ExportTable, clientFlags: number | null = 3): Promise<Peer> {
  const [socket, far] = socketPair();
  new NbdServer({ exports, logger: silentLogger }).serve(streamOf(far));
  const inbox = new Inbox(socket);
  const say = async (...bytes: Buffer[]): Promise<void> => {
    for (const piece of bytes) socket.write(piece);
    await settle();
  };
  await settle();
  expect(inbox.take(18).toString('hex')).toBe('4e42444d41474943' + '49484156454f5054' + '0003');
  if (clientFlags !== null) await say(u32(clientFlags));
  return { socket, inbox, say };
}

describe('nbd server handshake', () => {
  it('answers GO with size, flags and what was asked for, then serves', async () => {
    const { inbox, say } = await connect(table().exports);
    await say(go('one', [3, 1, 2, 77, 3]));
    const replies = [inbox.optionReply(), inbox.optionReply(), inbox.optionReply(), inbox.optionReply()];
    expect(replies.map((reply) => [reply.option, reply.type])).toEqual(Array(4).fill([7, 3]));
    const data = replies.map((reply) => reply.data.toString('hex'));
    // HAS_FLAGS | FLUSH | FUA | TRIM | WRITE_ZEROES | CAN_MULTI_CONN | FAST_ZERO, no DF without structured replies.
    expect(data).toContain('0000' + '0000000000800000' + '096d');
    expect(data).toContain(`0001${Buffer.from('one').toString('hex')}`);
    expect(data).toContain(`0002${Buffer.from('the first').toString('hex')}`);
    expect(data).toContain('0003' + '00000001' + '00001000' + '02000000');
    expect(inbox.optionReply()).toMatchObject({ option: 7, type: ACK });
    expect(inbox.bytes.length).toBe(0);
  });

  it('announces DF only with structured replies, and neither TRIM nor WRITE_ZEROES on a read-only export', async () => {
    const { inbox, say } = await connect(table().exports);
    await say(option(8));
    expect(inbox.optionReply()).toMatchObject({ option: 8, type: ACK });
    await say(go('two'));
    // HAS_FLAGS | READ_ONLY | FLUSH | FUA | DF | CAN_MULTI_CONN
    expect(inbox.optionReply().data.readUInt16BE(10)).toBe(0x018f);
  });

  it.each([
    ['without zeroes', 3, 10],
    ['with 124 zeroes', 1, 134],
  ])('answers EXPORT_NAME %s', async (_what, flags, bytes) => {
    const { inbox, say } = await connect(table().exports, flags);
    await say(option(1, Buffer.from('two')));
    const reply = inbox.take(bytes);
    expect(reply.toString('hex', 0, 10)).toBe('0000000000400000' + '010f');
    expect(reply.subarray(10).every((byte) => byte === 0)).toBe(true);
    expect(inbox.bytes.length).toBe(0);
    expect(inbox.ended).toBe(false);
  });

  it('lists exports with their descriptions', async () => {
    const { inbox, say } = await connect(table().exports);
    await say(option(3));
    expect(inbox.optionReply()).toMatchObject({ type: 2, data: Buffer.concat([u32(3), Buffer.from('onethe first')]) });
    expect(inbox.optionReply()).toMatchObject({ type: 2, data: Buffer.concat([u32(3), Buffer.from('two')]) });
    expect(inbox.optionReply()).toMatchObject({ type: ACK });
  });

  it('takes the empty name for the only export, and for none of several', async () => {
    const { exports } = table();
    const several = await connect(exports);
    await several.say(go(''));
    expect(several.inbox.optionReply().type).toBe(ERR_UNKNOWN);
    exports.remove('one');
    await several.say(go(''));
    expect(several.inbox.optionReply().data.toString('hex', 2, 10)).toBe('0000000000400000');
  });

  it.each<[string, Buffer, number]>([
    ['an unknown option', option(99, Buffer.from('abc')), ERR_UNSUP],
    ['STARTTLS', option(5), ERR_POLICY],
    ['an unknown export', go('three'), ERR_UNKNOWN],
    ['a name longer than the data', option(7, Buffer.concat([u32(9), Buffer.from('one'), u16(0)])), ERR_INVALID],
    ['a name of 4 GiB', option(7, Buffer.concat([u32(0xffffffff), Buffer.from('one'), u16(0)])), ERR_INVALID],
    ['a name above 4096 bytes', go('n'.repeat(4097)), ERR_INVALID],
    ['more kinds than follow', option(7, Buffer.concat([u32(3), Buffer.from('one'), u16(2), u16(3)])), ERR_INVALID],
    ['INFO without data', option(6), ERR_INVALID],
    ['LIST with data', option(3, Buffer.from('x')), ERR_INVALID],
    ['STRUCTURED_REPLY with data', option(8, Buffer.from('x')), ERR_INVALID],
    [
      'meta contexts before structured replies',
      option(11, Buffer.concat([u32(3), Buffer.from('one'), u32(0)])),
      ERR_INVALID,
    ],
    ['a client id of the wrong length', option(0x48466331, Buffer.alloc(15)), ERR_INVALID],
    ['more option data than is read', option(99, Buffer.alloc(64 * 1024 + 1)), ERR_TOO_BIG],
  ])('refuses %s and goes on', async (_what, bytes, type) => {
    const { inbox, say } = await connect(table().exports);
    await say(bytes, go('one'));
    expect(inbox.optionReply().type).toBe(type);
    expect(inbox.optionReply().type).toBe(3);
    expect(inbox.optionReply().type).toBe(ACK);
  });

  it('offers no meta contexts', async () => {
    const { inbox, say } = await connect(table().exports);
    const query = Buffer.concat([u32(3), Buffer.from('one'), u32(1), u32(15), Buffer.from('base:allocation')]);
    await say(option(8), option(10, query), option(11, query), option(11, query.subarray(0, -1)));
    const types = [0, 1, 2, 3].map(() => inbox.optionReply().type);
    expect(types).toEqual([ACK, ACK, ACK, ERR_INVALID]);
    expect(inbox.bytes.length).toBe(0);
  });

  it('acknowledges ABORT and closes', async () => {
    const { inbox, say } = await connect(table().exports);
    await say(option(2));
    expect(inbox.optionReply()).toMatchObject({ option: 2, type: ACK });
    expect(inbox.ended).toBe(true);
  });

  it('tells that a closed volume is shut down', async () => {
    const { exports, one } = table();
    const { inbox, say } = await connect(exports);
    one.close();
    await say(go('one'));
    expect(inbox.optionReply().type).toBe(ERR_SHUTDOWN);
  });

  it.each<[string, number | null, Buffer]>([
    ['unknown client flags', null, u32(4)],
    ['a bad option magic', 3, Buffer.alloc(16)],
    ['EXPORT_NAME of an unknown export', 3, option(1, Buffer.from('three'))],
    ['EXPORT_NAME above 4096 bytes', 3, option(1, Buffer.alloc(4097, 0x6e))],
    ['EXPORT_NAME above 64 KiB', 3, option(1, Buffer.alloc(70_000, 0x6e))],
    ['an option of 2^32-1 bytes', 3, Buffer.concat([IHAVEOPT, u32(99), u32(0xffffffff)])],
    ['options without end', 3, Buffer.concat(Array.from({ length: 200 }, () => option(99)))],
  ])('closes on %s', async (_what, flags, bytes) => {
    const { inbox, say } = await connect(table().exports, flags);
    await say(bytes);
    expect(inbox.ended).toBe(true);
    expect(inbox.bytes.length).toBeLessThanOrEqual(128 * 40);
  });

  it('does not care how its bytes are cut', async () => {
    const { inbox, socket, say } = await connect(table().exports, null);
    for (const byte of Buffer.concat([u32(3), option(99, Buffer.alloc(5)), go('one', [3])]))
      socket.write(Buffer.of(byte));
    if (socket.peer !== undefined) socket.peer.chunkBytes = 1;
    await say();
    await settle(200);
    const types = [0, 1, 2, 3].map(() => inbox.optionReply().type);
    expect(types).toEqual([ERR_UNSUP, 3, 3, ACK]);
  });
});
