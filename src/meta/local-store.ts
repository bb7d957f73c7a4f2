// The store over a table in this process: checks, compare-and-swap, versions and watches, the same for every table. Owner of
// the table. Invariants: a change is published after the table has made it durable, never before; versions rise by one.
// What may fail: the table; its error is the caller's, and a table that failed for good says so each time.

import { HoldfastError, invalid } from '../base/index.js';
import { ChangeFeed } from './change-feed.js';
import type {
  JsonObject,
  ListOptions,
  MetadataStore,
  MetaEntry,
  Selection,
  SwapResult,
  WatchListener,
} from './port.js';
import {
  checkKey,
  checkLimit,
  checkOperation,
  checkPrefix,
  checkSelection,
  checkVersion,
  encodeValue,
} from './validate.js';

export interface Row {
  readonly key: string;
  readonly version: number;
  /** JSON */
  readonly text: string;
  /** Of the change that wrote it. */
  readonly operationId: string | undefined;
}

/** Where the entries are. Synchronous: two calls can't interleave, so a check followed by a write is atomic. */
export interface EntryTable {
  /** The store's version as it was opened. */
  readonly openedVersion: number;
  get(key: string): Row | undefined;
  /** Rows with startAfter < key, key beginning with prefix, by key, at most `limit`; of these only those selected. */
  range(prefix: string, startAfter: string, limit: number, only?: Selection): Row[];
  /** Puts (or, without text, deletes) the row and raises the store's version; durable and whole, or not at all. */
  write(change: { key: string; version: number; text: string | undefined; operationId: string | undefined }): void;
  close(): void;
}

function entryOf<T extends object>(row: Row): MetaEntry<T> {
  return { key: row.key, version: row.version, value: JSON.parse(row.text) as T };
}

export class LocalStore implements MetadataStore {
  readonly #table: EntryTable;
  readonly #feed: ChangeFeed;
  #closed = false;

  constructor(table: EntryTable) {
    this.#table = table;
    this.#feed = new ChangeFeed(table.openedVersion);
  }

  async get<T extends object = JsonObject>(key: string): Promise<MetaEntry<T> | undefined> {
    this.#refuseClosed();
    checkKey(key);
    const row = this.#table.get(key);
    return row === undefined ? undefined : entryOf<T>(row);
  }

  async list<T extends object = JsonObject>(
    prefix: string,
    options: ListOptions = {},
  ): Promise<{ entries: MetaEntry<T>[]; version: number }> {
    this.#refuseClosed();
    checkPrefix(prefix);
    checkLimit(options.limit);
    if (options.startAfter !== undefined && options.startAfter !== '') checkKey(options.startAfter);
    checkSelection(options.only);
    const limit = options.limit ?? Number.MAX_SAFE_INTEGER;
    const rows = this.#table.range(prefix, options.startAfter ?? '', limit, options.only);
    return { entries: rows.map((row) => entryOf<T>(row)), version: this.#feed.version };
  }

  async compareAndSwap<T extends object = JsonObject>(
    key: string,
    expectedVersion: number,
    value: T | undefined,
    operationId?: string,
  ): Promise<SwapResult<T>> {
    this.#refuseClosed();
    checkKey(key);
    checkVersion(expectedVersion, 'the expected version');
    checkOperation(operationId);
    if (value === undefined && expectedVersion === 0) {
      throw invalid(`deleting ${key} needs the version it has; 0 says that it must not exist`);
    }
    const text = value === undefined ? undefined : encodeValue(key, value);
    const row = this.#table.get(key);
    if ((row?.version ?? 0) !== expectedVersion) return this.#conflict<T>(row, operationId);
    const version = this.#feed.version + 1;
    const change = { key, version, text, operationId: operationId || undefined };
    this.#table.write(change);
    this.#feed.publish(change);
    return { ok: true, version };
  }

  watch(prefix: string, fromVersion: number, listener: WatchListener, signal: AbortSignal): Promise<void> {
    try {
      this.#refuseClosed();
      checkPrefix(prefix);
      checkVersion(fromVersion, 'the version to watch from');
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#feed.watch(prefix, fromVersion, listener, signal);
  }

  async version(): Promise<number> {
    this.#refuseClosed();
    return this.#feed.version;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#feed.close();
    this.#table.close();
  }

  /** A conflict, unless the change in the way is the very one that is being repeated. */
  #conflict<T extends object>(row: Row | undefined, operationId: string | undefined): SwapResult<T> {
    if (operationId) {
      const done = this.#feed.versionOf(operationId) ?? (row?.operationId === operationId ? row.version : undefined);
      if (done !== undefined) return { ok: true, version: done };
    }
    return { ok: false, current: row === undefined ? undefined : entryOf<T>(row) };
  }

  #refuseClosed(): void {
    if (this.#closed) throw new HoldfastError('UNAVAILABLE', 'the metadata store is closed', { reason: 'Closed' });
  }
}
