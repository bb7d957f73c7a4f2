// NBD connections: requests of any kind and any numbers in any pieces, with garbage behind them, or a whole session out of joint. Every
// request is answered as the protocol document says; the device then holds exactly what a model of it holds; a client of another
// export on the same server reads and writes as if nothing were.
//
// An input: 0 or 1 (u8: whole session), size of the pieces it comes in (u8, times 16), then either a session's bytes or the number of
// requests (u16), 16 bytes for each (command, flags, offset, length), and garbage.

import type { Chance } from '../../lib/crash/virtual-time.js';
import { settle, socketPair } from '../../unit/nbd/fake-socket.js';
import { streamOf } from '../../unit/nbd/fake-stream.js';
import { go, Inbox, option, request, u16, u32, u64 } from '../../unit/nbd/raw-peer.js';
import { mutateBytes } from '../mutate.js';
import { type Attack, attack, errnoFor, SIZE, UNSENT_MAX } from '../nbd/rig.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

const ROW = 16;
const MAGIC = u32(0x25609513);
const handshake = (name: string) => Buffer.concat([u32(3), option(8), go(name, [3])]);
const row = (command: number, flags: number, offset: number, length: number) =>
  Buffer.concat([u16(command), u16(flags), u64(BigInt(offset)), u32(length)]);
const script = (rows: readonly Buffer[], garbage: Buffer = Buffer.alloc(0)) =>
  Buffer.concat([Buffer.from([0, 60]), u16(rows.length), ...rows, garbage]);

const session = Buffer.concat([
  ...[u32(3), option(3), option(0x48466331, Buffer.alloc(16, 3))],
  option(10, Buffer.concat([u32(3), Buffer.from('vol'), u32(1), u32(5), Buffer.from('base:')])),
  option(6, Buffer.concat([u32(3), Buffer.from('vol'), u16(2), u16(1), u16(2)])),
  ...[option(8), go('vol', [0, 1, 2, 3])],
  request({ command: 1, handle: 1n, offset: 100n, length: 300, payload: Buffer.alloc(300, 7) }),
  request({ command: 0, handle: 2n, offset: 0n, length: 512 }),
  request({ command: 4, flags: 1, handle: 4n, offset: 4096n, length: 4096 }),
  request({ command: 3, handle: 3n, length: 0 }),
  request({ command: 2, handle: 8n, length: 0 }),
]);

interface Asked {
  readonly command: number;
  readonly flags: number;
  readonly offset: bigint;
  readonly length: number;
}

class NbdBench implements FuzzBench {
  readonly seeds = [
    Buffer.concat([Buffer.from([1, 40]), session]),
    script([
      row(1, 0, 4096, 8192),
      row(0, 0, 4000, 1000),
      row(3, 0, 0, 0),
      row(4, 0, 5000, 100),
      row(6, 2, 8192, 4096),
    ]),
    script([row(1, 1, SIZE - 512, 512), row(0, 4, SIZE - 1, 1), row(1, 0, 0, 16_384), row(1, 0, 1, 16_385)]),
    script([0, 1, 4, 6].map((command) => row(command, 0, SIZE - 511, 512))),
    script([row(1, 0, 3, 5), row(2, 0, 0, 0)], Buffer.from('garbage')),
  ];

