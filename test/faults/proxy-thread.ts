// The thread of the proxies: a fault that waits for a volume must not hold up the bytes that the volume waits for.

import { parentPort, workerData } from 'node:worker_threads';
import { messageOf } from '../../src/base/index.js';
import type { Place } from './network.js';
import { Proxies } from './proxies.js';

export type ProxyOrder =
  | { readonly op: 'expose'; readonly place: Place; readonly port: number }
  | { readonly op: 'block' | 'allow'; readonly from: Place; readonly to: Place }
  | { readonly op: 'slow'; readonly place: Place; readonly slow: boolean }
  | { readonly op: 'reset'; readonly place: Place }
  | { readonly op: 'heal' };

export interface ProxyAnswer {
  readonly id: number;
  /** Connections that were reset. */
  readonly count: number;
  readonly error: string;
}

const proxies = new Proxies(workerData as string);

async function obey(order: ProxyOrder): Promise<number> {
  switch (order.op) {
    case 'expose':
      await proxies.expose(order.place, order.port);
      return 0;
    case 'block':
      proxies.block(order.from, order.to);
      return 0;
    case 'allow':
      proxies.allow(order.from, order.to);
      return 0;
    case 'slow':
      proxies.slow(order.place, order.slow);
      return 0;
    case 'reset':
      return proxies.reset(order.place);
    case 'heal':
      proxies.heal();
      return 0;
  }
}

parentPort!.on('message', ({ id, order }: { readonly id: number; readonly order: ProxyOrder }) => {
  const answer = (count: number, error: string) => parentPort!.postMessage({ id, count, error } satisfies ProxyAnswer);
  obey(order).then(
    (count) => answer(count, ''),
    (error: unknown) => answer(0, messageOf(error)),
  );
});
