// Read, change, compare-and-swap, again while others were faster: the way almost every change is made.

import { type Clock, HoldfastError } from '../base/index.js';
import type { MetadataStore } from './port.js';

export interface UpdateOptions {
  readonly clock: Clock;
  /** Times the change is tried; default 16. */
  readonly attempts?: number;
}

export interface Updated<T> {
  /** False when the change said 'unchanged' (or deleted what did not exist). */
  readonly changed: boolean;
  /** As it is now; undefined when there is none. */
  readonly value: T | undefined;
  /** Of the entry, or of its deletion; 0 when there never was one. */
  readonly version: number;
}

const ATTEMPTS = 16;
const PAUSE_MS_MAX = 100;

/**
 * Replaces the value of `key` by what `change` makes of it: a new object, undefined to delete, 'unchanged' to leave it. It may
 * be called several times and must depend on nothing but its argument; what it throws ends the update, nothing written. When
 * the store could not tell whether a swap took effect, the change is applied to what is there now: let it be one that does
 * no harm twice ("set to", not "add to").
 * Throws ABORTED (Conflict) when others were faster each time.
 */
export async function update<T extends object>(
  store: MetadataStore,
  key: string,
  change: (value: T | undefined) => T | undefined | 'unchanged',
  options: UpdateOptions,
): Promise<Updated<T>> {
  const attempts = options.attempts ?? ATTEMPTS;
  for (let attempt = 0; attempt < attempts; attempt++) {
    // The first repetition is immediate: a single conflict is the common case.
    if (attempt > 1) await options.clock.sleep(Math.min(2 ** attempt, PAUSE_MS_MAX));
    const entry = await store.get<T>(key);
    const value = change(entry?.value);
    if (value === 'unchanged' || (value === undefined && entry === undefined)) {
      return { changed: false, value: entry?.value, version: entry?.version ?? 0 };
    }
    const swapped = await swapOrConflict(store, key, entry?.version ?? 0, value);
    if (swapped !== undefined) return { changed: true, value, version: swapped };
  }
  throw new HoldfastError(
    'ABORTED',
    `${key} was changed by others ${attempts} times while it was to be changed; retry`,
    {
      reason: 'Conflict',
    },
  );
}

/** The new version, or undefined when the entry has to be read again: a conflict, or an outcome the store could not tell. */
async function swapOrConflict<T extends object>(
  store: MetadataStore,
  key: string,
  expected: number,
  value: T | undefined,
): Promise<number | undefined> {
  try {
    const result = await store.compareAndSwap<T>(key, expected, value);
    return result.ok ? result.version : undefined;
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'ABORTED' && error.reason === 'Conflict') return undefined;
    throw error;
  }
}
