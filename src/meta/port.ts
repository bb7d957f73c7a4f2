// The metadata port: a small, strongly consistent store of JSON objects with compare-and-swap. All control state lives
// behind it and nowhere else. Back ends: memory, sqlite (owned by one controller), remote (that one over gRPC).

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
/** Members that are undefined count as absent, as JSON.stringify has it. */
export interface JsonObject {
  readonly [key: string]: JsonValue | undefined;
}

/** `T` is what the caller knows of the value (records.ts); the store itself only knows that it is a JSON object. */
export interface MetaEntry<T extends object = JsonObject> {
  readonly key: string;
  /** Of the change that wrote this value; store-wide, so a later change of any key has a higher one. */
  readonly version: number;
  /** The reader's own copy. */
  readonly value: T;
}

export type SwapResult<T extends object = JsonObject> =
  | { readonly ok: true; readonly version: number }
  | { readonly ok: false; readonly current: MetaEntry<T> | undefined };

export type WatchEvent =
  | { readonly type: 'put'; readonly version: number; readonly entry: MetaEntry }
  | { readonly type: 'delete'; readonly version: number; readonly key: string }
  /** Changes up to `version` were left out: list again. Those after it follow (some of them the list may already show). */
  | { readonly type: 'resync'; readonly version: number };

/** May return a promise: nothing more is delivered until it settles. */
export type WatchListener = (events: readonly WatchEvent[]) => void | Promise<void>;

export interface ListOptions {
  readonly limit?: number;
  /** Only keys above this one. */
  readonly startAfter?: string;
  readonly only?: Selection;
}

/**
 * Which of the entries, by what their values say. Back ends keep an index of both, so that a list costs what it shows and not what it
 * leaves out: `unfinished` are values with a `state` other than "ready", `volumeId` those with exactly that member.
 */
export type Selection = { readonly unfinished: true } | { readonly volumeId: string };

/** Values are at most this many bytes of JSON. */
export const VALUE_BYTES_MAX = 256 * 1024;

/**
 * Errors of every method: INVALID_ARGUMENT for a key, prefix or value that is none; UNAVAILABLE (reason Closed after
 * close(), DiskFailed after the disk failed) and DEADLINE_EXCEEDED when the store can't be reached; DATA_LOSS when it is
 * damaged; RESOURCE_EXHAUSTED (NoSpace) when its disk is full.
 */
export interface MetadataStore {
  get<T extends object = JsonObject>(key: string): Promise<MetaEntry<T> | undefined>;

  /**
   * Entries whose key begins with `prefix` ('' for all, 'kind/', or 'kind/beginning'), in the order of their keys' bytes.
   * `version`: watching from it misses nothing of what the entries don't show yet.
   */
  list<T extends object = JsonObject>(
    prefix: string,
    options?: ListOptions,
  ): Promise<{ entries: MetaEntry<T>[]; version: number }>;

  /**
   * The only way to change anything: writes `value` (undefined deletes) if the entry's version is `expectedVersion` (0: it
   * must not exist). When it resolves with ok the change survives any crash of the store. When it throws UNAVAILABLE,
   * DEADLINE_EXCEEDED or ABORTED (reason Conflict) the outcome is unknown until the key is read again.
   * `operationId`: makes a repetition safe: the change it names takes effect, and is reported ok, once.
   */
  compareAndSwap<T extends object = JsonObject>(
    key: string,
    expectedVersion: number,
    value: T | undefined,
    operationId?: string,
  ): Promise<SwapResult<T>>;

  /**
   * Tells `listener` of every change under `prefix` after `fromVersion`, in order, each once; where that is not possible
   * (the past is gone, or `fromVersion` lies in the future of a store that went back) it tells it to resync. Registered when
   * the call returns. Resolves when `signal` aborts or the store closes; rejects with what the listener throws.
   */
  watch(prefix: string, fromVersion: number, listener: WatchListener, signal: AbortSignal): Promise<void>;

  /** The highest version of the store. */
  version(): Promise<number>;

  /** Watches end, later calls fail. Safe to call again. */
  close(): Promise<void>;
}
