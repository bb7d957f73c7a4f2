// Streams between secured nets: each implementation with the other, who is refused and how both sides learn of it, and certificates
// that change while connections stand.

import { createHash, randomBytes } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import { nativeBinding } from '../../../src/hotpath/index.js';
import {
  type ByteStream,
  NativeNet,
  NodeNet,
  type StreamListener,
  type StreamNet,
} from '../../../src/transport/index.js';
import { type Credentials, PENDING_MAX, ToldTrust, type Trust, uriOf } from '../../../src/trust/index.js';
import { LogLines, TestAuthority } from '../../lib/authority.js';
import { lcg } from '../../lib/recording-disk.js';
import { Probe } from './probe.js';

const native = nativeBinding();
type Make = (trust: Trust, logger?: LogLines, recordsPerKey?: number) => StreamNet;
const kinds: Record<string, Make> = {
  node: (trust, logger, recordsPerKey) =>
    new NodeNet(realClock, { trust, logger: logger ?? silentLogger, recordsPerKey }),
  ...(native === null
    ? {}
    : {
        native: (trust: Trust, logger?: LogLines, recordsPerKey?: number) =>
          new NativeNet(native, realClock, { trust, logger: logger ?? silentLogger, recordsPerKey }),
      }),
};
const plain: Record<string, () => StreamNet> = {
  node: () => new NodeNet(realClock),
  ...(native === null ? {} : { native: () => new NativeNet(native, realClock) }),
};

const authority = await TestAuthority.make();
const stranger = await TestAuthority.make();
const otherCluster = await TestAuthority.make('other');
const server = await authority.trust('storage/node-1');
const client = await authority.trust('storage/node-2');

const closing: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

async function listen(
  net: StreamNet,
): Promise<{ address: string; next: () => Promise<ByteStream>; count: () => number }> {
  const accepted: ByteStream[] = [];
  const waiting: ((stream: ByteStream) => void)[] = [];
  let count = 0;
  const listener: StreamListener = await net.listen('127.0.0.1:0', (stream) => {
    count++;
    closing.push(() => stream.destroy());
    const waiter = waiting.shift();
    if (waiter) waiter(stream);
    else accepted.push(stream);
  });
  closing.push(() => listener.close());
  const next = () => {
    const here = accepted.shift();
    return here ? Promise.resolve(here) : new Promise<ByteStream>((resolve) => waiting.push(resolve));
  };
  return { address: listener.address, next, count: () => count };
}

const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

/** How a connection attempt ended: at once, or with the first thing that was to be read. */
async function refusal(net: StreamNet, address: string): Promise<string> {
  let stream: ByteStream;
  try {
    stream = await net.connect(address, 3000);
  } catch (error) {
    return (error as Error).message;
  }
  const probe = new Probe(stream);
  // As every protocol here does, the one who connects speaks first.
  stream.write(Buffer.alloc(100));
  await probe.until(() => probe.closes.length > 0 || probe.ends > 0);
  stream.destroy();
  expect(probe.bytes).toBe(0);
  return probe.closes[0]?.message ?? 'ended';
}

async function line(log: LogLines): Promise<string> {
  for (let i = 0; i < 200 && log.lines.length === 0; i++) await realClock.sleep(10);
  return log.lines.join('\n');
}

