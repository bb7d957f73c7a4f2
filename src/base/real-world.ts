// The real clock and randomness. Built in main/ and in tests of real processes only.

import { randomBytes } from 'node:crypto';
import { uuidFromRandom } from './ids.js';
import type { Clock, Random } from './world.js';

export const realClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  after(delayMs, fn) {
    const timer = setTimeout(fn, delayMs);
    return { cancel: () => clearTimeout(timer) };
  },
  sleep(delayMs, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const onAbort = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, delayMs);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  },
};

export const realRandom: Random = {
  bytes: (length) => randomBytes(length),
  uuid: () => uuidFromRandom(randomBytes(16)),
};
