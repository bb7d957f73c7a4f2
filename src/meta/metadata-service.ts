// holdfast.v1.Metadata over any store: what a controller serves to the daemons.

import { HoldfastError, invalid, printable } from '../base/index.js';
import {
  type CallContext,
  type Handlers,
  type holdfast,
  holdfastServices,
  implement,
  type ServiceBinding,
} from '../rpc/index.js';
import { uriOf } from '../trust/index.js';
import type { JsonObject, MetadataStore, MetaEntry, Selection, WatchEvent } from './port.js';
import { checkLimit, decodeForeignValue } from './validate.js';

/** A page of a list: entries at most, and bytes after which it is cut (messages may be 16 MiB). */
const PAGE_ENTRIES_MAX = 256;
const VOLUME_KEYS = 'volume/';
const PAGE_BYTES_MAX = 4 * 1024 * 1024;

type WireEntry = { key: string; version: number; value_json: string };
type WireEvent = holdfast.WatchEvent;

function toWire(entry: MetaEntry): WireEntry {
  return { key: entry.key, version: entry.version, value_json: JSON.stringify(entry.value) };
}

function eventToWire(event: WatchEvent): WireEvent {
  switch (event.type) {
    case 'put':
      return { put: { entry: toWire(event.entry) } };
    case 'delete':
      return { delete: { key: event.key, version: event.version } };
    case 'resync':
      return { resync: { version: event.version } };
  }
}

function selectionOf(request: holdfast.ListEntriesRequest__Output): Selection | undefined {
  const { only_unfinished: unfinished, only_volume_id: volumeId } = request;
  if (unfinished && volumeId !== '') throw invalid('a list is of what is unfinished or of a volume, not of both');
  if (unfinished) return { unfinished };
  return volumeId === '' ? undefined : { volumeId };
}

async function listPage(
  store: MetadataStore,
  request: holdfast.ListEntriesRequest__Output,
): Promise<holdfast.ListEntriesResponse> {
  checkLimit(request.limit === 0 ? undefined : request.limit);
  const limit = Math.min(request.limit || PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX);
  const { entries, version } = await store.list(request.prefix, {
    limit: limit + 1,
    startAfter: request.start_after,
    only: selectionOf(request),
  });
  const page: WireEntry[] = [];
  let bytes = 0;
  for (const entry of entries.slice(0, limit)) {
    const wire = toWire(entry);
    bytes += Buffer.byteLength(wire.value_json);
    if (page.length > 0 && bytes > PAGE_BYTES_MAX) break;
    page.push(wire);
  }
  return { entries: page, store_version: version, more: page.length < entries.length };
}

/**
 * Batches of a watch as the consumer takes them: the store's listener waits until its batch was taken, so that at most one is
 * held here however slow the network is.
 */
async function* batches(
  store: MetadataStore,
  prefix: string,
  fromVersion: number,
  signal: AbortSignal,
): AsyncGenerator<readonly WatchEvent[]> {
  const stop = new AbortController();
  const forward = () => stop.abort();
  signal.addEventListener('abort', forward, { once: true });
  if (signal.aborted) stop.abort();
  let offered: { events: readonly WatchEvent[]; taken: () => void } | undefined;
  let ended: { error?: unknown } | undefined;
  let wake = () => {};
  const listener = (events: readonly WatchEvent[]) =>
    new Promise<void>((taken) => {
      offered = { events, taken };
      wake();
    });
  store.watch(prefix, fromVersion, listener, stop.signal).then(
    () => {
      ended = {};
      wake();
    },
    (error: unknown) => {
      ended = { error };
      wake();
    },
  );
  const forwardWake = () => wake();
  stop.signal.addEventListener('abort', forwardWake, { once: true });
  try {
    while (!stop.signal.aborted) {
      if (offered !== undefined) {
        const { events, taken } = offered;
        offered = undefined;
        yield events;
        taken();
      } else if (ended !== undefined) {
        if ('error' in ended) throw ended.error;
        return;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    stop.abort();
    signal.removeEventListener('abort', forward);
    offered?.taken();
  }
}

async function* watch(
  store: MetadataStore,
  request: holdfast.WatchRequest__Output,
  context: CallContext,
): AsyncGenerator<holdfast.WatchResponse> {
  yield { events: [] };
  for await (const events of batches(store, request.prefix, request.from_version, context.signal)) {
    yield { events: events.map(eventToWire) };
  }
}

async function compareAndSwap(
  store: MetadataStore,
  request: holdfast.CompareAndSwapRequest__Output,
  { caller }: CallContext,
): Promise<holdfast.CompareAndSwapResponse> {
  // Nodes change volumes (reigns, sets, wrapped keys); everything else is the controller's.
  if (caller !== null && !request.key.startsWith(VOLUME_KEYS))
    throw new HoldfastError('PERMISSION_DENIED', `${uriOf(caller)} may not change ${printable(request.key)}`, {
      reason: 'WrongRole',
    });
  // Nor does any of them delete one: that follows from what all replicas have confirmed, which the controller knows.
  if (caller !== null && request.value_json === '')
    throw new HoldfastError('PERMISSION_DENIED', `${uriOf(caller)} may not delete ${printable(request.key)}`, {
      reason: 'WrongRole',
    });
  const { key, expected_version: expected, value_json: text, operation_id: operationId } = request;
  if (expected < 0) throw invalid(`the expected version of ${key} must be from 0, not ${expected}`);
  const value: JsonObject | undefined = text === '' ? undefined : decodeForeignValue(key, text);
  const result = await store.compareAndSwap(key, expected, value, operationId);
  if (result.ok) return { ok: true, version: result.version };
  return { ok: false, current: result.current === undefined ? null : toWire(result.current) };
}

/** The store as a gRPC service. It does not own the store: closing the server leaves it open. */
export function metadataService(store: MetadataStore): ServiceBinding {
  const handlers: Handlers<holdfast.MetadataDefinition, holdfast.MetadataHandlers> = {
    Get: async (request) => {
      const [entry, version] = await Promise.all([store.get(request.key), store.version()]);
      return { entry: entry === undefined ? null : toWire(entry), store_version: version };
    },
    List: (request) => listPage(store, request),
    CompareAndSwap: (request, context) => compareAndSwap(store, request, context),
    Watch: (request, context) => watch(store, request, context),
  };
  return implement(holdfastServices.metadata(), handlers, {
    logFields: ['key', 'prefix', 'expected_version', 'from_version'],
    allow: {
      Get: ['storage', 'node', 'operator'],
      List: ['storage', 'node', 'operator'],
      Watch: ['storage', 'node', 'operator'],
      CompareAndSwap: ['storage', 'node'],
    },
  });
}
