import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/index.js';
import type { BlockError, BlockRequest } from '../../../src/engine/index.js';
import { type ClientRequest, ExportTable, NbdServer, ReconnectingNbdClient } from '../../../src/nbd/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';
import { type FakeSocket, settle, socketPair } from './fake-socket.js';
import { streamOf } from './fake-stream.js';
import { ManualClock } from './manual-clock.js';

const clientId = '00000000-0000-4000-8000-00000000000a';
const BLOCK = 64;
const BLOCKS = 16;

/** A server that can be lost and come back, over a device that keeps requests until told. */
class World {
  readonly clock = new ManualClock();
  readonly device = new MemoryDevice(BLOCK * BLOCKS);
  held: BlockRequest[] = [];
  sockets: { near: FakeSocket; far: FakeSocket }[] = [];
  up = true;
  readonly exports = new ExportTable();
  server = this.#newServer();
  readonly client: ReconnectingNbdClient;

  constructor() {
    this.exports.add({ name: 'vol', device: this.device });
    this.device.intercept = (asked) => this.held.push(asked) > 0;
    this.client = new ReconnectingNbdClient({
      dial: () => {
        if (!this.up) return Promise.reject(new Error('connection refused'));
        const [near, far] = socketPair();
        this.sockets.push({ near, far });
        this.server.serve(streamOf(far));
        return Promise.resolve(near);
      },
      exportName: 'vol',
      clientId,
      clock: this.clock,
      logger: silentLogger,
    });
  }

  get newest(): { near: FakeSocket; far: FakeSocket } {
    return this.sockets[this.sockets.length - 1]!;
  }

  #newServer(): NbdServer {
    return new NbdServer({ exports: this.exports, logger: silentLogger });
  }

  /** kill -9 of the daemon: sockets close, what it had not done is never done. A new one starts. */
  killServer(): void {
    this.held = [];
    for (const { far } of this.sockets) far.destroy();
    this.server = this.#newServer();
  }

  /** The device gets to the `index`th request it keeps. */
  work(index: number): void {
    const [request] = this.held.splice(Math.max(0, index), 1);
    if (request === undefined) return;
    this.device.apply(request);
    request.complete(null);
  }

  async workAll(): Promise<void> {
    for (let i = 0; i < 200 && (this.client.outstanding > 0 || this.held.length > 0); i++) {
      while (this.held.length > 0) this.work(0);
      this.clock.pass(1000);
      await settle(6);
    }
  }
}

const write = (block: number, byte: number): ClientRequest => ({
  op: 'write',
  offset: block * BLOCK,
  length: BLOCK,
  fua: false,
  data: Buffer.alloc(BLOCK, byte),
});
const read = (block: number): ClientRequest => ({
  op: 'read',
  offset: block * BLOCK,
  length: BLOCK,
  fua: false,
  data: Buffer.alloc(BLOCK),
});
const flush: ClientRequest = { op: 'flush', offset: 0, length: 0, fua: false, data: null };

