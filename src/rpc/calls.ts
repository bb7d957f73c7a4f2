// What surrounds every handler: decode, refuse what is over the limit, log (through the allow-list), a signal for cancel,
// deadline and shutdown, and the way from whatever is thrown to a status. Owner: the server; one CallDesk a server.

import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js';
import { asHoldfastError, type Clock, HoldfastError, type Logger, unavailable } from '../base/index.js';
import { checkRole, type Identity, identify, partOf, type Role, type Trust } from '../trust/index.js';
import { logFailure, requestFields, scrub } from './call-log.js';
import { secretsIn } from './codec.js';
import { type LoadedMethod, Undecodable } from './load-service.js';
import type { CallContext } from './service-types.js';
import { toStatus } from './status.js';
import { checkVersions } from './versions.js';

export type UnaryHandler = (request: object, context: CallContext) => Promise<object>;
export type StreamHandler = (request: object, context: CallContext) => AsyncIterable<object>;
type AnyCall = ServerUnaryCall<object, Buffer> | ServerWritableStream<object, Buffer>;

interface Running {
  readonly context: CallContext;
  readonly startedMs: number;
  readonly abort: AbortController;
}

export interface CallDeskOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Calls answered at the same time; one more gets RESOURCE_EXHAUSTED. */
  readonly maxCalls: number;
  /** Told of errors that are not HoldfastErrors (broken assertions among them), after they were logged and answered. */
  readonly onUnexpected?: (error: unknown) => void;
  /** Null: nobody is asked who they are. */
  readonly trust: Trust | null;
}

/** What the desk knows of the service it answers for. */
export interface ServedService {
  readonly name: string;
  readonly logFields: readonly string[];
  /** Roles that may call each method; who is not named may not. Looked at only where certificates are asked for. */
  readonly allow: Readonly<Record<string, readonly Role[]>> | null;
}

export class CallDesk {
  readonly #options: CallDeskOptions;
  readonly #unary = new Set<AbortController>();
  readonly #streams = new Set<AbortController>();
  #closing = false;

  constructor(options: CallDeskOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#unary.size + this.#streams.size;
  }

