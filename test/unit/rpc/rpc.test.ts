// Server and client against each other over real sockets, on services of our own protos.

import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect as connectSocket, createServer as createNetServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HoldfastError, type Logger, realClock, silentLogger } from '../../../src/base/index.js';
import {
  type CallContext,
  createClient,
  createServer,
  csiServices,
  type Handlers,
  type holdfast,
  holdfastServices,
  implement,
  MESSAGE_BYTES_MAX,
  type Server,
} from '../../../src/rpc/index.js';

type MetadataHandlers = Handlers<holdfast.MetadataDefinition, holdfast.MetadataHandlers>;

let folder: string;
let address: string;
const cleanups: (() => unknown)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-rpc-'));
  address = `unix://${folder}/s.sock`;
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  rmSync(folder, { recursive: true, force: true });
});

const refuse = (): never => {
  throw new HoldfastError('UNIMPLEMENTED', 'not in this test');
};

function capture(): { logger: Logger; lines: string[] } {
  const lines: string[] = [];
  const make = (bound: object): Logger => {
    const write = (level: string) => (fields: object, message: string) => {
      lines.push(JSON.stringify({ level, ...bound, ...fields, message }));
    };
    return {
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: (fields) => make({ ...bound, ...fields }),
    };
  };
  return { logger: make({}), lines };
}

async function serveMetadata(
  handlers: Partial<MetadataHandlers>,
  options: { at?: string; logger?: Logger; maxCalls?: number; onUnexpected?: (error: unknown) => void } = {},
): Promise<Server> {
  const all = {
    Get: async () => refuse(),
    List: async () => refuse(),
    CompareAndSwap: async () => refuse(),
    Watch: () => refuse(),
    ...handlers,
  };
  const server = await createServer({
    address: options.at ?? address,
    services: [implement(holdfastServices.metadata(), all as MetadataHandlers)],
    logger: options.logger ?? silentLogger,
    clock: realClock,
    maxCalls: options.maxCalls,
    onUnexpected: options.onUnexpected,
  });
  cleanups.push(() => server.close(100));
  return server;
}

function metadataClient(at = address, deadlineMs = 5000) {
  const client = createClient(at, holdfastServices.metadata(), { clock: realClock, deadlineMs });
  cleanups.push(() => client.close());
  return client;
}

async function failure(work: Promise<unknown>): Promise<HoldfastError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(HoldfastError);
  return error as HoldfastError;
}