  mutate(input: Buffer, chance: Chance): Buffer {
    const bytes = mutateBytes(input, chance, chance.between(1, 4), 16 * 1024);
    if (bytes.length < 4 || chance.hit(0.5) || bytes[0] === 1) return bytes;
    // Offsets and lengths around the end, in the protocol's own byte order.
    const at = 4 + ROW * chance.below(Math.max(1, Math.min(bytes.readUInt16BE(2), (bytes.length - 4) / ROW)));
    if (at + ROW > bytes.length) return bytes;
    bytes.writeUInt16BE(chance.pick([0, 1, 1, 3, 4, 5, 6, 7, 9]), at);
    bytes.writeUInt16BE(chance.pick([0, 0, 1, 2, 4, 8, 16, 0xffff]), at + 2);
    const offset = chance.pick([
      0n,
      1n,
      511n,
      BigInt(SIZE) - 1n,
      BigInt(SIZE),
      1n << 32n,
      1n << 53n,
      1n << 63n,
      (1n << 64n) - 1n,
    ]);
    bytes.writeBigUInt64BE(BigInt.asUintN(64, offset + BigInt(chance.pick([-1, 0, 1, 512]))), at + 4);
    const length = chance.pick([1, 100, 512, 4096]);
    if (chance.hit(0.5)) {
      bytes.writeUInt16BE(chance.pick([0, 1, 4, 6]), at);
      bytes.writeUInt16BE(0, at + 2);
      bytes.writeBigUInt64BE(BigInt(SIZE - length + chance.between(-1, 2)), at + 4);
      bytes.writeUInt32BE(length, at + 12);
      return bytes;
    }
    bytes.writeUInt32BE(
      chance.pick([0, 1, 511, 512, 4096, 16_384, 16_385, SIZE, SIZE + 1, 0x7fffffff, 0xffffffff]),
      at + 12,
    );
    return bytes;
  }

  async run(input: Buffer): Promise<string> {
    if (input.length < 4) return 'no input';
    const attacked = attack();
    const honest = await Honest.make(attacked);
    attacked.far.chunkBytes = 7 + input[1]! * 16;
    const outcome = input[0] === 1 ? await wholeSession(attacked, input.subarray(2)) : await requests(attacked, input);
    await honest.goesOn(attacked);
    await gone(attacked);
    await honest.goesOn(attacked);
    honest.leave();
    return outcome;
  }

  async close(): Promise<void> {}
}

/** A client of the other export. */
class Honest {
  readonly #near;
  readonly #inbox: Inbox;
  readonly #model = Buffer.alloc(SIZE);
  #round = 0;

