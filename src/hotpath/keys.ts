// The keys of one reign, derived from the lineage's data key (HKDF, RFC 5869): the reign id is the salt, random and durable
// on every in-sync replica before first use, so no (key, nonce) pair ever seals twice.

import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { type LineageId, type ReignId, uuidToBytes } from '../base/index.js';
import type { Reign } from '../format/index.js';

export interface ReignKeys {
  readonly record: KeyObject;
  readonly frame: KeyObject;
}

/** Derives and keeps the keys of every reign whose records the log holds. */
export class KeyRing {
  readonly lineage: Buffer;
  readonly keyed: boolean;
  #dataKey: Buffer | null;
  #byEpoch = new Map<number, ReignKeys>();
  #reigns = new Map<number, ReignId>();

  /** `dataKey`: 32 bytes, or null for a plain volume. The ring keeps its own copy until destroy(). */
  constructor(lineageId: LineageId, dataKey: Buffer | null) {
    this.lineage = Buffer.alloc(16);
    uuidToBytes(lineageId, this.lineage, 0);
    this.#dataKey = dataKey === null ? null : Buffer.from(dataKey);
    this.keyed = dataKey !== null;
  }
  addReign(reign: Reign): void {
    this.#reigns.set(reign.epoch, reign.reignId);
  }
  /** Undefined when the ring has no data key or never heard of the epoch. */
  keysOf(epoch: number): ReignKeys | undefined {
    const known = this.#byEpoch.get(epoch);
    if (known) return known;
    const reignId = this.#reigns.get(epoch);
    if (this.#dataKey === null || reignId === undefined) return undefined;
    const salt = Buffer.alloc(16);
    uuidToBytes(reignId, salt, 0);
    const derive = (info: string) => createSecretKey(Buffer.from(hkdfSync('sha256', this.#dataKey!, salt, info, 32)));
    const keys = { record: derive('holdfast record v1'), frame: derive('holdfast frame v1') };
    this.#byEpoch.set(epoch, keys);
    return keys;
  }
  destroy(): void {
    this.#dataKey?.fill(0);
    this.#dataKey = null;
    this.#byEpoch.clear();
  }
}
