// The keys of one reign, derived from the lineage's data key (HKDF, RFC 5869): the reign id is the salt, random and durable
// on every in-sync replica before first use, so no (key, nonce) pair ever seals twice.
//
// Owner: one open volume, until destroy(). With the native kernel the data key and everything derived lie in its memory only (locked
// where the process may, zeroed at destroy()); a ring then works with that kernel alone. Without it they are Node's key objects.

import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { assert, type LineageId, type ReignId, uuidToBytes } from '../base/index.js';
import type { Reign } from '../format/index.js';
import { nativeBinding } from './native.js';
import type { NativeKernel } from './native-binding.js';

export interface ReignKeys {
  readonly record: KeyObject;
  readonly frame: KeyObject;
}

/** A ring that is forgotten without destroy() is an oversight, and no reason to keep its key. */
const forgotten = new FinalizationRegistry<{ native: NativeKernel; handle: number }>(({ native, handle }) =>
  native.ringDestroy(handle),
);

/** Derives and keeps the keys of every reign whose records the log holds. */
export class KeyRing {
  readonly lineage: Buffer;
  readonly keyed: boolean;
  #dataKey: Buffer | null;
  #byEpoch = new Map<number, ReignKeys>();
  #reigns = new Map<number, ReignId>();
  readonly #native: NativeKernel | null;
  #handle = 0;

  /** `dataKey`: 32 bytes, or null for a plain volume. The ring keeps its own copy until destroy(). */
  constructor(lineageId: LineageId, dataKey: Buffer | null, native: NativeKernel | null = nativeBinding()) {
    this.lineage = Buffer.alloc(16);
    uuidToBytes(lineageId, this.lineage, 0);
    this.keyed = dataKey !== null;
    this.#native = native;
    this.#dataKey = dataKey === null || native !== null ? null : Buffer.from(dataKey);
    if (dataKey !== null && native !== null) {
      this.#handle = native.ringCreate(this.lineage, dataKey);
      forgotten.register(this, { native, handle: this.#handle }, this);
    }
  }
  addReign(reign: Reign): void {
    this.#reigns.set(reign.epoch, reign.reignId);
    this.#byEpoch.delete(reign.epoch);
    if (this.#handle !== 0) this.#native!.ringAddReign(this.#handle, reign.epoch, saltOf(reign.reignId));
  }
  /** Whether records of that epoch can be opened. */
  knows(epoch: number): boolean {
    return this.keyed && this.#reigns.has(epoch);
  }
  /** The native kernel's name for this ring; 0 when it has no key or was destroyed. */
  get handle(): number {
    return this.#handle;
  }
  /** Undefined when the ring has no data key or never heard of the epoch. Not for rings of the native kernel, which give no key out. */
  keysOf(epoch: number): ReignKeys | undefined {
    assert(!this.keyed || this.#native === null, "a native ring's keys stay there");
    const known = this.#byEpoch.get(epoch);
    if (known) return known;
    const reignId = this.#reigns.get(epoch);
    if (this.#dataKey === null || reignId === undefined) return undefined;
    const salt = saltOf(reignId);
    const derive = (info: string) => createSecretKey(Buffer.from(hkdfSync('sha256', this.#dataKey!, salt, info, 32)));
    const keys = { record: derive('holdfast record v1'), frame: derive('holdfast frame v1') };
    this.#byEpoch.set(epoch, keys);
    return keys;
  }
  destroy(): void {
    this.#dataKey?.fill(0);
    this.#dataKey = null;
    this.#byEpoch.clear();
    if (this.#handle !== 0) this.#native!.ringDestroy(this.#handle);
    this.#handle = 0;
    forgotten.unregister(this);
  }
}

function saltOf(reignId: ReignId): Buffer {
  const salt = Buffer.alloc(16);
  uuidToBytes(reignId, salt, 0);
  return salt;
}
