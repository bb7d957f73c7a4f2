// Entries in a map, for tests and simulation. Nothing survives the process.

import { type EntryTable, LocalStore, type Row } from './local-store.js';
import type { MetadataStore, Selection } from './port.js';

class MemoryTable implements EntryTable {
  readonly openedVersion = 0;
  readonly #rows = new Map<string, Row>();

  get(key: string): Row | undefined {
    return this.#rows.get(key);
  }

  range(prefix: string, startAfter: string, limit: number, only?: Selection): Row[] {
    const rows = [...this.#rows.values()].filter(
      (row) => row.key.startsWith(prefix) && row.key > startAfter && isSelected(row, only),
    );
    return rows.sort((a, b) => (a.key < b.key ? -1 : 1)).slice(0, limit);
  }

  write(change: Parameters<EntryTable['write']>[0]): void {
    const { key, version, text, operationId } = change;
    if (text === undefined) this.#rows.delete(key);
    else this.#rows.set(key, { key, version, text, operationId });
  }

  close(): void {
    this.#rows.clear();
  }
}

function isSelected(row: Row, only: Selection | undefined): boolean {
  if (only === undefined) return true;
  const { state, volumeId } = JSON.parse(row.text) as { state?: unknown; volumeId?: unknown };
  return 'unfinished' in only ? (state ?? 'ready') !== 'ready' : volumeId === only.volumeId;
}

export function openMemoryStore(): MetadataStore {
  return new LocalStore(new MemoryTable());
}