  /** From now on new calls are refused and streams end; unary calls may finish. */
  beginClose(): void {
    this.#closing = true;
    for (const abort of this.#streams) abort.abort(unavailable('this server is shutting down'));
  }

  /** Aborts what still runs. */
  abortAll(): void {
    for (const abort of [...this.#unary, ...this.#streams]) abort.abort(unavailable('this server is shutting down'));
  }

  unary(service: ServedService, method: LoadedMethod, handler: UnaryHandler) {
    return async (call: ServerUnaryCall<object, Buffer>, callback: sendUnaryData<Buffer>): Promise<void> => {
      let running: Running | undefined;
      try {
        const request = this.#decoded(call);
        running = this.#begin(service, method, call, request, this.#unary);
        const response = await handler(request, running.context);
        callback(null, method.serializeResponse(response));
        this.#succeeded(running);
      } catch (error) {
        callback(toStatus(this.#failed(service.name, method, call, error, running)));
      } finally {
        if (running !== undefined) this.#unary.delete(running.abort);
      }
    };
  }

  stream(service: ServedService, method: LoadedMethod, handler: StreamHandler) {
    return async (call: ServerWritableStream<object, Buffer>): Promise<void> => {
      let running: Running | undefined;
      try {
        const request = this.#decoded(call);
        running = this.#begin(service, method, call, request, this.#streams);
        const { signal } = running.context;
        for await (const message of handler(request, running.context)) {
          if (signal.aborted) break;
          if (!call.write(method.serializeResponse(message))) await drained(call, signal);
        }
        signal.throwIfAborted();
        call.end();
        this.#succeeded(running);
      } catch (error) {
        // An 'error' event on a server stream is how grpc-js is told the status.
        call.emit('error', toStatus(this.#failed(service.name, method, call, error, running)));
      } finally {
        if (running !== undefined) this.#streams.delete(running.abort);
      }
    };
  }

  #decoded(call: AnyCall): object {
    if (call.request instanceof Undecodable) throw call.request.error;
    return call.request;
  }

  #begin(
    service: ServedService,
    method: LoadedMethod,
    call: AnyCall,
    request: object,
    group: Set<AbortController>,
  ): Running {
    const { clock, maxCalls } = this.#options;
    if (this.#closing) throw unavailable('this server is shutting down; try again when it is back');
    if (this.running >= maxCalls) {
      throw new HoldfastError('RESOURCE_EXHAUSTED', `this process already answers ${this.running} calls; retry later`, {
        reason: 'Busy',
      });
    }
    const caller = this.#caller(service, method, call);
    checkVersions(service.name, caller === null ? 'the caller' : partOf(caller), call.metadata);
    const startedMs = clock.monotonicMs();
    const deadline = Number(call.getDeadline());
    const deadlineMs = Number.isFinite(deadline) ? startedMs + deadline - clock.wallMs() : Number.POSITIVE_INFINITY;
    const abort = new AbortController();
    const stop = () => abort.abort(stopReason(method.name, clock.monotonicMs() >= deadlineMs));
    if (call.cancelled) stop();
    else call.once('cancelled', stop);
    group.add(abort);
    const logger = this.#logger(service.name, method, requestFields(request, service.logFields));
    logger.debug({}, 'call');
    return { context: { method: method.name, signal: abort.signal, deadlineMs, caller, logger }, startedMs, abort };
  }

  /** Throws UNAUTHENTICATED/BadCertificate or PERMISSION_DENIED/WrongRole. */
  #caller(service: ServedService, method: LoadedMethod, call: AnyCall): Identity | null {
    const { trust } = this.#options;
    if (trust === null) return null;
    // Verified when the connection was made; absent if it was not.
    const raw = call.getAuthContext()?.sslPeerCertificate?.raw;
    if (raw === undefined)
      throw new HoldfastError('UNAUTHENTICATED', 'the caller has shown no certificate', { reason: 'BadCertificate' });
    const caller = identify(trust, raw, this.#options.clock.wallMs());
    checkRole(caller, service.allow?.[method.name] ?? [], `call ${service.name}/${method.name}`);
    return caller;
  }

  #logger(service: string, method: LoadedMethod, fields: Record<string, unknown>): Logger {
    return this.#options.logger.child({ call: `${service}/${method.name}`, ...fields });
  }

  #succeeded(running: Running): void {
    const durationMs = Math.round(this.#options.clock.monotonicMs() - running.startedMs);
    running.context.logger.debug({ durationMs }, 'answered');
  }

  /** Logs the failure and makes it fit to leave the process: no stack, no secret of the request. */
  #failed(
    service: string,
    method: LoadedMethod,
    call: AnyCall,
    thrown: unknown,
    running: Running | undefined,
  ): HoldfastError {
    const error = asHoldfastError(thrown);
    const secrets = call.request instanceof Undecodable ? [] : secretsIn(method.requestType, call.request);
    const durationMs = running === undefined ? 0 : this.#options.clock.monotonicMs() - running.startedMs;
    logFailure(running?.context.logger ?? this.#logger(service, method, {}), error, durationMs, secrets);
    if (!(thrown instanceof HoldfastError)) this.#options.onUnexpected?.(thrown);
    return new HoldfastError(error.code, scrub(error.message, secrets), { reason: error.reason });
  }
}

function stopReason(method: string, late: boolean): HoldfastError {
  return late
    ? new HoldfastError('DEADLINE_EXCEEDED', `the deadline of ${method} has passed`, { reason: 'Deadline' })
    : new HoldfastError('CANCELLED', `the caller cancelled ${method}`);
}

function drained(call: ServerWritableStream<object, Buffer>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      call.removeListener('drain', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    call.once('drain', done);
    signal.addEventListener('abort', done, { once: true });
    if (signal.aborted) done();
  });
}
