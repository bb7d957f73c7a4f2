// A gRPC client with promises: every unary call has a deadline, failures are HoldfastErrors, and a server that was restarted
// is found again by the connection itself.

import { createSecureContext } from 'node:tls';
import {
  type ChannelCredentials,
  credentials,
  type CallOptions as GrpcCallOptions,
  Client as GrpcClient,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import { type Clock, HoldfastError, messageOf } from '../base/index.js';
import { checkPart, clientOptions, contextOptions, type Identity, identify, type Trust } from '../trust/index.js';
import { formatAddress, parseAddress } from './address.js';
import { type LoadedMethod, type LoadedService, Undecodable } from './load-service.js';
import { MESSAGE_BYTES_MAX } from './server.js';
import type { CallOptions, Client } from './service-types.js';
import { fromStatus } from './status.js';
import { nameVersions } from './versions.js';

const DEADLINE_MS = 30_000;

export interface ClientOptions {
  readonly clock: Clock;
  /** Of unary calls that name none, in milliseconds; default 30 s. */
  readonly deadlineMs?: number;
  /** Default of all calls, see CallOptions. */
  readonly waitForReady?: boolean;
  /** TLS, with the part of the cluster that must answer; null: plain text, as on unix sockets. */
  readonly security?: CallSecurity | null;
}

export interface CallSecurity {
  readonly trust: Trust;
  readonly server: Pick<Identity, 'role' | 'node'>;
}

const channelOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  // A restarted server should be found within a second, not after the two minutes that are gRPC's own limit.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.min_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5000,
  // Control traffic goes straight to its peer, whatever http_proxy says; nor is DNS asked for service settings.
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  // Two clients of one process do not share a connection: closing one must not depend on the other.
  'grpc.use_local_subchannel_pool': 1,
  // A host's name says nothing here, and an IP address may not stand in a TLS handshake (RFC 6066, section 3).
  'grpc.ssl_target_name_override': 'holdfast',
};

/** Requests are encoded before the call, so that one that can't be is an error with the field's name. */
const asIs = (bytes: Buffer) => bytes;

/** A unix socket costs nothing to try, and what waits for it is the I/O of a volume whose daemon has just started again. */
const unixChannelOptions = {
  ...channelOptions,
  'grpc.initial_reconnect_backoff_ms': 20,
  'grpc.max_reconnect_backoff_ms': 100,
};

/** For connections that begin from now on with these certificates. */
function channelCredentials({ trust, server }: CallSecurity, address: string): ChannelCredentials {
  return credentials.createFromSecureContext(createSecureContext(contextOptions(trust.current)), {
    ...clientOptions,
    // Not the host's name is compared, but what the server is.
    checkServerIdentity: (_host, certificate) => {
      try {
        checkPart(identify(trust, certificate.raw), server, address);
        return undefined;
      } catch (error) {
        return error as Error;
      }
    },
  });
}

/** A connection and the calls under way on it: one with old certificates is closed when the last of them has ended. */
interface Channel {
  readonly grpc: GrpcClient;
  calls: number;
}

const HINT = '; if it is there, it may have refused the certificate of this process: its log says so then';

class Caller {
  #channel: Channel;
  /** Those before it that have calls under way. */
  readonly #former = new Set<Channel>();
  readonly #unwatch: () => void;
  readonly #address: string;
  readonly #options: ClientOptions;
  #closed = false;