for (const [serverKind, makeServer] of Object.entries(kinds)) {
  for (const [clientKind, makeClient] of Object.entries(kinds)) {
    describe(`a ${clientKind} client of a ${serverKind} server`, () => {
      it('knows whom it speaks with, and is known', async () => {
        const { address, next } = await listen(makeServer(server));
        const near = await makeClient(client).connect(address, 3000);
        closing.push(() => near.destroy());
        const far = await next();
        expect([uriOf(near.identity!), uriOf(far.identity!)]).toEqual([
          'spiffe://demo/holdfast/storage/node-1',
          'spiffe://demo/holdfast/storage/node-2',
        ]);
      });

      it('carries large amounts both ways at once, held up at times, over changes of keys', async () => {
        const { address, next } = await listen(makeServer(server, undefined, 7));
        const near = new Probe(await makeClient(client, undefined, 11).connect(address, 3000));
        closing.push(() => near.stream.destroy());
        const far = new Probe(await next());
        const size = 6_000_000;
        const checks: (() => Promise<void>)[] = [];
        for (const [from, to] of [
          [near, far],
          [far, near],
        ] as const) {
          const data = randomBytes(size);
          const hash = createHash('sha256');
          let bytes = 0;
          to.take = (slab, start, end) => {
            // Leaves a part at times, and pauses at times.
            const all = end - start;
            const count = bytes % 3 === 0 && bytes + all < size ? Math.ceil(all / 2) : all;
            hash.update(slab.bytes.subarray(start, start + count));
            bytes += count;
            if (bytes < size && bytes % 5 === 0) {
              to.stream.pause();
              setTimeout(() => to.stream.resume(), 2);
            }
            return count;
          };
          for (let at = 0, step = 1; at < size; at += step, step = (step * 7 + 11) % 90_000) {
            from.stream.write(data, at, Math.min(size, at + step));
            if (step % 4 === 0) from.stream.flush();
          }
          from.stream.end();
          checks.push(async () => {
            await to.until(() => to.ends === 1);
            expect([bytes, hash.digest('hex')]).toEqual([size, digest(data)]);
          });
        }
        for (const check of checks) await check();
      });

      it('gets none of a message that is cut short on its way', async () => {
        const { address, next } = await listen(makeServer(server));
        // Between both, somebody who ends the connection as if one of them had.
        let cut = () => {};
        const between = createServer({ allowHalfOpen: true }, (socket) => {
          const on = connect({ port: Number(address.split(':')[1]), host: '127.0.0.1', allowHalfOpen: true });
          socket.pipe(on, { end: false });
          on.pipe(socket, { end: false });
          for (const one of [socket, on]) one.on('error', () => {});
          cut = () => on.end();
          closing.push(() => {
            for (const one of [socket, on]) one.destroy();
          });
        });
        await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
        closing.push(() => void between.close());
        const near = new Probe(await makeClient(client).connect(`127.0.0.1:${portOf(between)}`, 3000));
        const far = new Probe(await next());
        near.stream.write(Buffer.from('whole'));
        await far.until(() => far.bytes === 5);
        cut();
        await far.until(() => far.ends + far.closes.length > 0);
        // OpenSSL can't tell Node's streams; the native ones say that nobody meant it.
        if (serverKind === 'native') expect(far.closes[0]).toMatchObject({ code: 'ECONNRESET' });
        near.stream.destroy();
      });

      it('refuses what is changed on its way', async () => {
        const { address, next } = await listen(makeServer(server));
        let flip = false;
        const between = createServer((socket) => {
          const on = connect(Number(address.split(':')[1]), '127.0.0.1');
          socket.on('data', (chunk: Buffer) => {
            if (flip) chunk[chunk.length - 3]! ^= 1;
            on.write(chunk);
          });
          on.pipe(socket);
          on.once('close', () => socket.destroy());
          for (const one of [socket, on]) one.on('error', () => {});
          closing.push(() => {
            for (const one of [socket, on]) one.destroy();
          });
        });
        await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
        closing.push(() => void between.close());
        const near = new Probe(await makeClient(client).connect(`127.0.0.1:${portOf(between)}`, 3000));
        const far = new Probe(await next());
        near.stream.write(Buffer.from('good'));
        await far.until(() => far.bytes === 4);
        flip = true;
        near.stream.write(Buffer.from('evil'));
        await far.until(() => far.closes.length === 1);
        expect(far.bytes).toBe(4);
        expect(far.closes[0]?.message).toMatch(/damaged|bad record mac|decryption failed/);
        await near.until(() => near.closes.length + near.ends > 0);
        near.stream.destroy();
      });

      it('lives through handshakes and records with any bit turned over', async () => {
        const { address, next } = await listen(makeServer(server));
        const random = lcg(20261122);
        const below = (limit: number) => Math.floor(random() * limit);
        let plan = { back: false, at: 0, bit: 0 };
        const between = createServer((socket) => {
          const on = connect(Number(address.split(':')[1]), '127.0.0.1');
          const { back, at, bit } = plan;
          const pass = (from: Socket, to: Socket, spoiled: boolean) => {
            let seen = 0;
            from.on('data', (chunk: Buffer) => {
              if (spoiled && at >= seen && at < seen + chunk.length) chunk[at - seen]! ^= 1 << bit;
              seen += chunk.length;
              to.write(chunk);
            });
            from.on('error', () => {});
            from.once('close', () => to.destroy());
            closing.push(() => void from.destroy());
          };
          pass(socket, on, !back);
          pass(on, socket, back);
        });
        await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
        closing.push(() => void between.close());
        const net = makeClient(client);
        const data = randomBytes(3000);
        let whole = 0;
        for (let i = 0; i < 24; i++) {
          plan = { back: i % 2 === 0, at: below(i % 3 === 0 ? 300 : 4500), bit: below(8) };
          const answer = next();
          const near = await net.connect(`127.0.0.1:${portOf(between)}`, 150).catch(() => null);
          if (near === null) continue;
          const probe = new Probe(near);
          answer.then((stream) => {
            const far = new Probe(stream);
            far.take = (slab, from, to) => {
              far.keep(slab, from, to);
              if (far.bytes === data.length) stream.write(data);
              return to - from;
            };
          });
          near.write(data);
          await Promise.race([
            probe.until(() => probe.closes.length + probe.ends > 0 || probe.bytes === data.length),
            realClock.sleep(100),
          ]);
          // What arrives is what was sent, or nothing.
          expect(data.subarray(0, probe.bytes).equals(probe.all)).toBe(true);
          if (probe.bytes === data.length) whole++;
          near.destroy();
        }
        expect(whole).toBeLessThan(24);
        const sound = await net.connect(address, 3000);
        expect(sound.identity?.role).toBe('storage');
        sound.destroy();
      });

      const bad: Record<string, { peer: () => Promise<Trust>; serverSays: RegExp; clientSays: RegExp }> = {
        'of another CA': {
          // It believes the server, whose CA it was given, and has a certificate of its own one.
          peer: async () => new ToldTrust({ ...(await stranger.credentials('storage/node-2')), ca: authority.ca }),
          serverSays: /UnknownIssuer|BadSignature|signature|unable to (verify|get)|self-signed|unable/i,
          clientSays: /unknown_ca|refused|closed|reset|ended|alert/i,
        },
        'that has expired': {
          peer: async () => new ToldTrust(await authority.credentials('storage/node-2', -3, -1)),
          serverSays: /expired/i,
          clientSays: /expired|refused|closed|reset|ended/i,
        },
        'that is not valid yet': {
          peer: async () => new ToldTrust(await authority.credentials('storage/node-2', 1, 3)),
          serverSays: /not ?valid ?yet|not yet valid/i,
          clientSays: /expired or not yet valid|alert certificate expired|closed|reset|ended/i,
        },
        'of another cluster, by the same CA': {
          peer: async () => {
            const credentials = await namedOtherwise(authority, 'elsewhere');
            return new ToldTrust({ ...credentials, identity: client.current.identity });
          },
          serverSays: /belongs to another cluster/,
          clientSays: /closed|reset|ended/i,
        },
      };
      for (const [what, { peer, serverSays, clientSays }] of Object.entries(bad)) {
        it(`is refused with a certificate ${what}`, async () => {
          const log = new LogLines();
          const { address, count } = await listen(makeServer(server, log));
          const said = await refusal(makeClient(await peer()), address);
          expect(said).toMatch(clientSays);
          expect(await line(log)).toMatch(serverSays);
          expect(count()).toBe(0);
        });
      }

      it('refuses a server of another CA, an expired one and one of another cluster', async () => {
        const trusts: [Trust, RegExp][] = [
          [await stranger.trust('storage/node-1'), /UnknownIssuer|BadSignature|signature|unable to|self-signed/i],
          [new ToldTrust(await authority.credentials('storage/node-1', -3, -1)), /expired/i],
          [new ToldTrust(await authority.credentials('storage/node-1', 1, 3)), /not ?valid ?yet|not yet valid/i],
          [new ToldTrust(await namedOtherwise(authority, 'elsewhere')), /another cluster/],
        ];
        for (const [trust, why] of trusts) {
          const { address } = await listen(makeServer(trust));
          const failure = await makeClient(client)
            .connect(address, 3000)
            .then(
              () => undefined,
              (error) => error,
            );
          expect(failure).toMatchObject({ code: 'UNAUTHENTICATED', reason: 'BadCertificate' });
          expect(failure.message).toMatch(why);
        }
      });
    });
  }

  describe(`a ${serverKind} server`, () => {
    for (const [plainKind, makePlain] of Object.entries(plain)) {
      it(`refuses a plain ${plainKind} peer, and a plain server is refused`, async () => {
        const log = new LogLines();
        const { address, count } = await listen(makeServer(server, log));
        const said = await refusal(makePlain(), address);
        expect(said).toMatch(/ended|reset|broke|failed/i);
        expect(await line(log)).toMatch(/does not speak TLS/);
        expect(count()).toBe(0);
        const openly = await listen(makePlain());
        const wanted = makeServer(client).connect(openly.address, 3000);
        const probe = new Probe(await openly.next());
        await probe.until(() => probe.bytes > 0);
        probe.stream.write(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'));
        probe.stream.flush();
        await expect(wanted).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
        await expect(wanted).rejects.toThrow(/does not speak TLS/);
      });
    }

    it('refuses who shows no certificate, and who speaks TLS 1.2 at most', async () => {
      const tls = await import('node:tls');
      for (const options of [{ minVersion: 'TLSv1.3' }, { maxVersion: 'TLSv1.2' }] as const) {
        const log = new LogLines();
        const { address, count } = await listen(makeServer(server, log));
        const [host, port] = address.split(':') as [string, string];
        const socket = tls.connect({
          host,
          port: Number(port),
          ca: authority.ca,
          checkServerIdentity: () => undefined,
          ...options,
        });
        const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()));
        socket.on('error', () => {});
        socket.on('data', () => {});
        await ended;
        expect(await line(log)).toMatch(/certificate|protocol|version/i);
        expect(count()).toBe(0);
      }
    });

    it('serves others while a thousand peers do not go on with their handshakes', async () => {
      const { address, next } = await listen(makeServer(server));
      const silent = Array.from({ length: 1000 }, () => connect(Number(address.split(':')[1]), '127.0.0.1'));
      let ended = 0;
      for (const socket of silent) {
        socket.on('error', () => {});
        socket.on('data', () => {});
        socket.once('close', () => ended++);
        socket.write(Buffer.from([22, 3, 1]));
      }
      closing.push(() => {
        for (const socket of silent) socket.destroy();
      });
      const near = await makeServer(client).connect(address, 5000);
      closing.push(() => near.destroy());
      expect((await next()).identity).toBeDefined();
      for (let i = 0; i < 200 && ended < 400; i++) await realClock.sleep(10);
      expect(ended).toBeGreaterThanOrEqual(400);
    });

    it('takes the place of the oldest handshake alone for one more', async () => {
      const { address, next } = await listen(makeServer(server));
      const silent: Socket[] = [];
      let ended = 0;
      for (let i = 0; i < PENDING_MAX; i++) {
        const socket = connect(Number(address.split(':')[1]), '127.0.0.1');
        socket.on('error', () => {});
        socket.once('close', () => ended++);
        socket.resume();
        silent.push(socket);
        // No more at a time than the system lets wait to be accepted.
        if (i % 100 === 99) while (silent.some((one) => one.connecting)) await realClock.sleep(2);
      }
      closing.push(() => {
        for (const socket of silent) socket.destroy();
      });
      while (silent.some((socket) => socket.connecting)) await realClock.sleep(5);
      const near = await makeServer(client).connect(address, 5000);
      closing.push(() => near.destroy());
      expect((await next()).identity).toBeDefined();
      await realClock.sleep(100);
      expect([ended, silent[0]?.closed]).toEqual([1, true]);
    });

    it('uses new certificates for new connections, and lets the old ones be', async () => {
      const trust = await authority.trust('storage/node-1');
      const peer = new ToldTrust(client.current);
      const { address, next } = await listen(makeServer(trust));
      const net = makeServer(peer);
      const old = new Probe(await net.connect(address, 3000));
      const oldFar = new Probe(await next());
      // A new CA: both sides believe both while it is rolled out, then only the new one.
      const renewed = await TestAuthority.make();
      const both = (credentials: Credentials) => ({ ...credentials, ca: `${authority.ca}\n${renewed.ca}` });
      trust.tell(both(await renewed.credentials('storage/node-1')));
      await expect(net.connect(address, 3000)).rejects.toMatchObject({ reason: 'BadCertificate' });
      peer.tell(both(client.current));
      const next1 = await net.connect(address, 3000);
      await next();
      trust.tell(await renewed.credentials('storage/node-1'));
      expect(await refusal(net, address)).not.toBe('');
      peer.tell(await renewed.credentials('storage/node-2'));
      const next2 = await net.connect(address, 3000);
      await next();
      for (const stream of [next1, next2]) closing.push(() => stream.destroy());
      old.stream.write(Buffer.from('still here'));
      await oldFar.until(() => oldFar.bytes === 10);
      oldFar.stream.write(Buffer.from('yes'));
      await old.until(() => old.bytes === 3);
      old.stream.destroy();
    });
  });
}

describe('certificates of two clusters', () => {
  it('are of no use to each other', async () => {
    for (const [, make] of Object.entries(kinds)) {
      const { address } = await listen(make(server));
      await expect(make(await otherCluster.trust('storage/node-1')).connect(address, 3000)).rejects.toMatchObject({
        code: 'UNAUTHENTICATED',
      });
    }
  });
});

/** A certificate by the same CA in which another cluster's name stands, for one who does not know. */
async function namedOtherwise(of: TestAuthority, cluster: string): Promise<Credentials> {
  return await of.credentials('storage/node-1', -1, 7, cluster);
}

function portOf(listener: ReturnType<typeof createServer>): number {
  const address = listener.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}
