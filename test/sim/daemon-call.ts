// A call of a daemon over its socket: it may never come back.

import { HoldfastError } from '../../src/base/index.js';
import type { VirtualTime } from '../lib/crash/virtual-time.js';
import type { Daemon } from './node.js';
import type { SimProcess } from './process.js';

/** How often a caller notices that the other process is gone. */
const NOTICED_MS = 500;

export function callDaemon<T>(
  time: VirtualTime,
  caller: SimProcess,
  daemon: Daemon,
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
      end(() => reject(new HoldfastError('DEADLINE_EXCEEDED', `the daemon of ${daemon.nodeId} did not answer`))),
    );
    const look = () => {
      if (over) return;
      if (daemon.process.dead)
        end(() => reject(new HoldfastError('UNAVAILABLE', `the daemon of ${daemon.nodeId} died`)));
      else caller.after(NOTICED_MS, look);
    };
    caller.after(NOTICED_MS, look);
    const back = (then: () => void) =>
      time.after(0.05, () => {
        if (!daemon.process.dead) end(then);
      });
    daemon.process.run(() =>
      work().then(
        (value) => back(() => resolve(value)),
        (error: unknown) => back(() => reject(error)),
      ),
    );
  });
}
