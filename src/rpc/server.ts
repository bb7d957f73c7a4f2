// A gRPC server on one address. It owns the listening socket itself (grpc-js gets the accepted connections), so that a
// taken port or a socket left behind is answered with a sentence and a unix socket is private from its first moment.

import type { Socket } from 'node:net';
import { Server as GrpcServer, ServerCredentials } from '@grpc/grpc-js';
import { assert, type Clock, type Logger } from '../base/index.js';
import { PENDING_MAX, Refusals, type Role, socketPeer, type Trust } from '../trust/index.js';
import { type Address, formatAddress, parseAddress } from './address.js';
import { CallDesk, type StreamHandler, type UnaryHandler } from './calls.js';
import { listenAt } from './listen.js';
import type { LoadedMethod, LoadedService } from './load-service.js';
import { secureGate } from './secure-gate.js';
import type { Handlers } from './service-types.js';

/** Largest message either way: a page of metadata or of changed blocks with room to spare. */
export const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
const CONNECTIONS_MAX = 1024;
const CALLS_MAX = 1024;

/** A service with its handlers, ready to be served. */
export interface ServiceBinding {
  readonly name: string;
  readonly methods: readonly LoadedMethod[];
  readonly handlers: Readonly<Record<string, UnaryHandler | StreamHandler>>;
  readonly logFields: readonly string[];
  readonly allow: Readonly<Record<string, readonly Role[]>> | null;
}

/**
 * `logFields`: request fields that may be logged in this service beside the general list. `allow`: which roles may call each
 * method; a service without it can be served where no certificates are asked for (a unix socket) and nowhere else.
 */
export function implement<D, H>(
  service: LoadedService<D, H>,
  handlers: Handlers<D, H>,
  options: {
    readonly logFields?: readonly string[];
    readonly allow?: Readonly<Record<keyof Handlers<D, H>, readonly Role[]>>;
  } = {},
): ServiceBinding {
  return {
    name: service.name,
    methods: service.methods,
    handlers: handlers as unknown as ServiceBinding['handlers'],
    logFields: options.logFields ?? [],
    allow: options.allow ?? null,
  };
}

export interface ServerOptions {
  /** unix:///path or host:port; port 0 takes any free one. */
  readonly address: string;
  readonly services: readonly ServiceBinding[];
  readonly logger: Logger;
  readonly clock: Clock;
  /** TLS with certificates on both ends; null: plain text. */
  readonly trust?: Trust | null;
  readonly maxCalls?: number;
  /** Told of errors that are not HoldfastErrors (broken assertions among them), after they were logged and answered. */
  readonly onUnexpected?: (error: unknown) => void;
}

export interface Server {
  /** As it is reachable: the real port where 0 was asked for. */
  readonly address: string;
  /** The TCP port; undefined for a unix socket. */
  readonly port: number | undefined;
  /**
   * Stops accepting, ends streams, lets unary calls finish for `graceMs` (default 5000), then aborts them and cuts the
   * connections. Resolves to the number of calls cut off. Safe to call again.
   */
  close(graceMs?: number): Promise<number>;
}

const channelOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_concurrent_streams': CALLS_MAX,
  // A peer that vanished without a word (power, network) must not keep its streams here for ever.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
};

function register(server: GrpcServer, desk: CallDesk, binding: ServiceBinding): void {
  for (const method of binding.methods) {
    const handler = binding.handlers[method.name]!;
    // The desk hands grpc-js finished bytes: a response that can't be encoded is its error, logged like any other.
    const asIs = (bytes: Buffer) => bytes;
    if (method.responseStream) {
      const call = desk.stream(binding, method, handler.bind(binding.handlers) as StreamHandler);
      server.register(method.path, call, asIs, method.deserializeRequest, 'serverStream');
    } else {
      const call = desk.unary(binding, method, handler.bind(binding.handlers) as UnaryHandler);
      server.register(method.path, call, asIs, method.deserializeRequest, 'unary');
    }
  }
}

/** Starts a server. Throws a HoldfastError that names the address when it can't listen there. */
export async function createServer(options: ServerOptions): Promise<Server> {
  const { clock, logger } = options;
  const wanted: Address = parseAddress(options.address);
  const grpc = new GrpcServer(channelOptions);
  const desk = new CallDesk({
    clock,
    logger,
    maxCalls: options.maxCalls ?? CALLS_MAX,
    onUnexpected: options.onUnexpected,
    trust: options.trust ?? null,
  });
  for (const binding of options.services) {
    assert(!options.trust || binding.allow !== null, `${binding.name} does not say who may call it`);
    register(grpc, desk, binding);
  }
  // TLS, where there is any, is in front of it.
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure());
  const drops = new Refusals(clock, logger);
  const known = new Set<Socket>();
  const pass = (socket: Socket): void => {
    if (known.size >= CONNECTIONS_MAX) {
      drops.note(socketPeer(socket), 'there are too many connections');
      socket.destroy();
      return;
    }
    known.add(socket);
    socket.once('close', () => known.delete(socket));
    injector.injectConnection(socket);
  };
  const gate = options.trust ? secureGate({ trust: options.trust, clock, logger }, pass) : null;
  const { server: listener, address } = await listenAt(wanted);

  const sockets = new Set<Socket>();
  // Peers that do not say who they are take no place of those that do.
  listener.maxConnections = CONNECTIONS_MAX + (gate === null ? 0 : 2 * PENDING_MAX);
  listener.on('error', (error) => logger.warn({ error: error.message }, 'accepting a connection failed'));
  listener.on('drop', (peer) =>
    drops.note(`${peer?.remoteAddress}:${peer?.remotePort}`, 'there are too many connections'),
  );
  listener.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    if (gate === null) pass(socket);
    else gate.take(socket);
  });

  let closed: Promise<number> | undefined;
  const close = async (graceMs: number): Promise<number> => {
    const stopped = new Promise<void>((resolve) => listener.close(() => resolve()));
    gate?.close();
    desk.beginClose();
    const done = new AbortController();
    const finished = new Promise<void>((resolve) => grpc.tryShutdown(() => resolve())).then(() => done.abort());
    await Promise.race([finished, clock.sleep(graceMs, done.signal).catch(() => {})]);
    const cut = desk.running;
    desk.abortAll();
    grpc.forceShutdown();
    for (const socket of sockets) socket.destroy();
    await stopped;
    if (cut > 0) logger.warn({ address: formatAddress(address), calls: cut }, 'closed with calls still running');
    return cut;
  };
  return {
    address: formatAddress(address),
    port: address.kind === 'tcp' ? address.port : undefined,
    close(graceMs = 5000) {
      closed ??= close(graceMs);
      return closed;
    },
  };
}
