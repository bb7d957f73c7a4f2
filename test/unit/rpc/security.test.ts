// gRPC between parts with certificates: who is refused and how both ends learn of it, which role may call what, and certificates that
// change while a server runs.

import { connect, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { type Clock, type HoldfastError, realClock, silentLogger } from '../../../src/base/index.js';
import {
  createClient,
  createServer,
  type Handlers,
  type holdfast,
  holdfastServices,
  implement,
  type Server,
} from '../../../src/rpc/index.js';
import { parsePart, ToldTrust, type Trust } from '../../../src/trust/index.js';
import { LogLines, TestAuthority } from '../../lib/authority.js';

type MetadataHandlers = Handlers<holdfast.MetadataDefinition, holdfast.MetadataHandlers>;

const authority = await TestAuthority.make();
const stranger = await TestAuthority.make();
const controller = await authority.trust('controller');
const storage = await authority.trust('storage/node-1');

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const callers: (string | null)[] = [];
async function serve(trust: Trust | null, log?: LogLines, clock: Clock = realClock): Promise<Server> {
  const handlers: MetadataHandlers = {
    Get: async (_request, { caller }) => {
      callers.push(caller === null ? null : `${caller.role}/${caller.node}`);
      return { entry: null, store_version: 1 };
    },
    List: async () => ({ entries: [], store_version: 1, more: false }),
    CompareAndSwap: async () => ({ ok: true, version: 2 }),
    async *Watch(_request, { signal }) {
      yield { events: [] };
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      yield { events: [] };
    },
  };
  const all = ['storage', 'operator'] as const;
  const server = await createServer({
    address: '127.0.0.1:0',
    services: [
      implement(holdfastServices.metadata(), handlers, {
        allow: { Get: all, List: all, Watch: all, CompareAndSwap: ['storage'] },
      }),
    ],
    logger: log ?? silentLogger,
    clock,
    trust,
  });
  closing.push(() => server.close(100));
  return server;
}

function clientOf(server: Server, trust: Trust | null, expected = 'controller') {
  const security = trust === null ? null : { trust, server: parsePart(expected) };
  const client = createClient(server.address, holdfastServices.metadata(), {
    clock: realClock,
    deadlineMs: 3000,
    security,
  });
  closing.push(() => client.close());
  return client;
}

async function failureOf(work: Promise<unknown>): Promise<HoldfastError> {
  return await work.then(
    () => {
      throw new Error('it was answered');
    },
    (error) => error,
  );
}

describe('gRPC with certificates', () => {
  it('tells handlers who calls, over TLS 1.3', async () => {
    const server = await serve(controller);
    callers.length = 0;
    await clientOf(server, storage).Get({ key: 'a/b' });
    expect(callers).toEqual(['storage/node-1']);
    const { cert, key, ca } = { ...storage.current, cert: storage.current.certificate };
    const socket = tlsConnect({
      host: '127.0.0.1',
      port: server.port!,
      ca,
      cert,
      key,
      checkServerIdentity: () => undefined,
    });
    const protocol = await new Promise((resolve, reject) => {
      socket.once('secureConnect', () => resolve(socket.getProtocol()));
      socket.once('error', reject);
    });
    socket.destroy();
    expect(protocol).toBe('TLSv1.3');
  });

  it('asks nobody where there are no certificates', async () => {
    callers.length = 0;
    await clientOf(await serve(null), null).Get({ key: 'a/b' });
    expect(callers).toEqual([null]);
  });

  it('lets each role call what its service says, and nothing else', async () => {
    const log = new LogLines();
    const server = await serve(controller, log);
    const operator = clientOf(server, await authority.trust('operator'));
    await operator.Get({ key: 'a/b' });
    const refused = await failureOf(operator.CompareAndSwap({ key: 'a/b' }));
    expect(refused).toMatchObject({ code: 'PERMISSION_DENIED', reason: 'WrongRole' });
    expect(refused.message).toBe(
      'spiffe://demo/holdfast/operator may not call holdfast.v1.Metadata/CompareAndSwap: that is for storage',
    );
    expect(log.lines.join('\n')).toContain(refused.message);
    const node = clientOf(server, await authority.trust('node/node-1'));
    for (const call of [
      () => node.Get({ key: 'a/b' }),
      () => node.List({}),
      () => node.CompareAndSwap({ key: 'a/b' }),
      async () => {
        for await (const _ of node.Watch({ prefix: '', from_version: 0 }));
      },
    ])
      expect(await failureOf(call())).toMatchObject({ code: 'PERMISSION_DENIED', reason: 'WrongRole' });
  });

  it('is not served at all by a service that does not say who may call it', async () => {
    const handlers = {} as MetadataHandlers;
    const services = [implement(holdfastServices.metadata(), handlers)];
    const options = { address: '127.0.0.1:0', services, logger: silentLogger, clock: realClock, trust: controller };
    await expect(createServer(options)).rejects.toThrow(/does not say who may call it/);
  });

  const bad: Record<string, [() => Promise<Trust | null>, RegExp]> = {
    'of another CA': [
      async () => new ToldTrust({ ...(await stranger.credentials('storage/node-1')), ca: authority.ca }),
      /its certificate was refused: (unable to|self|cert signature)/,
    ],
    'that has expired': [
      async () => new ToldTrust(await authority.credentials('storage/node-1', -3, -1)),
      /its certificate was refused: cert has expired/,
    ],
    'that is not valid yet': [
      async () => new ToldTrust(await authority.credentials('storage/node-1', 1, 3)),
      /its certificate was refused: cert not yet valid/,
    ],
    'of another cluster': [
      async () => {
        const credentials = await authority.credentials('storage/node-1', -1, 7, 'elsewhere');
        return new ToldTrust({ ...credentials, identity: storage.current.identity });
      },
      /belongs to another cluster/,
    ],
    'that is none (plain text)': [async () => null, /does not speak TLS|wrong version|http request|packet length/],
  };
  for (const [what, [peer, serverSays]] of Object.entries(bad)) {
    it(`refuses a client with a certificate ${what}`, async () => {
      const log = new LogLines();
      const server = await serve(controller, log);
      callers.length = 0;
      const failure = await failureOf(clientOf(server, await peer()).Get({ key: 'a/b' }));
      expect(failure.code).toMatch(/UNAVAILABLE|UNAUTHENTICATED|DEADLINE_EXCEEDED/);
      if (what !== 'that is none (plain text)') expect(failure.message).toMatch(/may have refused the certificate/);
      expect(callers).toEqual([]);
      expect(log.lines.join('\n')).toMatch(serverSays);
      expect(log.lines.join('\n')).toMatch(/"peer":"127\.0\.0\.1:\d+"/);
    });
  }

  it('refuses a server of another CA, an expired one, another part than was expected, and plain text', async () => {
    const wrong: [Trust | null, RegExp][] = [
      [await stranger.trust('controller'), /unable|self|signature|certificate/i],
      [new ToldTrust(await authority.credentials('controller', -3, -1)), /expired/],
      [await authority.trust('storage/node-2'), /is spiffe:\/\/demo\/holdfast\/storage\/node-2, and not controller/],
      [null, /SSL|TLS|wrong version|ECONNRESET|socket/i],
    ];
    for (const [trust, why] of wrong) {
      const server = await serve(trust);
      callers.length = 0;
      const failure = await failureOf(clientOf(server, storage).Get({ key: 'a/b' }));
      expect(failure.code).toBe('UNAVAILABLE');
      expect(failure.message).toMatch(why);
      expect(callers).toEqual([]);
    }
    // The right role of the wrong node is the wrong part, too.
    const server = await serve(await authority.trust('storage/node-2'));
    const failure = await failureOf(clientOf(server, storage, 'storage/node-3').Get({ key: 'a/b' }));
    expect(failure.message).toMatch(/and not storage\/node-3/);
  });

  it('answers those who say who they are while others say nothing, and ends these in time', async () => {
    const log = new LogLines();
    // Ten seconds of a handshake pass in one.
    const clock = { ...realClock, after: (ms: number, fn: () => void) => realClock.after(ms / 10, fn) };
    const server = await serve(controller, log, clock);
    let ended = 0;
    const silent: Socket[] = [];
    while (silent.length < 1100) {
      const socket = connect(server.port!, '127.0.0.1');
      socket.on('error', () => {});
      socket.once('close', () => ended++);
      silent.push(socket);
      // No more at a time than the system lets wait to be accepted.
      if (silent.length % 100 === 0) while (silent.some((one) => one.connecting)) await realClock.sleep(2);
    }
    closing.push(() => {
      for (const socket of silent) socket.destroy();
    });
    await clientOf(server, storage).Get({ key: 'a/b' });
    // Those for whom there was no room are gone; the others have as long as a handshake may take.
    expect(ended).toBeGreaterThan(400);
    expect(ended).toBeLessThan(1100);
    for (let i = 0; i < 1000 && ended < 1100; i++) await realClock.sleep(10);
    expect(ended).toBe(1100);
    expect(log.lines.join('\n')).toMatch(/others wait for their handshakes/);
  });

  it('answers no call on a connection whose certificate has expired since', async () => {
    let laterMs = 0;
    const clock = { ...realClock, wallMs: () => realClock.wallMs() + laterMs };
    const server = await serve(controller, undefined, clock);
    const client = clientOf(server, storage);
    await client.Get({ key: 'a/b' });
    laterMs = 8 * 24 * 3600 * 1000;
    const failure = await failureOf(client.Get({ key: 'a/b' }, { deadlineMs: 2 * laterMs }));
    expect(failure).toMatchObject({ code: 'UNAUTHENTICATED', reason: 'BadCertificate' });
    expect(failure.message).toMatch(/has expired: connect with a new one/);
  });

  it('keeps the certificates it has when new ones are of no use', async () => {
    const theirs = new ToldTrust(storage.current);
    const client = clientOf(await serve(controller), theirs);
    await client.Get({ key: 'a/b' });
    expect(() => theirs.tell({ ...storage.current, key: stranger.ca })).toThrow();
    await client.Get({ key: 'a/b' });
  });

  it('uses new certificates for new connections, and lets calls under way go on', async () => {
    const ours = new ToldTrust(controller.current);
    const theirs = new ToldTrust(storage.current);
    const server = await serve(ours);
    const client = clientOf(server, theirs);
    const stop = new AbortController();
    const watch = client.Watch({ prefix: '', from_version: 0 }, { signal: stop.signal })[Symbol.asyncIterator]();
    expect((await watch.next()).value).toEqual({ events: [] });
    const renewed = await TestAuthority.make();
    ours.tell(await renewed.credentials('controller'));
    await client.Get({ key: 'a/b' });
    const late = clientOf(server, storage);
    expect((await failureOf(late.Get({ key: 'a/b' }))).code).toBe('UNAVAILABLE');
    theirs.tell(await renewed.credentials('storage/node-1'));
    await client.Get({ key: 'a/b' });
    const still = watch.next();
    const ended = await Promise.race([still.then(() => true), realClock.sleep(200).then(() => false)]);
    expect(ended).toBe(false);
    stop.abort();
    await expect(still).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
