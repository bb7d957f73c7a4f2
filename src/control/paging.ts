// Pages over the store. A token is the last id that was shown: it stays good when that object is deleted, and what is added or
// removed between two pages moves nothing else.

import { HoldfastError, invalid, isUuid, printable } from '../base/index.js';
import type { MetadataStore, Selection } from '../meta/index.js';
import { PAGE_ENTRIES } from './limits.js';

export interface PageRequest {
  /** 0: all. */
  readonly maxEntries: number;
  /** Empty: from the beginning. */
  readonly startingToken: string;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** Empty: that was all. */
  readonly nextToken: string;
}

const TOKEN_PREFIX = 'after-';
/** Of a page that the caller left unbounded: it has to fit one message. */
const ITEMS_MAX = 5_000;

/** What is listed: all under a prefix, or a selection of it. */
export interface Listed {
  readonly store: MetadataStore;
  readonly prefix: string;
  readonly only?: Selection;
}

function startAfter(token: string, prefix: string): string | undefined {
  if (token === '') return undefined;
  const id = token.slice(TOKEN_PREFIX.length);
  if (!token.startsWith(TOKEN_PREFIX) || !isUuid(id)) {
    throw new HoldfastError(
      'ABORTED',
      `starting_token ${printable(token)} is not one of ours; begin again without a token`,
      {
        reason: 'BadField',
      },
    );
  }
  return prefix + id;
}

/** Throws ABORTED for a token that is none, INVALID_ARGUMENT for a negative page size. */
export function checkPage(request: PageRequest): void {
  if (request.maxEntries < 0) throw invalid(`max_entries is negative: ${request.maxEntries}`);
  startAfter(request.startingToken, '');
}

/** Throws as checkPage does. */
export async function pageOf<T extends { readonly id: string }>(
  { store, prefix, only }: Listed,
  request: PageRequest,
  wanted: (item: T) => boolean,
): Promise<Page<T>> {
  checkPage(request);
  let after = startAfter(request.startingToken, prefix);
  const limit = request.maxEntries === 0 ? ITEMS_MAX : Math.min(request.maxEntries, ITEMS_MAX);
  const items: T[] = [];
  // One more than a page, to know whether another follows.
  const most = Math.min(limit + 1, PAGE_ENTRIES);
  for (;;) {
    const { entries } = await store.list<T>(prefix, { limit: most, startAfter: after, only });
    for (const { value } of entries) {
      if (!wanted(value)) continue;
      if (items.length === limit) {
        return { items, nextToken: TOKEN_PREFIX + items.at(-1)!.id };
      }
      items.push(value);
    }
    if (entries.length < most) return { items, nextToken: '' };
    after = entries.at(-1)!.key;
  }
}
