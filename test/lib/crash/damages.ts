// The list of what is done to a specimen's files.

import { ALIGN } from '../../../src/base/index.js';
import { parseSegmentFileName } from '../../../src/format/index.js';
import type { RecordingDisk } from '../recording-disk.js';
import type { Damage } from './damage.js';
import { type Region, regionsOf } from './places.js';
import { poolPath } from './sim-world.js';
import type { Specimen } from './specimen.js';
import { writtenLength } from './verify.js';

const SECTOR = 512;

function filesOf(specimen: Specimen): { disk: RecordingDisk; directory: string; names: string[] } {
  const { disk } = specimen.world.nodes[0]!;
  const directory = `${poolPath}/replicas/${specimen.volumeId}`;
  return { disk, directory, names: disk.list(directory) };
}

/**
 * The first and the last place of each kind, of records also some between (the oldest are dead, the newest lie where recovery
 * looks at every byte); a bit at its beginning, or with `ends` also one at its end.
 */
export function bitDamages(specimen: Specimen, ends: 1 | 2): Damage[] {
  const { disk, directory, names } = filesOf(specimen);
  const regions = names.flatMap((name) => regionsOf(disk, directory, name));
  const byName = new Map<string, Region[]>();
  for (const region of [...regions, ...regionsOf(disk, poolPath, 'pool.json')])
    byName.set(region.name, [...(byName.get(region.name) ?? []), region]);
  return [...byName.values()].flatMap((same) => {
    const places = same[0]!.name.startsWith('record') ? 6 : 2;
    const some = Array.from({ length: places }, (_, i) => same[Math.floor((i * (same.length - 1)) / (places - 1))]!);
    return [...new Set(some)].flatMap((region) => bitsOf(region).slice(0, ends === 1 ? 1 : 5));
  });
}

/** A bit at the region's beginning, one at its end, and in long ones some between. */
function bitsOf(region: Region): Damage[] {
  const last = region.at + region.length - 1;
  const between =
    region.length < 100 ? [] : [0.3, 0.5, 0.8].map((part) => region.at + Math.floor(part * region.length));
  return [...new Set([region.at, last, ...between])].map((byte, i) => {
    const bit = [0, 7, 2, 1, 4][i]!;
    return {
      what: `bit ${bit} of byte ${byte} (${region.name}) of ${region.file.replace(/^.*\//, '')}`,
      file: region.file,
      region,
      apply: (disk) => disk.flipBit(region.file, byte, bit),
    };
  });
}

/** Sectors zeroed, exchanged or written to the wrong place; files cut, emptied, exchanged, missing. */
export function fileDamages(specimen: Specimen): Damage[] {
  const { disk, directory, names } = filesOf(specimen);
  const segments = names
    .filter((name) => parseSegmentFileName(name) !== undefined)
    .map((name) => `${directory}/${name}`);
  const damages: Damage[] = [];
  for (const [i, file] of segments.entries()) {
    // Without zeroes that were written ahead of its end.
    const size = Math.ceil(writtenLength(disk.contents(file)) / ALIGN) * ALIGN;
    const other = segments[(i + 1) % segments.length]!;
    const middle = Math.floor(size / 2 / SECTOR) * SECTOR;
    damages.push(
      rewrite('the last byte cut off', file, (bytes) => bytes.subarray(0, size - 1)),
      rewrite('cut in the middle', file, (bytes) => bytes.subarray(0, middle + 7)),
      rewrite('emptied', file, () => Buffer.alloc(0)),
      rewrite('zeroed at its beginning', file, (bytes) => bytes.fill(0, 0, SECTOR)),
      rewrite('zeroed behind its header', file, (bytes) => bytes.fill(0, 4096, 4096 + SECTOR)),
      rewrite('zeroed in the middle', file, (bytes) => bytes.fill(0, middle, middle + SECTOR)),
      rewrite('zeroed at its end', file, (bytes) => bytes.fill(0, Math.max(0, size - SECTOR), size)),
      rewrite('two sectors exchanged', file, (bytes) => {
        const kept = Buffer.from(bytes.subarray(middle, middle + SECTOR));
        bytes.copy(bytes, middle, middle + SECTOR, middle + 2 * SECTOR);
        kept.copy(bytes, middle + SECTOR);
        return bytes;
      }),
      rewrite('a page of another segment written over it', file, (bytes, from) => {
        from.contents(other).copy(bytes, 8192, 8192, 8192 + 4096);
        return bytes;
      }),
      rewrite("another segment's contents", file, (_, from) => from.contents(other)),
      {
        what: `${file.replace(/^.*\//, '')} deleted`,
        file,
        // Of a newest segment that is gone only the one before it can be named.
        before: segments[i - 1],
        region: null,
        apply: (from) => void from.unlink(file),
      },
    );
  }
  for (const name of ['superblock.0', 'superblock.1']) {
    const file = `${directory}/${name}`;
    damages.push(
      rewrite('the last byte cut off', file, (bytes) => bytes.subarray(0, -1)),
      rewrite('zeroed', file, (bytes) => bytes.fill(0)),
      { what: `${file} deleted`, file, region: null, apply: (from) => void from.unlink(file) },
    );
  }
  damages.push({
    what: 'both superblocks damaged',
    file: `${directory}/superblock.0`,
    region: null,
    apply: (from) => {
      for (const name of ['superblock.0', 'superblock.1']) from.flipBit(`${directory}/${name}`, 100, 3);
    },
  });
  const identity = `${poolPath}/pool.json`;
  damages.push(
    rewrite('the last byte cut off', identity, (bytes) => bytes.subarray(0, -5)),
    rewrite('emptied', identity, () => Buffer.alloc(0)),
    { what: 'pool.json deleted', file: identity, region: null, apply: (from) => void from.unlink(identity) },
  );
  return damages;
}

function rewrite(what: string, file: string, change: (bytes: Buffer, disk: RecordingDisk) => Buffer): Damage {
  return {
    what: `${file.replace(/^.*\//, '')} ${what}`,
    file,
    region: null,
    apply: (disk) => disk.overwrite(file, change(disk.contents(file), disk)),
  };
}