  private constructor({ server }: Attack) {
    const [near, far] = socketPair();
    this.#near = near;
    this.#inbox = new Inbox(near);
    server.serve(streamOf(far));
  }
  static async make(attacked: Attack): Promise<Honest> {
    const honest = new Honest(attacked);
    honest.#near.write(handshake('other'));
    await settle(6);
    honest.#inbox.bytes = Buffer.alloc(0);
    return honest;
  }
  async goesOn({ other }: Attack): Promise<void> {
    const offset = 1000 * ++this.#round;
    const payload = Buffer.alloc(700, this.#round);
    payload.copy(this.#model, offset);
    this.#near.write(request({ command: 1, handle: 1n, offset: BigInt(offset), length: 700, payload }));
    this.#near.write(request({ command: 0, handle: 2n, offset: BigInt(offset - 50), length: 800 }));
    await settle(8);
    must(this.#inbox.reply().error === 0, 'another client cannot write');
    const { error, data } = this.#inbox.reply(800);
    const read = Buffer.concat([data ?? Buffer.alloc(0)]);
    must(
      error === 0 && read.subarray(-800).equals(this.#model.subarray(offset - 50, offset + 750)),
      'another client reads other bytes',
    );
    must(other.bytes.equals(this.#model), 'the other export was changed');
  }
  leave(): void {
    this.#near.destroy();
  }
}

async function wholeSession({ near, far, device }: Attack, bytes: Buffer): Promise<string> {
  near.write(bytes);
  for (let i = 0; i < 12; i++) {
    await settle(2);
    if (i % 3 === 1) device.work();
    must(far.writableLength <= UNSENT_MAX, `${far.writableLength} bytes wait for a client that does not read`);
  }
  return `session ${device.log.length > 0} ${far.destroyed} ${near.destroyed}`;
}

async function requests(attacked: Attack, input: Buffer): Promise<string> {
  const { near, far, inbox, device } = attacked;
  near.write(handshake('vol'));
  await settle(4);
  for (let i = 0; i < 200 && inbox.bytes.length < 100; i++) await settle(2);
  inbox.bytes = Buffer.alloc(0);
  const model = Buffer.alloc(SIZE);
  const expected = new Map<bigint, number>();
  const count = Math.min(input.readUInt16BE(2), Math.floor((input.length - 4) / ROW), 60);
  let ended = false;
  let sent = 0;
  for (let i = 0; i < count && !ended; i++) {
    const at = 4 + i * ROW;
    const asked: Asked = {
      command: input.readUInt16BE(at),
      flags: input.readUInt16BE(at + 2),
      offset: input.readBigUInt64BE(at + 4),
      length: input.readUInt32BE(at + 12),
    };
    // A write's payload has to follow; of the largest it does not come in whole. After a goodbye nothing is answered.
    const cut = asked.command === 1 && asked.length > 100_000;
    const payload = asked.command === 1 ? Buffer.alloc(cut ? 5000 : asked.length, i + 1) : undefined;
    near.write(request({ ...asked, handle: BigInt(i), payload }));
    sent += 28 + (payload?.length ?? 0);
    ended = cut || asked.command === 2;
    if (ended) break;
    expected.set(BigInt(i), errnoFor(asked));
    if (expected.get(BigInt(i)) === 0) apply(model, asked, i + 1);
  }
  const garbage = input.subarray(4 + count * ROW);
  const harmless = !garbage.includes(MAGIC);
  if (!ended && harmless) near.write(garbage);
  const answers = await collect(attacked, expected.size, 300 + sent / far.chunkBytes);
  for (const [handle, error] of answers)
    must(expected.get(handle) === error, () => `request ${handle} got ${error}, not ${expected.get(handle)}`);
  // Garbage ends the connection, which may take the last answers with it; without any, all come.
  must(
    garbage.length > 0 || ended || answers.size === expected.size,
    () => `${answers.size} of ${expected.size} were answered`,
  );
  for (let i = 0; i < 4; i++) {
    await settle(2);
    device.work();
  }
  if (answers.size === expected.size) must(device.bytes.equals(model), 'the device holds what nobody wrote');
  return `${count > 3 ? 'many' : count} ${[...new Set(answers.values())].sort().join(',')} ${ended} ${near.destroyed}`;
}

async function collect({ inbox, device }: Attack, wanted: number, rounds: number): Promise<Map<bigint, number>> {
  const answers = new Map<bigint, number>();
  for (let i = 0; i < rounds && answers.size < wanted; i++) {
    await settle(2);
    device.work();
    while (inbox.bytes.length >= 16 && whole(inbox.bytes)) {
      const { handle, error } = inbox.reply();
      must(!answers.has(handle), `request ${handle} was answered twice`);
      answers.set(handle, error);
    }
  }
  return answers;
}

function whole(bytes: Buffer): boolean {
  if (bytes.readUInt32BE(0) === 0x67446698) return true;
  return bytes.length >= 20 && bytes.length >= 20 + bytes.readUInt32BE(16);
}

function apply(model: Buffer, { command, offset, length }: Asked, byte: number): void {
  const [from, to] = [Number(offset), Number(offset) + length];
  if (command === 1) model.fill(byte & 0xff, from, to);
  else if (command === 4 || command === 6) model.fill(0, from, to);
}

async function gone({ near, far, device, connection }: Attack): Promise<void> {
  far.chunkBytes = 64 * 1024;
  near.destroy();
  let drained = false;
  void connection.drained.then(() => {
    drained = true;
  });
  for (let i = 0; i < 300 && !drained; i++) {
    await settle(2);
    device.work();
  }
  must(drained && connection.inFlight === 0, 'the connection never ended');
}

export const nbd: FuzzTarget = {
  name: 'nbd',
  sources: ['nbd/server', 'nbd/messages', 'nbd/reply', 'nbd/export', 'nbd/errno'],
  shortCases: 100,
  open: async () => new NbdBench(),
};