  constructor(address: string, options: ClientOptions) {
    const parsed = parseAddress(address);
    this.#address = formatAddress(parsed);
    this.#options = options;
    const { security } = options;
    const [target, settings] =
      parsed.kind === 'unix' ? [`unix:${parsed.path}`, unixChannelOptions] : [this.#address, channelOptions];
    if (!security) {
      this.#channel = { grpc: new GrpcClient(target, credentials.createInsecure(), settings), calls: 0 };
      this.#unwatch = () => {};
      return;
    }
    const connect = (): Channel => ({
      grpc: new GrpcClient(target, channelCredentials(security, this.#address), settings),
      calls: 0,
    });
    this.#channel = connect();
    this.#unwatch = security.trust.watch(() => {
      // Throws where they can't be used: then the old ones stay.
      const next = connect();
      if (this.#channel.calls > 0) this.#former.add(this.#channel);
      else this.#channel.grpc.close();
      this.#channel = next;
    });
  }

  /** Begins a call; whatever `make` throws, none is counted then. */
  #begin<C>(make: (grpc: GrpcClient) => C): { channel: Channel; call: C } {
    const channel = this.#channel;
    const call = make(channel.grpc);
    channel.calls++;
    return { channel, call };
  }

  #end(channel: Channel): void {
    if (--channel.calls === 0 && this.#former.delete(channel)) channel.grpc.close();
  }

  close(): void {
    this.#closed = true;
    this.#unwatch();
    for (const { grpc } of [this.#channel, ...this.#former]) grpc.close();
    this.#former.clear();
  }

  unary(method: LoadedMethod, request: object, options: CallOptions): Promise<object> {
    return new Promise((resolve, reject) => {
      this.#refuse(method, options);
      const message = method.serializeRequest(request);
      const { channel, call } = this.#begin((grpc) =>
        grpc.makeUnaryRequest(
          method.path,
          asIs,
          method.deserializeResponse,
          message,
          this.#metadata(method, options),
          this.#settings(options.deadlineMs ?? this.#options.deadlineMs ?? DEADLINE_MS),
          (error, response) => {
            options.signal?.removeEventListener('abort', cancel);
            this.#end(channel);
            if (error !== null) reject(this.#failure(method, error, options));
            else if (response instanceof Undecodable) reject(this.#undecodable(method, response));
            else resolve(response as object);
          },
        ),
      );
      const cancel = () => call.cancel();
      options.signal?.addEventListener('abort', cancel, { once: true });
    });
  }

  async *stream(method: LoadedMethod, request: object, options: CallOptions): AsyncGenerator<object> {
    this.#refuse(method, options);
    const message = method.serializeRequest(request);
    const { channel, call } = this.#begin((grpc) =>
      grpc.makeServerStreamRequest(
        method.path,
        asIs,
        method.deserializeResponse,
        message,
        this.#metadata(method, options),
        this.#settings(options.deadlineMs),
      ),
    );
    const cancel = () => call.cancel();
    options.signal?.addEventListener('abort', cancel, { once: true });
    // A status that arrives after the loop was left has no other listener, and would end the process.
    call.on('error', () => {});
    try {
      for await (const message of call) {
        if (message instanceof Undecodable) throw this.#undecodable(method, message);
        yield message as object;
      }
    } catch (error) {
      throw this.#failure(method, error, options);
    } finally {
      options.signal?.removeEventListener('abort', cancel);
      call.cancel();
      this.#end(channel);
    }
  }

  #metadata(method: LoadedMethod, options: CallOptions): Metadata {
    const metadata = new Metadata({ waitForReady: options.waitForReady ?? this.#options.waitForReady ?? false });
    nameVersions(metadata, method.path);
    return metadata;
  }

  #settings(deadlineMs: number | undefined): GrpcCallOptions {
    if (deadlineMs === undefined || !Number.isFinite(deadlineMs)) return {};
    return { deadline: this.#options.clock.wallMs() + deadlineMs };
  }

  /** What grpc-js would throw synchronously or notice late. */
  #refuse(method: LoadedMethod, options: CallOptions): void {
    if (this.#closed) {
      throw new HoldfastError('UNAVAILABLE', `${method.name}: the client of ${this.#address} is closed`, {
        reason: 'Closed',
      });
    }
    if (options.signal?.aborted) throw this.#cancelled(method, options.signal);
  }

  #cancelled(method: LoadedMethod, signal: AbortSignal): HoldfastError {
    return new HoldfastError('CANCELLED', `${method.name} at ${this.#address} was cancelled`, { cause: signal.reason });
  }

  #undecodable(method: LoadedMethod, response: Undecodable): HoldfastError {
    return new HoldfastError(
      'INTERNAL',
      `${method.name} at ${this.#address} answered what can't be used: ${response.error.message}`,
      { reason: 'Protocol', cause: response.error },
    );
  }

  #failure(method: LoadedMethod, error: unknown, options: CallOptions): HoldfastError {
    if (error instanceof HoldfastError) return error;
    if (options.signal?.aborted) return this.#cancelled(method, options.signal);
    if (isServiceError(error)) {
      const { code, message, reason } = fromStatus(error, method.name, this.#address, error);
      // A server that refuses a certificate ends the connection without a word.
      const hint = this.#options.security && reason === 'Unreachable' ? HINT : '';
      return new HoldfastError(code, message + hint, { reason, cause: error });
    }
    return new HoldfastError('INTERNAL', `${method.name} at ${this.#address}: ${messageOf(error)}`, { cause: error });
  }
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error;
}

/** A client of one service at unix:///path or host:port. It connects at its first call. */
export function createClient<D, H>(
  address: string,
  service: LoadedService<D, H>,
  options: ClientOptions,
): Client<D, H> {
  const caller = new Caller(address, options);
  const client: Record<string, unknown> = { close: () => caller.close() };
  for (const method of service.methods) {
    client[method.name] = method.responseStream
      ? (request: object, call: CallOptions = {}) => caller.stream(method, request, call)
      : (request: object, call: CallOptions = {}) => caller.unary(method, request, call);
  }
  return client as Client<D, H>;
}
