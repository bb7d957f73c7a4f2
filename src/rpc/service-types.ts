// From generated types to the shapes handlers and callers see: promises, and async iterables for server streams. `D` is a
// generated ...Definition (it knows the messages), `H` the generated ...Handlers (it knows which methods stream).

import type { MethodDefinition } from '@grpc/proto-loader';
import type { Logger } from '../base/index.js';
import type { Identity } from '../trust/index.js';

type NamesOf<T> = keyof { [K in keyof T as string extends K ? never : K]: T[K] } & string;

// A streaming handler takes the call alone; a unary one also takes a callback, and so does not extend this.
type Streams<H, K> = K extends keyof H ? (H[K] extends (call: never) => unknown ? true : false) : false;

/** What a handler is told about the call it answers. */
export interface CallContext {
  /** Method name without its service, e.g. "CreateVolume". */
  readonly method: string;
  /** Aborted when the caller cancelled, when the deadline passed and when the server closes. */
  readonly signal: AbortSignal;
  /** When the deadline passes, on the clock's monotonicMs(); Infinity without one. */
  readonly deadlineMs: number;
  /** Whom the caller's certificate names; null where none is asked for. */
  readonly caller: Identity | null;
  /** Names the call and those fields of the request that may be logged. */
  readonly logger: Logger;
}

export interface CallOptions {
  /** Milliseconds from now. Unary calls have the client's default without it; streams have none. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
  /** Wait (within the deadline) for a server that cannot be reached instead of failing at once. */
  readonly waitForReady?: boolean;
}

/** The methods a server implements: `(request, context) => Promise<response>`, or an async iterable of responses. */
export type Handlers<D, H> = {
  readonly [K in NamesOf<D>]: D[K] extends MethodDefinition<infer _In, infer Out, infer In, infer _Out>
    ? Streams<H, K> extends true
      ? (request: In, context: CallContext) => AsyncIterable<Out>
      : (request: In, context: CallContext) => Promise<Out>
    : never;
};

/** The methods a client offers; failures are HoldfastErrors. */
export type Client<D, H> = {
  readonly [K in NamesOf<D>]: D[K] extends MethodDefinition<infer In, infer _Out, infer _In, infer Out>
    ? Streams<H, K> extends true
      ? (request: In, options?: CallOptions) => AsyncIterable<Out>
      : (request: In, options?: CallOptions) => Promise<Out>
    : never;
} & {
  /** Ends the connection; calls under way fail. */
  close(): void;
};
