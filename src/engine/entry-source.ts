// Reads control entries by their places, many in one port call: pages of the map, chunks of a checkpoint's lists. Neighbours in the
// log are read as one range. What the nearest replica does not give intact is taken from the others, one by one.

import { type Clock, corrupt, HoldfastError, type Logger } from '../base/index.js';
import { decodeEntry, type Place, placeLength, placeOffset, placeSlot } from '../format/index.js';
import { RECONNECT_MS } from './limits.js';
import type { LogReader } from './log-reader.js';
import type { ReadRange, ReplicaPort } from './replica-port.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface FoundEntry {
  readonly bytes: Buffer;
  /** Of the entry, padding not counted. */
  readonly length: number;
  readonly kind: number;
}

export interface EntrySourceParts {
  readonly table: SegmentTable;
  readonly reader: LogReader;
  readonly nearest: () => ReplicaPort | undefined;
  /** True: a replica that does not answer is an error now, since nobody waits for it. */
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Want {
  readonly segment: TableEntry;
  readonly offset: number;
  bytes: Buffer;
}

export class EntrySource {
  readonly #parts: EntrySourceParts;

  constructor(parts: EntrySourceParts) {
    this.#parts = parts;
  }

  /** Calls back with one verified entry for each place; with a local replica before it returns. */
  read(
    places: readonly Place[],
    kinds: readonly number[],
    done: (error: Error | null, found: readonly FoundEntry[]) => void,
  ): void {
    const wants: Want[] = [];
    try {
      for (const place of places) wants.push(this.#want(place));
    } catch (error) {
      return done(error as Error, []);
    }
    const port = this.#parts.nearest();
    if (port === undefined) return void this.#slow(wants, kinds, [], done);
    port.read(ranges(wants), (error) => {
      const found: (FoundEntry | undefined)[] = [];
      if (error === null) for (const want of wants) found.push(entryOf(want.bytes, kinds));
      if (error === null && found.every((entry) => entry !== undefined)) done(null, found as FoundEntry[]);
      else void this.#slow(wants, kinds, found, done);
    });
  }

  /** The same as a promise. */
  readAll(places: readonly Place[], kinds: readonly number[]): Promise<readonly FoundEntry[]> {
    return new Promise((resolve, reject) => {
      this.read(places, kinds, (error, found) => (error === null ? resolve(found) : reject(error)));
    });
  }

  #want(place: Place): Want {
    const { table } = this.#parts;
    const slot = placeSlot(place[0]);
    const segment = table.bySlot(slot);
    if (segment === undefined)
      throw corrupt(`a part of the map lies in segment ${table.fileOf(slot)}, which no replica has`);
    return { segment, offset: placeOffset(place[1]), bytes: Buffer.allocUnsafe(placeLength(place[1])) };
  }

  async #slow(
    wants: readonly Want[],
    kinds: readonly number[],
    known: readonly (FoundEntry | undefined)[],
    done: (error: Error | null, found: readonly FoundEntry[]) => void,
  ): Promise<void> {
    const found: FoundEntry[] = [];
    try {
      for (let i = 0; i < wants.length; i++) found.push(known[i] ?? (await this.#fromAny(wants[i]!, kinds)));
    } catch (error) {
      return done(error as Error, []);
    }
    done(null, found);
  }

  async #fromAny(want: Want, kinds: readonly number[]): Promise<FoundEntry> {
    const { reader, closed, clock, logger } = this.#parts;
    for (let wait = RECONNECT_MS.first; ; wait = Math.min(wait * 2, RECONNECT_MS.most)) {
      try {
        return await reader.entry(want.segment, want.offset, want.bytes.length, kinds);
      } catch (error) {
        if (!(error instanceof HoldfastError && error.code === 'UNAVAILABLE') || closed()) throw error;
        logger.warn({ error: error.message }, 'a part of the map waits for a replica');
      }
      await clock.sleep(wait);
    }
  }
}

function entryOf(bytes: Buffer, kinds: readonly number[]): FoundEntry | undefined {
  const head = decodeEntry(bytes, 0, bytes.length);
  if (typeof head === 'string' || !kinds.includes(head.kind)) return undefined;
  return { bytes, length: head.length, kind: head.kind };
}

/** Port ranges for the wants. Those that follow each other in a segment share a buffer and a range. */
function ranges(wants: readonly Want[]): ReadRange[] {
  const order = [...wants].sort((a, b) => a.segment.ordinal - b.segment.ordinal || a.offset - b.offset);
  const result: ReadRange[] = [];
  let first = 0;
  while (first < order.length) {
    const { segment, offset } = order[first]!;
    let end = offset + order[first]!.bytes.length;
    let next = first + 1;
    while (next < order.length && order[next]!.segment === segment && order[next]!.offset === end)
      end += order[next++]!.bytes.length;
    if (next === first + 1) result.push({ segment, offset, into: order[first]!.bytes });
    else {
      const into = Buffer.allocUnsafe(end - offset);
      for (const want of order.slice(first, next)) {
        const at = want.offset - offset;
        want.bytes = into.subarray(at, at + want.bytes.length);
      }
      result.push({ segment, offset, into });
    }
    first = next;
  }
  return result;
}
