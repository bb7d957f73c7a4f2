// The recent past of a store and those who follow it. Owner: one LocalStore, which publishes each change after it is
// durable. Invariants: versions in the ring are consecutive (each change takes the next one); a watcher is only a cursor
// into the ring, so a slow one costs no memory: when the ring has moved past it, it is told to resync. May fail: nothing
// but a listener, whose error ends its own watch.

import { assert } from '../base/index.js';
import type { JsonObject, WatchEvent, WatchListener } from './port.js';

export interface Change {
  readonly version: number;
  readonly key: string;
  /** JSON; undefined for a deletion. */
  readonly text: string | undefined;
  readonly operationId: string | undefined;
}

/** Enough for a reconnect after a controller's restart-free hiccup at thousands of changes; bytes bound the worst case. */
const RING_CHANGES_MAX = 4096;
const RING_BYTES_MAX = 16 * 1024 * 1024;
/** One delivery; also keeps a message of the remote store well below its limit. */
const BATCH_EVENTS_MAX = 256;
const BATCH_BYTES_MAX = 2 * 1024 * 1024;

function sizeOf(change: Change): number {
  return change.key.length + (change.text?.length ?? 0) + 64;
}

function eventOf(change: Change): WatchEvent {
  const { version, key, text } = change;
  if (text === undefined) return { type: 'delete', version, key };
  return { type: 'put', version, entry: { key, version, value: JSON.parse(text) as JsonObject } };
}

export class ChangeFeed {
  /** Changes floor+1 .. version. */
  readonly #ring: Change[] = [];
  readonly #operations = new Map<string, number>();
  readonly #waiting = new Set<() => void>();
  #floor: number;
  #bytes = 0;
  #closed = false;

  /** `version`: of the store as it was opened; what was before is not known here. */
  constructor(version: number) {
    this.#floor = version;
  }

  get version(): number {
    return this.#floor + this.#ring.length;
  }

  publish(change: Change): void {
    assert(change.version === this.version + 1, `change ${change.version} follows ${this.version}`);
    this.#ring.push(change);
    this.#bytes += sizeOf(change);
    if (change.operationId) this.#operations.set(change.operationId, change.version);
    while (this.#ring.length > RING_CHANGES_MAX || this.#bytes > RING_BYTES_MAX) this.#forgetOldest();
    this.#wakeAll();
  }

  /** The version that operation made, as far as the ring remembers. */
  versionOf(operationId: string): number | undefined {
    return this.#operations.get(operationId);
  }

  watch(prefix: string, fromVersion: number, listener: WatchListener, signal: AbortSignal): Promise<void> {
    return this.#follow(prefix, fromVersion, listener, signal);
  }

  close(): void {
    this.#closed = true;
    this.#wakeAll();
  }

  async #follow(prefix: string, fromVersion: number, listener: WatchListener, signal: AbortSignal): Promise<void> {
    let cursor = fromVersion;
    while (!signal.aborted && !this.#closed) {
      const batch = this.#after(cursor, prefix);
      cursor = batch.cursor;
      if (batch.events.length > 0) await listener(batch.events);
      else await this.#changed(signal);
    }
  }

  #after(cursor: number, prefix: string): { events: WatchEvent[]; cursor: number } {
    const version = this.version;
    if (cursor > version || cursor < this.#floor) return { events: [{ type: 'resync', version }], cursor: version };
    const events: WatchEvent[] = [];
    let bytes = 0;
    let at = cursor;
    while (at < version && events.length < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX) {
      const change = this.#ring[at - this.#floor]!;
      at++;
      if (!change.key.startsWith(prefix)) continue;
      events.push(eventOf(change));
      bytes += sizeOf(change);
    }
    return { events, cursor: at };
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }

  #wakeAll(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  #forgetOldest(): void {
    const oldest = this.#ring.shift()!;
    this.#floor = oldest.version;
    this.#bytes -= sizeOf(oldest);
    if (oldest.operationId) this.#operations.delete(oldest.operationId);
  }
}
