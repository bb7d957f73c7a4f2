// A call of another process over a local socket, as whoever orders things makes it: it may never come back.

import { HoldfastError } from '../../src/base/index.js';
import type { VirtualTime } from '../lib/crash/virtual-time.js';
import type { SimProcess } from './process.js';

/** How often a caller notices that the other process is gone. */
const NOTICED_MS = 500;

export function callProcess<T>(
  time: VirtualTime,
  caller: SimProcess,
  callee: SimProcess,
  timeoutMs: number,
  work: () => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    let over = false;
    const end = (then: () => void) => {
      if (over) return;
      over = true;
      late.cancel();
      then();
    };
    const late = caller.after(timeoutMs, () =>
      end(() => reject(new HoldfastError('DEADLINE_EXCEEDED', `${callee.name} did not answer`))),
    );
    const look = () => {
      if (over) return;
      if (callee.dead) end(() => reject(new HoldfastError('UNAVAILABLE', `${callee.name} died`)));
      else caller.after(NOTICED_MS, look);
    };
    caller.after(NOTICED_MS, look);
    const back = (then: () => void) =>
      time.after(0.05, () => {
        if (!callee.dead) end(then);
      });
    callee.run(() =>
      work().then(
        (value) => back(() => resolve(value)),
        (error: unknown) => back(() => reject(error)),
      ),
    );
  });
}
