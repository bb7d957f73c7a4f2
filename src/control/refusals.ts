// Pools that lately would not take a new replica, and why: of one volume, or, when they did not answer at all, of any.
// Owner: the repair loop. May be lost at any time: then they are asked again.

import type { Clock, PoolId, VolumeId } from '../base/index.js';
import { REFUSED_MS } from './limits.js';

interface Refusal {
  readonly message: string;
  readonly sinceMs: number;
}

export class Refusals {
  readonly #clock: Clock;
  readonly #ofVolume = new Map<VolumeId, Map<PoolId, Refusal>>();
  readonly #mute = new Map<PoolId, Refusal>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `mute`: it did not answer for long, and would not answer for other volumes either. */
  note(id: VolumeId, poolId: PoolId, message: string, mute: boolean): void {
    const refusal = { message, sinceMs: this.#clock.monotonicMs() };
    const all = this.#ofVolume.get(id) ?? new Map<PoolId, Refusal>();
    this.#ofVolume.set(id, all.set(poolId, refusal));
    if (mute) this.#mute.set(poolId, refusal);
  }

  by(id: VolumeId): Map<PoolId, string> {
    const found = new Map<PoolId, string>();
    for (const all of [this.#mute, this.#ofVolume.get(id) ?? new Map<PoolId, Refusal>()]) {
      for (const [poolId, { message, sinceMs }] of all) {
        if (this.#clock.monotonicMs() - sinceMs > REFUSED_MS) all.delete(poolId);
        else found.set(poolId, message);
      }
    }
    return found;
  }

  /** It has taken one. */
  took(poolId: PoolId): void {
    this.#mute.delete(poolId);
  }

  forget(id: VolumeId): void {
    this.#ofVolume.delete(id);
  }
}
