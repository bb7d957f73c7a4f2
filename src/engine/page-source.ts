// Reads pages of the map out of the log: a whole page, or a base with a delta over it.

import { corrupt } from '../base/index.js';
import { decodeDelta, decodePage, entryKind, PAGE_ENTRIES, type Place } from '../format/index.js';
import type { PageRead, ReadPages } from '../hotpath/index.js';
import type { EntrySource, FoundEntry } from './entry-source.js';

const kinds = [entryKind.page, entryKind.delta];

export function readPagesFrom(source: EntrySource): ReadPages {
  return (reads, done) => {
    const places: Place[] = [];
    for (const read of reads) {
      places.push([read.place0, read.place1]);
      if (read.base1 !== 0) places.push([read.base0, read.base1]);
    }
    source.read(places, kinds, (error, found) => {
      if (error !== null) return done(error);
      try {
        let next = 0;
        for (const read of reads) {
          const place = found[next++]!;
          fill(read, place, read.base1 === 0 ? place : found[next++]!);
        }
      } catch (fault) {
        return done(fault as Error);
      }
      done(null);
    });
  };
}

/** A delta's base may have been written for another version of the same page, so only the number of that must be right. */
function fill(read: PageRead, place: FoundEntry, base: FoundEntry): void {
  if (base.kind !== entryKind.page) throw corrupt(`page ${read.number} of the map: its base is a delta`);
  const whole = decodePage(base.bytes, 0, base.length, read.words);
  let found = whole;
  if (place !== base) {
    if (place.kind !== entryKind.delta) throw corrupt(`page ${read.number} of the map: a page where a delta should be`);
    read.changed = new Uint32Array(PAGE_ENTRIES / 32);
    const delta = decodeDelta(place.bytes, 0, place.length, read.words, read.changed);
    read.spent = delta.spent;
    found = delta;
  }
  if (found.id !== read.id || found.number !== read.number || whole.number !== read.number)
    throw corrupt(
      `page ${read.number} of the map, id ${read.id}, reads back as page ${found.number}, id ${found.id}, over page ${whole.number}`,
    );
}
