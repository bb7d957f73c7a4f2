// One suite for both implementations, over TCP and over unix sockets.

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { type ByteStream, NativeNet, NodeNet, type StreamListener } from '../../../src/transport/index.js';
import type { SlabPool } from '../../../src/transport/slab-pool.js';
import { TestAuthority } from '../../lib/authority.js';
import { lcg } from '../../lib/recording-disk.js';
import { Probe } from './probe.js';

const turns = async (count: number) => {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};
const later = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

function noise(bytes: number, seed: number): Buffer {
  const random = lcg(seed);
  const buffer = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) buffer[i] = Math.floor(random() * 256);
  return buffer;
}

/** What node:net connects to. */
function place(address: string): { path: string } | { host: string; port: number } {
  if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) };
  const at = address.lastIndexOf(':');
  return { host: address.slice(0, at), port: Number(address.slice(at + 1)) };
}

const native = nativeBinding();
const authority = await TestAuthority.make();
// Keys change every few records, so that everything here crosses such changes.
const security = { trust: await authority.trust('storage/node-1'), logger: silentLogger, recordsPerKey: 5 };
const nets: Record<string, () => NodeNet | NativeNet> = {
  node: () => new NodeNet(realClock),
  'secured node': () => new NodeNet(realClock, security),
  ...(native === null
    ? {}
    : {
        native: () => new NativeNet(native, realClock),
        'secured native': () => new NativeNet(native, realClock, security),
      }),
};

describe('native streams', () => {
  it('are tested wherever cargo built them', () => {
    expect(native !== null || process.env.HOLDFAST_NATIVE === 'off' || !hasCargo()).toBe(true);
  });
});

function hasCargo(): boolean {
  return (process.env.PATH ?? '').split(':').some((folder) => {
    try {
      return statSync(join(folder, 'cargo')).isFile();
    } catch {
      return false;
    }
  });
}