describe('calls', () => {
  it('carries a unary call with all defaults, over TCP on a free port', async () => {
    const seen: object[] = [];
    const server = await serveMetadata(
      {
        List: async (request) => {
          seen.push(request);
          return {
            entries: [{ key: 'volume/a', version: Number.MAX_SAFE_INTEGER, value_json: '{}' }],
            store_version: 7,
          };
        },
      },
      { at: '127.0.0.1:0' },
    );
    expect(server.port).toBeGreaterThan(0);
    const answer = await metadataClient(server.address).List({ prefix: 'volume/' });
    expect(seen).toEqual([
      { prefix: 'volume/', limit: 0, only_unfinished: false, only_volume_id: '', start_after: '' },
    ]);
    expect(answer).toEqual({
      entries: [{ key: 'volume/a', version: Number.MAX_SAFE_INTEGER, value_json: '{}' }],
      store_version: 7,
      more: false,
    });
  });

  it('lets code, reason and message of a HoldfastError survive', async () => {
    await serveMetadata({
      Get: async () => {
        throw new HoldfastError('FAILED_PRECONDITION', 'pool p-1 is full: ünïcode\nand a second line', {
          reason: 'NoSpace',
        });
      },
    });
    const error = await failure(metadataClient().Get({ key: 'volume/a' }));
    expect(error).toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'NoSpace',
      message: 'pool p-1 is full: ünïcode\nand a second line',
    });
  });

  it('answers an unknown error as INTERNAL without its stack, logs the stack, and tells the process', async () => {
    const { logger, lines } = capture();
    const unexpected: unknown[] = [];
    const bug = new TypeError('x is not a function');
    await serveMetadata(
      {
        Get: async () => {
          throw bug;
        },
      },
      { logger, onUnexpected: (error) => unexpected.push(error) },
    );
    const error = await failure(metadataClient().Get({ key: 'volume/a' }));
    expect(error).toMatchObject({ code: 'INTERNAL', message: 'x is not a function' });
    expect(lines.some((line) => line.includes('"level":"error"') && line.includes('rpc.test.ts'))).toBe(true);
    expect(unexpected).toEqual([bug]);
  });

  it('keeps very long messages within what a trailer can hold', async () => {
    await serveMetadata({
      Get: async () => {
        throw new HoldfastError('NOT_FOUND', 'ü'.repeat(100_000));
      },
    });
    const error = await failure(metadataClient().Get({ key: 'volume/a' }));
    expect(error.code).toBe('NOT_FOUND');
    expect(error.message.endsWith('...')).toBe(true);
  });

  it('aborts the signal of a handler when the deadline passes, and names call and address to the caller', async () => {
    const reasons: unknown[] = [];
    const contexts: CallContext[] = [];
    await serveMetadata({
      Get: async (_request, context) => {
        contexts.push(context);
        await realClock.sleep(5000, context.signal).catch((reason) => reasons.push(reason));
        return {};
      },
    });
    const error = await failure(metadataClient().Get({ key: 'volume/a' }, { deadlineMs: 150 }));
    expect(error).toMatchObject({ code: 'DEADLINE_EXCEEDED', reason: 'Deadline' });
    expect(error.message).toContain(`Get at ${address}`);
    await expect.poll(() => reasons).toMatchObject([{ code: 'DEADLINE_EXCEEDED' }]);
    expect(contexts[0]!.deadlineMs - realClock.monotonicMs()).toBeLessThan(0);
  });

  it('cancels by signal on both sides', async () => {
    const reasons: unknown[] = [];
    await serveMetadata({
      Get: async (_request, context) => {
        await realClock.sleep(5000, context.signal).catch((reason) => reasons.push(reason));
        return {};
      },
    });
    const abort = new AbortController();
    const client = metadataClient();
    const call = failure(client.Get({ key: 'volume/a' }, { signal: abort.signal }));
    await realClock.sleep(50);
    abort.abort();
    expect(await call).toMatchObject({ code: 'CANCELLED' });
    await expect.poll(() => reasons).toMatchObject([{ code: 'CANCELLED' }]);
    expect(await failure(client.Get({ key: 'volume/a' }, { signal: abort.signal }))).toMatchObject({
      code: 'CANCELLED',
    });
  });

  it('refuses more calls than it may answer at once, and goes on when one is done', async () => {
    let letGo = () => {};
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    await serveMetadata(
      {
        Get: async () => {
          await held;
          return { store_version: 1 };
        },
      },
      { maxCalls: 2 },
    );
    const client = metadataClient();
    const first = client.Get({ key: 'volume/a' });
    const second = client.Get({ key: 'volume/a' });
    await realClock.sleep(50);
    expect(await failure(client.Get({ key: 'volume/a' }))).toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
    letGo();
    await Promise.all([first, second]);
    expect((await client.Get({ key: 'volume/a' })).store_version).toBe(1);
  });
});

