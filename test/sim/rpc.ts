// Unary calls between simulated processes: messages are encoded and decoded as on the wire, take their time, and get lost with
// links and processes. Only HTTP/2 and its status codes are left out: an error comes back as it was thrown.

import { HoldfastError, silentLogger, unavailable } from '../../src/base/index.js';
import type { CallContext, CallOptions, LoadedService, ServiceBinding } from '../../src/rpc/index.js';
import type { SimNet } from './net.js';
import type { SimProcess } from './process.js';

/** A process that answers calls. */
export interface Served {
  readonly process: SimProcess;
  readonly services: readonly ServiceBinding[];
}

export interface CallParts {
  readonly net: SimNet;
  readonly caller: SimProcess;
  /** Places in the network. */
  readonly from: string;
  readonly to: string;
  /** Who listens there now. */
  readonly served: () => Served | null;
}

type Method = LoadedService<unknown, unknown>['methods'][number];
type Handler = (request: object, context: CallContext) => Promise<object>;

const DEADLINE_MS = 10_000;

/** The unary methods of a service as a client of `T` has them. */
export function simClient<T>(service: LoadedService<unknown, unknown>, parts: CallParts): T {
  const client: Record<string, unknown> = { close: () => {} };
  for (const method of service.methods)
    client[method.name] = (request: object, options?: CallOptions) =>
      call(service.name, method, parts, request, options);
  return client as T;
}

function call(
  service: string,
  method: Method,
  { net, caller, from, to, served }: CallParts,
  request: object,
  options: CallOptions = {},
): Promise<object> {
  return new Promise((resolve, reject) => {
    const bytes = method.serializeRequest(request);
    const { time } = net;
    let over = false;
    const end = (then: () => void) => {
      if (over) return;
      over = true;
      late.cancel();
      then();
    };
    const late = caller.after(options.deadlineMs ?? DEADLINE_MS, () =>
      end(() => reject(new HoldfastError('DEADLINE_EXCEEDED', `${to} did not answer ${method.name} in time`))),
    );
    const back = (then: () => void) =>
      time.after(net.delay(to, from), () => {
        if (!net.blocked(to, from)) caller.run(() => end(then));
      });
    time.after(net.delay(from, to), () => {
      if (net.blocked(from, to) || !net.up(to)) return;
      const server = served();
      const handler = server?.services.find(({ name }) => name === service)?.handlers[method.name] as
        | Handler
        | undefined;
      if (server === null || handler === undefined) return back(() => reject(unavailable(`${to} refuses connections`)));
      server.process.run(() => {
        const context = {
          method: method.name,
          signal: new AbortController().signal,
          deadlineMs: Number.POSITIVE_INFINITY,
          caller: null,
          logger: silentLogger,
        };
        handler(method.deserializeRequest(bytes), context).then(
          (response) => {
            if (server.process.dead) return;
            const answer = method.serializeResponse(response);
            back(() => resolve(method.deserializeResponse(answer)));
          },
          (error: unknown) => {
            if (!server.process.dead) back(() => reject(error));
          },
        );
      });
    });
  });
}
