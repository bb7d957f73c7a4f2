// The exports a server offers, by name. Owner: whoever opens and closes volumes. Names are unique; '' stands for the only
// export when there is exactly one. A device that closes, or an export that is removed, is told to the servers that
// subscribed, so that they drop its connections.

import { HoldfastError, invalid, printable } from '../base/index.js';
import type { BlockDevice } from '../engine/index.js';
import { STRING_BYTES_MAX } from './constants.js';

export interface NbdExport {
  /** 1..4096 bytes of UTF-8 without NUL. */
  readonly name: string;
  /** For people; at most 4096 bytes. */
  readonly description?: string;
  readonly device: BlockDevice;
}

export class ExportTable {
  readonly #exports = new Map<string, NbdExport>();
  readonly #goneListeners = new Set<(gone: NbdExport) => void>();

  /** Throws INVALID_ARGUMENT for a name the protocol can't carry, ALREADY_EXISTS for one that is taken. */
  add(entry: NbdExport): void {
    const nameBytes = Buffer.byteLength(entry.name, 'utf8');
    if (nameBytes === 0 || nameBytes > STRING_BYTES_MAX || entry.name.includes('\0')) {
      throw invalid(`export name must have 1 to ${STRING_BYTES_MAX} bytes and no NUL: ${printable(entry.name)}`);
    }
    if (Buffer.byteLength(entry.description ?? '', 'utf8') > STRING_BYTES_MAX) {
      throw invalid(`description of export ${printable(entry.name)} is longer than ${STRING_BYTES_MAX} bytes`);
    }
    if (this.#exports.has(entry.name)) {
      throw new HoldfastError('ALREADY_EXISTS', `export ${printable(entry.name)} exists; remove it first`);
    }
    this.#exports.set(entry.name, entry);
    entry.device.onClosed(() => this.#tellGone(entry));
  }

  /** Takes the export away and has its connections dropped. Unknown names are ignored. */
  remove(name: string): void {
    const entry = this.#exports.get(name);
    if (entry === undefined) return;
    this.#exports.delete(name);
    this.#tellGone(entry);
  }

  find(name: string): NbdExport | undefined {
    if (name !== '' || this.#exports.size !== 1) return this.#exports.get(name);
    return this.#exports.values().next().value;
  }

  list(): readonly NbdExport[] {
    return [...this.#exports.values()];
  }

  /** Calls `listener` for each export that was removed or whose device closed. Returns the way out. */
  onGone(listener: (gone: NbdExport) => void): () => void {
    this.#goneListeners.add(listener);
    return () => this.#goneListeners.delete(listener);
  }

  #tellGone(entry: NbdExport): void {
    for (const listener of this.#goneListeners) listener(entry);
  }
}