describe('numbers and enums', () => {
  it('refuses 64-bit integers that a number would round, naming the field', async () => {
    const seen: unknown[] = [];
    await serveMetadata({
      CompareAndSwap: async (request) => {
        seen.push(request.expected_version);
        return { ok: true };
      },
    });
    const { makeRaw } = await import('./raw-call.js');
    const send = (value: string) =>
      makeRaw(address, 'holdfast.v1.Metadata', 'CompareAndSwap', { expected_version: value });
    for (const value of ['9223372036854775807', '9007199254740992', '-9223372036854775808']) {
      const refused = await send(value);
      expect(refused).toMatchObject({ code: 'OUT_OF_RANGE' });
      expect(refused.message).toContain(`expected_version is ${value}`);
    }
    expect(await send('9007199254740991')).toMatchObject({ code: 'OK' });
    expect(seen).toEqual([Number.MAX_SAFE_INTEGER]);
  });

  it('refuses nested ones, unknown enum values and bytes that are no message, without calling the handler', async () => {
    let called = 0;
    const identity = csiServices.controller();
    const handlers = new Proxy({} as never, {
      get: () => async () => {
        called++;
        return {};
      },
    });
    const server = await createServer({
      address,
      services: [implement(identity, handlers)],
      logger: silentLogger,
      clock: realClock,
    });
    cleanups.push(() => server.close(100));
    const { makeRaw } = await import('./raw-call.js');
    const huge = await makeRaw(address, 'csi.v1.Controller', 'CreateVolume', {
      capacity_range: { required_bytes: '9223372036854775807' },
    });
    expect(huge.code).toBe('OUT_OF_RANGE');
    expect(huge.message).toContain('capacity_range.required_bytes is 9223372036854775807');
    const mode = await makeRaw(address, 'csi.v1.Controller', 'CreateVolume', {
      volume_capabilities: [{}, { access_mode: { mode: 99 } }],
    });
    expect(mode.code).toBe('INVALID_ARGUMENT');
    expect(mode.message).toContain('volume_capabilities[1].access_mode.mode is 99');
    for (const bytes of [[0xff], [0x0a, 0x05, 0x01], [0x0a, 0x01, 0xff]]) {
      const garbage = await makeRaw(address, 'csi.v1.Controller', 'CreateVolume', Buffer.from(bytes));
      expect(garbage).toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    expect(called).toBe(0);
  });

  it('never sends a number that is none: the client refuses it, the server answers INTERNAL', async () => {
    await serveMetadata({ Get: async () => ({ store_version: 2 ** 53 }) });
    const client = metadataClient();
    const bad = await failure(client.CompareAndSwap({ key: 'a/b', expected_version: 1.5 }));
    expect(bad.message).toContain('expected_version');
    const answer = await failure(client.Get({ key: 'a/b' }));
    expect(answer.code).toBe('INTERNAL');
    expect(answer.message).toContain('store_version');
  });
});

describe('server streams', () => {
  it('delivers in order with back-pressure and passes on the error at the end', async () => {
    let produced = 0;
    await serveMetadata({
      Watch: async function* () {
        for (let i = 1; i <= 400; i++) {
          produced = i;
          yield { events: [{ put: { entry: { key: 'volume/a', version: i, value_json: 'x'.repeat(50_000) } } }] };
        }
        throw new HoldfastError('DATA_LOSS', 'the end', { reason: 'Corrupt' });
      },
    });
    const versions: number[] = [];
    let producedAtFirst = 0;
    const error = await failure(
      (async () => {
        for await (const message of metadataClient().Watch({ prefix: '' })) {
          if (versions.length === 0) {
            await realClock.sleep(100);
            producedAtFirst = produced;
          }
          versions.push(message.events[0]?.put?.entry?.version ?? 0);
        }
      })(),
    );
    expect(error).toMatchObject({ code: 'DATA_LOSS', reason: 'Corrupt', message: 'the end' });
    expect(versions).toEqual(Array.from({ length: 400 }, (_, i) => i + 1));
    expect(producedAtFirst).toBeLessThan(200);
  });

  it('stops the producer when the consumer leaves or aborts', async () => {
    let stopped = 0;
    await serveMetadata({
      Watch: async function* (_request, context) {
        try {
          while (!context.signal.aborted) {
            yield { events: [] };
            await realClock.sleep(5, context.signal).catch(() => {});
          }
        } finally {
          stopped++;
        }
      },
    });
    const client = metadataClient();
    for await (const _message of client.Watch({ prefix: '' })) break;
    await expect.poll(() => stopped).toBe(1);
    const abort = new AbortController();
    const error = await failure(
      (async () => {
        for await (const _message of client.Watch({ prefix: '' }, { signal: abort.signal })) abort.abort();
      })(),
    );
    expect(error.code).toBe('CANCELLED');
    await expect.poll(() => stopped).toBe(2);
  });
});

describe('listening', () => {
  it('makes a private unix socket, refuses one that is alive and replaces one that is dead', async () => {
    const before = process.umask();
    const server = await serveMetadata({ Get: async () => ({ store_version: 1 }) });
    expect(process.umask()).toBe(before);
    expect(statSync(join(folder, 's.sock')).mode & 0o777).toBe(0o600);
    const error = await failure(serveMetadata({}));
    expect(error).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'AddressInUse' });
    expect(error.message).toContain(address);
    expect((await metadataClient().Get({ key: 'a/b' })).store_version).toBe(1);
    await server.close(100);
    expect(() => statSync(join(folder, 's.sock'))).toThrow();

    const stale = join(folder, 'stale.sock');
    const { leaveStaleSocket } = await import('./raw-call.js');
    leaveStaleSocket(stale);
    expect(statSync(stale).isSocket()).toBe(true);
    await serveMetadata({ Get: async () => ({ store_version: 2 }) }, { at: stale });
    expect((await metadataClient(stale).Get({ key: 'a/b' })).store_version).toBe(2);
  });

  it('names what is wrong with an address', async () => {
    writeFileSync(join(folder, 'file'), 'precious');
    const taken = createNetServer().listen(0, '127.0.0.1');
    cleanups.push(() => taken.close());
    await new Promise((resolve) => taken.once('listening', resolve));
    const port = (taken.address() as { port: number }).port;
    const cases: [string, string, RegExp][] = [
      [`unix://${folder}/file`, 'AddressInUse', /file exists and is not a socket/],
      [`unix://${folder}/none/s.sock`, 'Generic', /none does not exist/],
      [`unix://${folder}/file/s.sock`, 'Generic', /file is not a directory/],
      [`unix://${folder}/${'x'.repeat(120)}`, 'BadField', /bytes long, the system allows 107/],
      [`127.0.0.1:${port}`, 'AddressInUse', new RegExp(`127.0.0.1:${port} is in use`)],
      ['192.0.2.1:0', 'BadField', /no such address/],
      ['unix://relative', 'BadField', /absolute/],
      ['127.0.0.1:70000', 'BadField', /no address/],
      ['nonsense', 'BadField', /no address/],
    ];
    for (const [at, reason, message] of cases) {
      const error = await failure(serveMetadata({}, { at }));
      expect(error.reason, at).toBe(reason);
      expect(error.message).toMatch(message);
    }
  });

  it('survives peers that speak nonsense, half a message or nothing, and messages that are too large', async () => {
    const server = await serveMetadata({ Get: async () => ({ store_version: 5 }) }, { at: '127.0.0.1:0' });
    const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
    const frame = Buffer.from([0, 0x40, 0, 1, 4, 0, 0, 0, 1]);
    const openings = ['', 'GET / HTTP/1.1\r\n\r\n', '\x16\x03\x01', preface, preface + 'x'.repeat(70_000)];
    for (const opening of [
      ...openings.map((text) => Buffer.from(text)),
      Buffer.concat([Buffer.from(preface), frame]),
    ]) {
      for (const end of ['end', 'destroy', 'resetAndDestroy'] as const) {
        const socket = connectSocket(server.port!, '127.0.0.1');
        socket.on('error', () => {});
        await new Promise((resolve) => socket.once('connect', resolve));
        await new Promise((resolve) => socket.write(opening, resolve));
        socket[end]();
      }
    }
    const client = metadataClient(server.address);
    expect((await client.Get({ key: 'a/b' })).store_version).toBe(5);
    const { makeRaw } = await import('./raw-call.js');
    const huge = await makeRaw(server.address, 'holdfast.v1.Metadata', 'Get', Buffer.alloc(MESSAGE_BYTES_MAX + 1, 1));
    expect(huge.code).toBe('RESOURCE_EXHAUSTED');
    expect((await client.Get({ key: 'a/b' })).store_version).toBe(5);
  });

  it('fails fast without a server, and waits for one when asked to', async () => {
    const client = metadataClient();
    const refused = await failure(client.Get({ key: 'a/b' }));
    expect(refused.code).toBe('UNAVAILABLE');
    expect(refused.message).toContain(`Get at ${address}`);
    const late = await failure(client.Get({ key: 'a/b' }, { waitForReady: true, deadlineMs: 100 }));
    expect(late.code).toBe('DEADLINE_EXCEEDED');
    const waiting = client.Get({ key: 'a/b' }, { waitForReady: true });
    await realClock.sleep(50);
    await serveMetadata({ Get: async () => ({ store_version: 3 }) });
    expect((await waiting).store_version).toBe(3);
  });

  it('closes gracefully: unary calls finish, streams end, the deadline cuts what is left', async () => {
    const signals: AbortSignal[] = [];
    const server = await serveMetadata({
      Get: async () => {
        await realClock.sleep(150);
        return { store_version: 4 };
      },
      List: async (_request, context) => {
        signals.push(context.signal);
        await new Promise(() => {});
        return {};
      },
      Watch: async function* (_request, context) {
        yield { events: [] };
        await realClock.sleep(60_000, context.signal);
      },
    });
    const client = metadataClient();
    const finishing = client.Get({ key: 'a/b' });
    const hanging = failure(client.List({ prefix: '' }));
    const watching = failure(
      (async () => {
        for await (const _message of client.Watch({ prefix: '' })) void 0;
      })(),
    );
    await realClock.sleep(50);
    const cut = await server.close(400);
    expect((await finishing).store_version).toBe(4);
    expect(await watching).toMatchObject({ code: 'UNAVAILABLE', message: 'this server is shutting down' });
    expect(['UNAVAILABLE', 'CANCELLED']).toContain((await hanging).code);
    expect(cut).toBe(1);
    expect(signals[0]!.aborted).toBe(true);
    expect((await failure(client.Get({ key: 'a/b' }))).code).toBe('UNAVAILABLE');
  });
});

