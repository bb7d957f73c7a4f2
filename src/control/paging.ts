// Pages over the store. A token is the last id that was shown: it stays good when that object is deleted, and what is added or
// removed between two pages moves nothing else.

import { HoldfastError, invalid, isUuid, printable } from '../base/index.js';
import type { MetadataStore } from '../meta/index.js';
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
export async function pageOf<T extends { readonly id: string }>(
  store: MetadataStore,
  prefix: string,
  request: PageRequest,
  wanted: (item: T) => boolean,
): Promise<Page<T>> {
  if (request.maxEntries < 0) throw invalid(`max_entries is negative: ${request.maxEntries}`);
  let after = startAfter(request.startingToken, prefix);
  const limit = request.maxEntries === 0 ? ITEMS_MAX : Math.min(request.maxEntries, ITEMS_MAX);
  const items: T[] = [];
  for (;;) {
    const { entries } = await store.list<T>(prefix, { limit: PAGE_ENTRIES, startAfter: after });
    for (const { value } of entries) {
      if (!wanted(value)) continue;
      if (items.length === limit) {
        return { items, nextToken: TOKEN_PREFIX + items.at(-1)!.id };
      }
      items.push(value);
    }
    if (entries.length < PAGE_ENTRIES) return { items, nextToken: '' };
    after = entries.at(-1)!.key;
  }
}