describe('ReconnectingNbdClient', () => {
  it('waits for its first connection, trying ever less often', async () => {
    const world = new World();
    world.up = false;
    const client = new ReconnectingNbdClient({
      dial: () => {
        attempts.push(world.clock.monotonicMs());
        return Promise.reject(new Error('refused'));
      },
      exportName: 'vol',
      clientId,
      clock: world.clock,
      logger: silentLogger,
    });
    const attempts: number[] = [];
    const states: string[] = [];
    client.onState((state, cause) => states.push(`${state} ${cause?.message}`));
    await settle(3);
    for (let i = 0; i < 4000; i += 10) {
      world.clock.pass(10);
      await settle(1);
    }
    const gaps = attempts.slice(1).map((at, i) => at - attempts[i]!);
    expect(gaps.slice(0, 5).map((gap) => Math.round(gap / 10) * 10)).toEqual([50, 100, 200, 400, 800]);
    expect(gaps.slice(5).every((gap) => gap >= 1000 && gap < 1050)).toBe(true);
    expect(client.state).toBe('connecting');
    expect(states).toEqual(['connecting refused']);
    const never = expect(client.connected()).rejects.toMatchObject({ reason: 'Closed' });
    await client.close();
    await never;
    await world.client.close();
  });

  it('replays what is unanswered, in order, behind one connection only, and tells of the pause', async () => {
    const world = new World();
    const { client, device } = world;
    const states: string[] = [];
    client.onState((state, cause) => states.push(cause === undefined ? state : `${state}: ${cause.message}`));
    await client.connected();
    const answers: string[] = [];
    const submit = (name: string, request: ClientRequest) =>
      client.submit(request, (error) => answers.push(`${name} ${error}`));
    submit('a', write(0, 1));
    submit('b', write(1, 2));
    submit('c', flush);
    await settle();
    world.work(1);
    await settle();
    expect(answers).toEqual(['b null']);
    world.up = false;
    world.killServer();
    await settle();
    expect([client.state, client.outstanding]).toEqual(['paused', 2]);
    submit('d', read(1));
    submit('e', { op: 'zero', offset: 0, length: 10, fua: true, data: null });
    world.clock.pass(500);
    await settle();
    device.log.length = 0;
    world.up = true;
    world.clock.pass(1000);
    await settle();
    expect(device.log.map(({ op, fua }) => [op, fua])).toEqual([
      ['write', false],
      ['flush', false],
      ['read', false],
      ['zero', true],
    ]);
    await world.workAll();
    expect(answers).toEqual(['b null', 'a null', 'c null', 'd null', 'e null']);
    expect(states).toEqual([
      'connected',
      'paused: NBD connection lost: closed by the server',
      'paused: connection refused',
      'connected',
    ]);
    expect(client.outstanding).toBe(0);
    await client.close();
    await settle();
    expect(world.sockets.every(({ near, far }) => near.destroyed && far.destroyed)).toBe(true);
  });

  it('takes ESHUTDOWN for a lost connection', async () => {
    const world = new World();
    await world.client.connected();
    const answers: (BlockError | null)[] = [];
    world.client.submit(write(0, 1), (error) => answers.push(error));
    world.client.submit(write(1, 2), (error) => answers.push(error));
    world.client.submit(write(2, 3), (error) => answers.push(error));
    await settle();
    world.held.splice(1, 1)[0]!.complete('ESHUTDOWN');
    await settle();
    expect([world.client.state, answers]).toEqual(['paused', []]);
    world.device.log.length = 0;
    await world.workAll();
    expect(world.device.log.map(({ offset }) => offset / BLOCK)).toEqual([0, 1, 2]);
    expect(answers).toEqual([null, null, null]);
    await world.client.close();
  });

  it('passes every other error on', async () => {
    const world = new World();
    await world.client.connected();
    const answers: (BlockError | null)[] = [];
    world.client.submit(write(0, 1), (error) => answers.push(error));
    await settle();
    world.held[0]!.complete('ENOSPC');
    await settle();
    expect(answers).toEqual(['ENOSPC']);
    await world.client.close();
  });

  it.each(['fail', 'close'] as const)(
    '%s() answers everything once, connected or not, and leaves nothing behind',
    async (how) => {
      for (const when of ['connected', 'paused', 'handshake']) {
        const world = new World();
        await world.client.connected();
        const answers: (BlockError | null)[] = [];
        const submit = () => world.client.submit(write(0, 1), (error) => answers.push(error));
        submit();
        submit();
        await settle();
        if (when !== 'connected') {
          world.up = when === 'handshake';
          world.killServer();
          await settle();
          world.clock.pass(1000);
          await settle(1);
          submit();
        }
        const submitted = when === 'connected' ? 2 : 3;
        if (how === 'fail') world.client.fail('EIO');
        const closed = world.client.close();
        submit();
        const expected = how === 'fail' ? 'EIO' : 'ESHUTDOWN';
        expect(answers).toEqual(Array(submitted + 1).fill(expected));
        await closed;
        await world.workAll();
        expect(answers.length).toBe(submitted + 1);
        expect(world.client.state).toBe(how === 'fail' ? 'failed' : 'closed');
        expect(world.sockets.every(({ near }) => near.destroyed)).toBe(true);
        expect(world.clock.waiting).toBe(0);
      }
    },
  );

  it('gives up a handshake that hangs', async () => {
    const world = new World();
    await world.client.connected();
    const { serve } = world.server;
    world.killServer();
    world.server.serve = () => undefined as never;
    await settle();
    world.clock.pass(1000);
    await settle();
    expect(world.sockets.length).toBe(2);
    world.server.serve = serve;
    world.clock.pass(30_000);
    await settle();
    expect(world.newest.near.destroyed).toBe(true);
    world.clock.pass(1000);
    await settle();
    expect(world.client.state).toBe('connected');
    await world.client.close();
  });

  it('grows with its export, and never attaches to a smaller one', async () => {
    const world = new World();
    await world.client.connected();
    world.device.grow(2 * BLOCK * BLOCKS);
    expect(world.client.sizeBytes).toBe(BLOCK * BLOCKS);
    expect(await world.client.refreshSize()).toBe(2 * BLOCK * BLOCKS);
    expect(world.client.sizeBytes).toBe(2 * BLOCK * BLOCKS);
    expect(world.client.state).toBe('connected');
    let answered = false;
    world.client.submit(write(BLOCKS, 1), () => {
      answered = true;
    });
    await settle();
    world.device.bytes = Buffer.alloc(BLOCK * BLOCKS);
    world.killServer();
    await settle();
    world.clock.pass(1000);
    await settle();
    expect([world.client.state, world.held.length]).toEqual(['paused', 0]);
    world.device.grow(3 * BLOCK * BLOCKS);
    await world.workAll();
    expect([world.client.state, world.client.sizeBytes, answered]).toEqual(['connected', 3 * BLOCK * BLOCKS, true]);
    await world.client.close();
  });

  it('refuses what can not be sent, without calling back', async () => {
    const world = new World();
    const bad: ClientRequest[] = [
      { ...write(0, 1), length: 65 },
      { ...write(0, 1), offset: -1 },
      { ...write(0, 1), data: null },
      { ...read(0), length: 0, data: Buffer.alloc(0) },
      { ...read(0), offset: 0.5 },
      { ...flush, length: 1 },
      { op: 'trim', offset: 0, length: 2 ** 32, fua: false, data: null },
      { op: 'write', offset: 0, length: 2 ** 25 + 1, fua: false, data: Buffer.alloc(2 ** 25 + 1) },
    ];
    for (const request of bad)
      expect(() => world.client.submit(request, () => expect.fail())).toThrowError(/range|buffer/);
    for (let i = 0; i < 16_384; i++) world.client.submit(flush, () => {});
    expect(() => world.client.submit(flush, () => expect.fail())).toThrowError(/unanswered/);
    await world.client.close();
  });

  // One writer per block, as a filesystem behaves; connections die in every way and at every moment. What was answered must be what
  // is there, at every read and at the end: an old connection's write that lands late is what this hunts.
  it('shows each block the last answered write, whatever happens to its connections', async () => {
    const acts = { submit: 12, oldest: 1, newest: 10, pass: 3, near: 3, far: 1, kill: 1, shut: 1, stall: 2 } as const;
    const step = fc.record({
      act: fc.oneof(
        ...Object.entries(acts).map(([act, weight]) => ({ weight, arbitrary: fc.constant(act as keyof typeof acts) })),
      ),
      block: fc.nat(2),
      turns: fc.integer({ min: 1, max: 10 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 40, maxLength: 150, size: 'max' }), async (steps) => {
        const world = new World();
        const { client } = world;
        const expected = Buffer.alloc(BLOCKS);
        const busy = new Set<number>();
        let next = 1;
        let submitted = 0;
        let answered = 0;
        const submit = (block: number): void => {
          if (busy.has(block)) return;
          busy.add(block);
          submitted++;
          const reading = next % 3 === 0;
          const byte = next++ & 0xff;
          const request = reading ? read(block) : write(block, byte);
          client.submit(request, (error) => {
            answered++;
            busy.delete(block);
            expect(error).toBe(null);
            if (reading) expect([...request.data!]).toEqual(Array(BLOCK).fill(expected[block]));
            else expected[block] = byte;
          });
        };
        for (const { act, block, turns } of steps) {
          if (act === 'submit') submit(block);
          else if (act === 'oldest') world.work(0);
          else if (act === 'newest') world.work(world.held.length - 1);
          else if (act === 'kill') world.killServer();
          else if (act === 'shut') world.held.splice(0, 1)[0]?.complete('ESHUTDOWN');
          else if (act === 'near') world.sockets.at(-1)?.near.destroy();
          else if (act === 'far') world.sockets.at(-1)?.far.destroy();
          else if (act === 'stall') world.sockets.at(-1)?.far.pause();
          world.clock.pass(act === 'pass' ? 1000 : 20);
          await settle(turns);
        }
        // Whatever still lies unread in an old socket gets its chance.
        for (const { far } of world.sockets) far.resume();
        await settle();
        await world.workAll();
        expect([client.outstanding, answered]).toEqual([0, submitted]);
        for (let block = 0; block < BLOCKS; block++) {
          expect(world.device.bytes[block * BLOCK]).toBe(expected[block]);
        }
        await client.close();
      }),
      { numRuns: 150 },
    );
  });
});