describe('secrets', () => {
  it('never reach a log line or an error text, at debug level too', async () => {
    const { logger, lines } = capture();
    const canary = 'canary-4711-passphrase';
    const controller = csiServices.controller();
    const handlers = new Proxy({} as never, {
      get: (_target, method) => async (request: { secrets: Record<string, string> }) => {
        if (method === 'DeleteVolume') throw new HoldfastError('INTERNAL', `key ${request.secrets.key} is odd`);
        if (method === 'ControllerModifyVolume') throw new Error(`boom ${request.secrets.key}`);
        return {};
      },
    });
    const server = await createServer({
      address,
      services: [implement(controller, handlers)],
      logger,
      clock: realClock,
    });
    cleanups.push(() => server.close(100));
    const client = createClient(address, controller, { clock: realClock });
    cleanups.push(() => client.close());
    await client.CreateVolume({
      name: 'pvc-visible',
      secrets: { key: canary },
      parameters: { p: canary },
      mutable_parameters: { m: canary },
      volume_capabilities: [{ mount: { mount_flags: [canary] } }],
    });
    await client.ControllerPublishVolume({
      volume_id: 'vol-visible',
      volume_context: { c: canary },
      secrets: { s: canary },
    });
    const known = await failure(client.DeleteVolume({ volume_id: 'v', secrets: { key: canary } }));
    const unknown = await failure(client.ControllerModifyVolume({ volume_id: 'v', secrets: { key: canary } }));
    expect(known.message).toBe('key *** is odd');
    expect(unknown.message).toBe('boom ***');
    const text = lines.join('\n');
    expect(text).not.toContain(canary);
    expect(text).toContain('pvc-visible');
    expect(text).toContain('vol-visible');
    expect(lines.filter((line) => line.includes('"message":"call"')).length).toBe(4);
  });

  it('keeps bytes out as well: the key of an Open', async () => {
    const { logger, lines } = capture();
    const key = Buffer.from('0123456789abcdef0123456789abcdef');
    const volume = holdfastServices.volume();
    const handlers = new Proxy({} as never, {
      get: () => async (request: { wrapping_key: Buffer }) => {
        throw new Error(`no good: ${request.wrapping_key.toString('hex')} ${request.wrapping_key.toString('base64')}`);
      },
    });
    const server = await createServer({ address, services: [implement(volume, handlers)], logger, clock: realClock });
    cleanups.push(() => server.close(100));
    const client = createClient(address, volume, { clock: realClock });
    cleanups.push(() => client.close());
    const error = await failure(client.Open({ volume_id: 'v', wrapping_key: key }));
    expect(error.message).toBe('no good: *** ***');
    const text = lines.join('\n');
    for (const encoding of ['hex', 'base64', 'latin1'] as const) expect(text).not.toContain(key.toString(encoding));
  });
});