for (const [kind, make] of Object.entries(nets)) {
  for (const family of ['tcp', 'unix'] as const) {
    describe(`${kind} streams over ${family}`, () => {
      let directory: string;
      let net: NodeNet | NativeNet;
      let listener: StreamListener;
      let accepted: ByteStream[];
      let waiting: ((stream: ByteStream) => void)[];
      const open: ByteStream[] = [];
      beforeEach(async () => {
        directory = mkdtempSync(join(tmpdir(), 'holdfast-transport-'));
        net = make();
        accepted = [];
        waiting = [];
        listener = await net.listen(family === 'tcp' ? '127.0.0.1:0' : `unix:${directory}/s`, (stream) => {
          const waiter = waiting.shift();
          if (waiter) waiter(stream);
          else accepted.push(stream);
        });
      });
      afterEach(async () => {
        for (const stream of open.splice(0)) stream.destroy();
        await listener.close();
        await turns(4);
        rmSync(directory, { recursive: true, force: true });
      });
      const acceptedOne = (): Promise<ByteStream> => {
        const here = accepted.shift();
        return here ? Promise.resolve(here) : new Promise((resolve) => waiting.push(resolve));
      };
      const raw = async (): Promise<[ByteStream, ByteStream]> => {
        const [client, server] = await Promise.all([net.connect(listener.address, 2000), acceptedOne()]);
        open.push(client, server);
        return [client, server];
      };
      const pair = async (): Promise<[Probe, Probe]> => {
        const [client, server] = await raw();
        return [new Probe(client), new Probe(server)];
      };
      const pool = (): SlabPool => net.pool;

      it('carries bytes both ways in order, whatever the pieces', async () => {
        const [client, server] = await pair();
        const data = noise(300_000, 1);
        for (let at = 0, step = 1; at < data.length; at += step, step = (step * 7 + 3) % 5000) {
          client.stream.write(data, at, Math.min(at + step, data.length));
          if (step % 5 === 0) client.stream.flush();
        }
        server.stream.write(data.subarray(0, 1000));
        server.stream.write(data, 5, 5);
        await server.until(() => server.bytes >= data.length);
        await client.until(() => client.bytes >= 1000);
        expect(server.all.equals(data)).toBe(true);
        expect(client.all.equals(data.subarray(0, 1000))).toBe(true);
      });

      it('sends what was queued at the end of the turn, in one piece, without a flush', async () => {
        const [client, server] = await pair();
        for (let i = 0; i < 200; i++) client.stream.write(Buffer.from([i]));
        await server.until(() => server.bytes === 200);
        expect(server.all).toEqual(Buffer.from(Array.from({ length: 200 }, (_, i) => i)));
        expect(server.chunks.length).toBeLessThan(8);
        // From within a handler, too.
        server.take = (_slab, from, to) => {
          server.stream.write(Buffer.from('ab'));
          server.stream.write(Buffer.from('cd'));
          return to - from;
        };
        client.stream.write(Buffer.from('x'));
        await client.until(() => client.bytes >= 4);
        expect(client.all.toString()).toBe('abcd');
      });

      it('keeps what a peer does not take, and says when it is gone', async () => {
        const [client, server] = await pair();
        server.stream.pause();
        const data = noise(6_000_000, 2);
        for (let at = 0; at < data.length; at += 100_000) client.stream.write(data, at, at + 100_000);
        client.stream.flush();
        await later(30);
        expect(server.bytes).toBe(0);
        expect(client.stream.unsentBytes).toBeGreaterThan(1_000_000);
        expect(client.drains).toBe(0);
        client.stream.write(data, 0, 10);
        server.stream.resume();
        await server.until(() => server.bytes === data.length + 10);
        await client.until(() => client.drains > 0);
        expect([client.stream.unsentBytes, client.drains]).toEqual([0, 1]);
        expect(server.all.equals(Buffer.concat([data, data.subarray(0, 10)]))).toBe(true);
      });

      it('offers what was left again, together with what follows', async () => {
        const [client, server] = await pair();
        const random = lcg(3);
        const data = noise(700_000, 4);
        let expectedAt = 0;
        server.take = (slab, from, to) => {
          const offered = slab.bytes.subarray(from, to);
          expect(offered.equals(data.subarray(expectedAt, expectedAt + offered.length))).toBe(true);
          const taken = random() < 0.2 ? 0 : Math.floor(random() * (to - from + 1));
          expectedAt += taken;
          return expectedAt + (to - from) - taken === data.length ? finish(to - from, taken) : taken;
        };
        const finish = (all: number, taken: number) => {
          expectedAt += all - taken;
          return all;
        };
        for (let at = 0; at < data.length; at += 10_000) {
          client.stream.write(data, at, at + 10_000);
          if (at % 30_000 === 0) await turns(1);
        }
        await server.until(() => expectedAt === data.length);
      });

      it('gathers a message larger than a slab in one place', async () => {
        const [client, server] = await pair();
        const large = Array.from({ length: 6 }, () => 3_000_000);
        const messages = [...large, 10, 250_000, 300_000, 1, 262_144, 70_000].map((size, i) => noise(size / 10, i));
        for (const [i, message] of messages.entries()) messages[i] = Buffer.concat(Array(10).fill(message));
        const seen: Buffer[] = [];
        server.take = (slab, from, to) => {
          let at = from;
          server.wanted = 0;
          while (to - at >= 4) {
            const size = 4 + slab.bytes.readUInt32LE(at);
            if (to - at < size) {
              server.wanted = size;
              break;
            }
            seen.push(Buffer.from(slab.bytes.subarray(at + 4, at + size)));
            at += size;
          }
          return at - from;
        };
        for (const message of messages) {
          const length = Buffer.alloc(4);
          length.writeUInt32LE(message.length);
          client.stream.write(length);
          client.stream.write(message);
        }
        await server.until(() => seen.length === messages.length);
        for (const [i, message] of messages.entries()) expect(seen[i]!.equals(message), `message ${i}`).toBe(true);
        await turns(2);
        expect(pool().idle).toBe(true);
        // The memory of one large message serves the next.
        expect(pool().made).toBeLessThan(5);
      });

      it('leaves retained bytes alone until they are released', async () => {
        const [client, server] = await pair();
        const held: { view: Buffer; copy: Buffer; release: () => void }[] = [];
        server.take = (slab, from, to) => {
          server.bytes += to - from;
          slab.retain();
          const view = slab.bytes.subarray(from, to);
          held.push({ view, copy: Buffer.from(view), release: () => slab.release() });
          if (held.length % 3 === 0) held.splice(Math.floor(held.length / 2), 1)[0]!.release();
          return to - from;
        };
        const data = noise(2_000_000, 5);
        for (let at = 0; at < data.length; at += 20_000) {
          client.stream.write(data, at, at + 20_000);
          await turns(1);
        }
        await server.until(() => server.bytes === data.length);
        expect(held.every(({ view, copy }) => view.equals(copy))).toBe(true);
        expect(pool().idle).toBe(false);
        for (const { release } of held) release();
        expect(pool().idle).toBe(true);
        expect(held[0]!.release).toThrow(/once too often/);
      });

      it('is silent while paused, then goes on with what was left', async () => {
        const [client, server] = await pair();
        let offers = 0;
        server.take = () => {
          offers++;
          server.stream.pause();
          return 0;
        };
        client.stream.write(Buffer.from('abc'));
        await server.until(() => offers === 1);
        client.stream.write(Buffer.from('def'));
        client.stream.end();
        await later(20);
        expect([offers, server.ends]).toEqual([1, 0]);
        server.take = (slab, from, to) => {
          server.keep(slab, from, to);
          return to - from;
        };
        server.stream.resume();
        expect(server.bytes).toBe(0);
        await server.until(() => server.ends === 1);
        expect(server.all.toString()).toBe('abcdef');
      });

      it('ends one side, then the other', async () => {
        const [client, server] = await pair();
        client.stream.write(noise(1_000_000, 6));
        client.stream.end();
        client.stream.write(Buffer.from('dropped'));
        await server.until(() => server.ends === 1);
        expect(server.bytes).toBe(1_000_000);
        expect([client.closes, server.closes]).toEqual([[], []]);
        server.stream.write(Buffer.from('last words'));
        server.stream.end();
        await client.until(() => client.closes.length === 1);
        await server.until(() => server.closes.length === 1);
        expect(client.all.toString()).toBe('last words');
        expect([client.closes, server.closes, client.ends]).toEqual([[null], [null], 1]);
        expect([client.stream.destroyed, server.stream.destroyed]).toEqual([true, true]);
      });

      it('hears of a reset in the middle of a message', async () => {
        const [client, server] = await pair();
        server.take = () => 0;
        server.wanted = 1000;
        client.stream.write(Buffer.alloc(100));
        server.stream.write(Buffer.alloc(100));
        client.take = () => 0;
        await later(10);
        // What the client has not read makes the system reset the connection.
        client.stream.pause();
        server.stream.write(Buffer.alloc(100));
        await later(10);
        client.stream.destroy(new Error('enough'));
        await server.until(() => server.closes.length === 1 || server.ends === 1);
        server.stream.destroy();
        await client.until(() => client.closes.length === 1);
        await server.until(() => server.closes.length === 1);
        expect(client.closes[0]?.message).toBe('enough');
        if (kind === 'native') expect(server.closes[0]).toMatchObject({ code: 'ECONNRESET' });
        await turns(2);
        expect(pool().idle).toBe(true);
      });

      it('drops what is queued when it is destroyed, from within a handler, too', async () => {
        const [client, server] = await pair();
        server.stream.pause();
        client.stream.write(Buffer.alloc(8_000_000));
        client.stream.flush();
        expect(client.stream.unsentBytes).toBeGreaterThan(0);
        client.stream.destroy();
        client.stream.destroy(new Error('not counted'));
        expect([client.stream.unsentBytes, client.closes.length]).toEqual([0, 0]);
        client.stream.write(Buffer.from('x'));
        client.stream.flush();
        client.stream.end();
        await client.until(() => client.closes.length === 1);
        await turns(3);
        expect([client.closes, client.drains]).toEqual([[null], 0]);
        server.take = (_slab, from, to) => {
          server.stream.destroy();
          return Math.floor((to - from) / 2);
        };
        server.stream.resume();
        await server.until(() => server.closes.length === 1);
        await turns(3);
        expect(pool().idle).toBe(true);
      });

      it('can be paused, ended or destroyed before it is started', async () => {
        const [one, other] = await raw();
        one.write(Buffer.from('early'));
        one.end();
        other.pause();
        await later(10);
        const late = new Probe(other);
        await later(10);
        expect(late.bytes).toBe(0);
        other.resume();
        await late.until(() => late.ends === 1);
        expect(late.all.toString()).toBe('early');
        one.destroy();
        const never = new Probe(one);
        await never.until(() => never.closes.length === 1);
        expect(never.closes).toEqual([null]);
      });

      it.skipIf(kind.startsWith('secured'))(
        'are closed when the peer is killed while they are paused with bytes unsent',
        async () => {
          const script = `const socket = require('node:net').connect(${JSON.stringify(place(listener.address))});
          socket.pause(); socket.on('error', () => {}); setInterval(() => {}, 1000);`;
          const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
          const probe = new Probe(await acceptedOne());
          open.push(probe.stream);
          probe.stream.write(Buffer.alloc(8 << 20));
          probe.stream.flush();
          probe.stream.pause();
          expect(probe.stream.unsentBytes).toBeGreaterThan(0);
          await later(50);
          child.kill('SIGKILL');
          await probe.until(() => probe.closes.length === 1);
        },
      );

      it('leaks neither descriptors nor memory over a thousand connections', async () => {
        await pair();
        const count = () => readdirSync('/proc/self/fd').length;
        const before = count();
        for (let round = 0; round < (kind.startsWith('secured') ? 10 : 50); round++) {
          const pairs = await Promise.all(Array.from({ length: 20 }, pair));
          for (const [i, [client, server]] of pairs.entries()) {
            client.stream.write(noise(5000, i));
            if (i % 3 === 0) server.take = () => 0;
          }
          await Promise.all(
            pairs.map(([, server]) => server.until(() => server.bytes >= 1 || server.take.length === 0)),
          );
          for (const [i, [client, server]] of pairs.entries()) {
            if (i % 2 === 0) client.stream.destroy();
            else client.stream.end();
            server.stream.destroy();
            client.stream.destroy();
          }
          await Promise.all(pairs.flat().map((probe) => probe.until(() => probe.closes.length === 1)));
        }
        await turns(5);
        expect(count()).toBeLessThanOrEqual(before + 1);
        expect(pool().idle).toBe(true);
        expect(open.splice(2).every((stream) => stream.destroyed)).toBe(true);
      });

      it('says why it can not listen or connect', async () => {
        await expect(net.listen(listener.address, () => {})).rejects.toMatchObject({
          code: 'FAILED_PRECONDITION',
          reason: 'AddressInUse',
        });
        const { address } = listener;
        await listener.close();
        await listener.close();
        await expect(net.connect(address, 1000)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
        for (const bad of [
          '',
          'host',
          'host:',
          ':1',
          'a:b:1',
          'host:70000',
          'h h:1',
          '[::1]',
          'unix:',
          `unix:${'x'.repeat(108)}`,
        ]) {
          await expect(net.connect(bad, 1000), bad).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
          await expect(
            net.listen(bad, () => {}),
            bad,
          ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
        }
      });
    });
  }

  describe(`${kind} nets`, () => {
    it('give a unix socket to its owner alone, replace a dead one and nothing else', async () => {
      const directory = mkdtempSync(join(tmpdir(), 'holdfast-transport-'));
      const net = make();
      const path = join(directory, 's');
      const listener = await net.listen(`unix:${path}`, (stream) => stream.destroy());
      expect(statSync(path).mode & 0o777).toBe(0o600);
      await listener.close();
      expect(readdirSync(directory)).toEqual([]);
      await expect(net.listen(`unix:${directory}/none/s`, () => {})).rejects.toMatchObject({ code: 'NOT_FOUND' });
      writeFileSync(path, 'precious');
      await expect(net.listen(`unix:${path}`, () => {})).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
      rmSync(path);
      await deadSocket(path);
      const again = await net.listen(`unix:${path}`, (stream) => stream.destroy());
      await again.close();
      rmSync(directory, { recursive: true });
    });

    it('find a name, and both kinds of addresses', async () => {
      const net = make();
      for (const host of ['localhost', '[::1]', '127.0.0.1']) {
        const listener = await net.listen(`${host}:0`, (stream) => stream.destroy());
        const port = Number(/:([0-9]+)$/.exec(listener.address)![1]);
        expect(listener.address).toBe(`${host}:${port}`);
        const stream = await net.connect(listener.address, 1000);
        expect(stream.peer).toBe(`${host === 'localhost' ? stream.peer.replace(/:[0-9]+$/, '') : host}:${port}`);
        stream.destroy();
        await listener.close();
      }
      await expect(net.connect('no-such-host.invalid:1', 1000)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    });

    it('give up a connection that nobody answers', async () => {
      const { address, end } = await silentListener();
      const startedMs = realClock.monotonicMs();
      await expect(make().connect(address, 100)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      const tookMs = realClock.monotonicMs() - startedMs;
      end();
      expect(tookMs).toBeGreaterThan(90);
      expect(tookMs).toBeLessThan(3000);
    });
  });
}

/** A listener of a stopped process with no place left for connections that wait: the system answers no further one. */
async function silentListener(): Promise<{ address: string; end: () => void }> {
  const script = `const server = require('node:net').createServer();
    server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(server.address().port));`;
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  const port = await new Promise<number>((resolve) => child.stdout.once('data', (text) => resolve(Number(text))));
  child.kill('SIGSTOP');
  const fillers = Array.from({ length: 4 }, () => connect(port, '127.0.0.1').on('error', () => {}));
  await later(100);
  const end = () => {
    for (const filler of fillers) filler.destroy();
    child.kill('SIGKILL');
  };
  return { address: `127.0.0.1:${port}`, end };
}

/** A socket file whose server is gone: what a killed process leaves. */
async function deadSocket(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${path}.live`, resolve));
  const { linkSync } = await import('node:fs');
  linkSync(`${path}.live`, path);
  await new Promise((resolve) => server.close(resolve));
}
