// The controller's store as daemons see it, over gRPC. Owner: the daemon that opened it. Invariants: a change is sent with one
// operation id however often it is repeated, so it takes effect at most once; a watch goes on from the last version it
// delivered. May fail: the controller is away (calls wait and repeat until their deadline), or came back in the middle of a
// swap with someone else's change in place (ABORTED: the outcome can't be told).

import { setMaxListeners } from 'node:events';
import { type Clock, HoldfastError, type Logger, messageOf, type Random } from '../base/index.js';
import type { ClientOptions } from '../rpc/index.js';
import { type Client, createClient, type holdfast, holdfastServices } from '../rpc/index.js';
import type {
  JsonObject,
  ListOptions,
  MetadataStore,
  MetaEntry,
  Selection,
  SwapResult,
  WatchEvent,
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

type MetadataClient = Client<holdfast.MetadataDefinition, holdfast.MetadataHandlers>;

const DEADLINE_MS = 30_000;
const RETRY_MS = 100;
const RETRY_MS_MAX = 1000;

export interface RemoteStoreOptions {
  /** unix:///path or host:port of the controller. */
  readonly address: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** For one call, waiting and repetitions included, in milliseconds; default 30 s. */
  readonly deadlineMs?: number;
  readonly security?: ClientOptions['security'];
}

function protocolError(what: string): HoldfastError {
  return new HoldfastError('INTERNAL', `the metadata service answered ${what}`, { reason: 'Protocol' });
}

function fromWire<T extends object>(entry: { key: string; version: number; value_json: string }): MetaEntry<T> {
  try {
    return { key: entry.key, version: entry.version, value: JSON.parse(entry.value_json) as T };
  } catch {
    throw protocolError(`a value of ${entry.key} that is not JSON`);
  }
}

function selectionFields(only: Selection | undefined): { only_unfinished?: boolean; only_volume_id?: string } {
  if (only === undefined) return {};
  return 'unfinished' in only ? { only_unfinished: true } : { only_volume_id: only.volumeId };
}

function eventFromWire(event: holdfast.WatchEvent__Output): WatchEvent {
  if (event.put?.entry) {
    return { type: 'put', version: event.put.entry.version, entry: fromWire(event.put.entry) };
  }
  if (event.delete) return { type: 'delete', version: event.delete.version, key: event.delete.key };
  if (event.resync) return { type: 'resync', version: event.resync.version };
  throw protocolError('an event of a kind not known here');
}

/** Worth another try: the controller is away, stopping, or too busy. */
function isPassing(error: unknown): boolean {
  return (
    error instanceof HoldfastError &&
    (error.code === 'UNAVAILABLE' || error.code === 'RESOURCE_EXHAUSTED' || error.code === 'CANCELLED') &&
    error.reason !== 'DiskFailed' &&
    error.reason !== 'NoSpace'
  );
}

class RemoteStore implements MetadataStore {
  readonly #options: RemoteStoreOptions;
  readonly #client: MetadataClient;
  readonly #closing = new AbortController();

  constructor(options: RemoteStoreOptions) {
    this.#options = options;
    // Every call under way listens to it, and takes its listener away when it ends.
    setMaxListeners(0, this.#closing.signal);
    this.#client = createClient(options.address, holdfastServices.metadata(), {
      clock: options.clock,
      waitForReady: true,
      security: options.security,
    });
  }

  async get<T extends object = JsonObject>(key: string): Promise<MetaEntry<T> | undefined> {
    checkKey(key);
    const response = await this.#patiently(`reading ${key}`, (call) => this.#client.Get({ key }, call));
    return response.entry === null ? undefined : fromWire<T>(response.entry);
  }

  async list<T extends object = JsonObject>(
    prefix: string,
    options: ListOptions = {},
  ): Promise<{ entries: MetaEntry<T>[]; version: number }> {
    checkPrefix(prefix);
    checkLimit(options.limit);
    if (options.startAfter) checkKey(options.startAfter);
    checkSelection(options.only);
    const selected = selectionFields(options.only);
    const wanted = options.limit ?? Number.MAX_SAFE_INTEGER;
    const entries: MetaEntry<T>[] = [];
    let version: number | undefined;
    let startAfter = options.startAfter ?? '';
    for (;;) {
      const limit = options.limit === undefined ? 0 : wanted - entries.length;
      const request = { prefix, limit, start_after: startAfter, ...selected };
      const page = await this.#patiently(`listing ${prefix || 'everything'}`, (call) =>
        this.#client.List(request, call),
      );
      // The first page's: what changed while the others were read comes after it, so that a watch from it misses nothing.
      version ??= page.store_version;
      for (const entry of page.entries) entries.push(fromWire<T>(entry));
      if (!page.more || entries.length >= wanted) return { entries, version };
      const last = page.entries.at(-1)?.key;
      if (last === undefined || last <= startAfter)
        throw protocolError(`a page after ${startAfter} that does not go on`);
      startAfter = last;
    }
  }

  async compareAndSwap<T extends object = JsonObject>(
    key: string,
    expectedVersion: number,
    value: T | undefined,
    operationId?: string,
  ): Promise<SwapResult<T>> {
    checkKey(key);
    checkVersion(expectedVersion, 'the expected version');
    checkOperation(operationId);
    const request = {
      key,
      expected_version: expectedVersion,
      value_json: value === undefined ? '' : encodeValue(key, value),
      operation_id: operationId || this.#options.random.uuid(),
    };
    let attempts = 0;
    const response = await this.#patiently(`changing ${key}`, (call) => {
      attempts++;
      return this.#client.CompareAndSwap(request, call);
    });
    if (response.ok) return { ok: true, version: response.version };
    // An earlier attempt may have been carried out, and then been replaced by someone while we waited.
    if (attempts > 1) {
      throw new HoldfastError(
        'ABORTED',
        `the controller went away while ${key} was being changed and it has another version now; read it again`,
        { reason: 'Conflict' },
      );
    }
    return { ok: false, current: response.current === null ? undefined : fromWire<T>(response.current) };
  }

  async watch(prefix: string, fromVersion: number, listener: WatchListener, signal: AbortSignal): Promise<void> {
    checkPrefix(prefix);
    checkVersion(fromVersion, 'the version to watch from');
    this.#refuseClosed();
    const stop = AbortSignal.any([signal, this.#closing.signal]);
    let cursor = fromVersion;
    let pause = RETRY_MS;
    let failed: unknown;
    const deliver = async (events: readonly WatchEvent[]) => {
      try {
        await listener(events);
      } catch (error) {
        failed = error;
        throw error;
      }
    };
    while (!stop.aborted) {
      try {
        for await (const response of this.#client.Watch({ prefix, from_version: cursor }, { signal: stop })) {
          pause = RETRY_MS;
          if (response.events.length === 0) continue;
          const events = response.events.map(eventFromWire);
          await deliver(events);
          cursor = events.at(-1)!.version;
          if (stop.aborted) return;
        }
      } catch (error) {
        if (stop.aborted) return;
        if (failed !== undefined || !isPassing(error)) throw error;
        this.#options.logger.warn(
          { prefix, error: messageOf(error) },
          'the watch was cut; it goes on when the controller answers',
        );
      }
      await this.#options.clock.sleep(pause, stop).catch(() => {});
      pause = Math.min(pause * 2, RETRY_MS_MAX);
    }
  }

  async version(): Promise<number> {
    const request = { prefix: '', limit: 1 };
    return (await this.#patiently('reading the version', (call) => this.#client.List(request, call))).store_version;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#client.close();
  }

  #refuseClosed(): void {
    if (this.#closing.signal.aborted) {
      throw new HoldfastError('UNAVAILABLE', 'the metadata store is closed', { reason: 'Closed' });
    }
  }

  /** Repeats `call` until it answers or the deadline, which covers everything, has passed. */
  async #patiently<R>(
    what: string,
    call: (options: { deadlineMs: number; signal: AbortSignal }) => Promise<R>,
  ): Promise<R> {
    const { clock } = this.#options;
    const deadlineMs = this.#options.deadlineMs ?? DEADLINE_MS;
    const endMs = clock.monotonicMs() + deadlineMs;
    for (let pause = RETRY_MS; ; pause = Math.min(pause * 2, RETRY_MS_MAX)) {
      this.#refuseClosed();
      const left = endMs - clock.monotonicMs();
      try {
        return await call({ deadlineMs: Math.max(1, left), signal: this.#closing.signal });
      } catch (error) {
        this.#refuseClosed();
        if (error instanceof HoldfastError && error.code === 'DEADLINE_EXCEEDED')
          throw this.#late(what, deadlineMs, error);
        if (!isPassing(error)) throw error;
        if (endMs - clock.monotonicMs() <= pause) throw this.#late(what, deadlineMs, error);
      }
      await clock.sleep(pause, this.#closing.signal).catch(() => {});
    }
  }

  #late(what: string, deadlineMs: number, cause: unknown): HoldfastError {
    return new HoldfastError(
      'DEADLINE_EXCEEDED',
      `${what}: the controller at ${this.#options.address} did not answer within ${deadlineMs / 1000} s (${messageOf(cause)})`,
      { reason: 'Deadline', cause },
    );
  }
}

/** The store of the controller at `address`. Connects at the first call. */
export function openRemoteStore(options: RemoteStoreOptions): MetadataStore {
  return new RemoteStore(options);
}
