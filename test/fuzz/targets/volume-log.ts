// A volume opened from a log and a superblock that were changed and then made to pass their checks: recovery, the map's checkpoint,
// indexes, replay, reads. It opens or says why not, serves or answers with errors; on a keyed volume no block ever shows anything but
// what was once written to it, or zeroes.
//
// An input: 1 if the volume has a key (u8), three unused bytes, then per file its length (u32) and its bytes: superblock, segments.

import { createHash } from 'node:crypto';
import {
  type Clock,
  crc32c,
  type GroupId,
  HoldfastError,
  realClock,
  type SnapshotId,
  zeroUuid,
} from '../../../src/base/index.js';
import type { Engine } from '../../../src/engine/index.js';
import { ENTRY_MAGIC, entryKind, INDEX_TRAILER_MAGIC, SEGMENT_HEADER_SIZE } from '../../../src/format/index.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { DiskRig } from '../../lib/disk-rig.js';
import { flush, read, request, write } from '../../lib/engine-rig.js';
import type { RecordingDisk } from '../../lib/recording-disk.js';
import { mutateBytes } from '../mutate.js';
import { resealFrames, resealSegmentHeader } from '../reseal.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';
import { mutateSuperblock } from './superblock.js';

const BLOCK = 4096;
const SIZE = 2 * 1024 * 1024;
const WINDOW = 64 * BLOCK;

/** What waits for a replica that does not answer waits a hundredth of the time. */
const quick: Clock = {
  monotonicMs: () => realClock.monotonicMs() * 100,
  wallMs: () => realClock.wallMs(),
  after: (delayMs, fn) => realClock.after(delayMs / 100, fn),
  sleep: (delayMs, signal) => realClock.sleep(delayMs / 100, signal),
};

interface Volume {
  readonly rig: DiskRig;
  readonly disk: RecordingDisk;
  readonly names: readonly string[];
  /** Per block the digests of everything it ever held. */
  readonly history: readonly Set<string>[];
}

const digestOf = (bytes: Buffer) => createHash('md5').update(bytes).digest('base64');
const zeroes = digestOf(Buffer.alloc(BLOCK));

async function makeVolume(encrypted: boolean): Promise<Volume> {
  const rig = await DiskRig.make(1, { sizeBytes: SIZE, encrypted });
  const history = Array.from({ length: SIZE / BLOCK }, () => new Set([zeroes]));
  const put = async (engine: Engine, block: number, count: number, salt: number) => {
    const data = Buffer.alloc(count * BLOCK);
    for (let i = 0; i < data.length; i++) data[i] = (i * salt + (i >> 8) + block) & 0xff;
    await write(engine, block * BLOCK, data);
    for (let i = 0; i < count; i++) history[block + i]!.add(digestOf(data.subarray(i * BLOCK, (i + 1) * BLOCK)));
  };
  for (let life = 0; life < 3; life++) {
    const engine = await rig.open();
    for (let i = 0; i < 12; i++) await put(engine, (i * 37 + life * 5) % 480, 1 + (i % 9), 3 + i + life * 20);
    if (life === 1) {
      const snapshotId = '50000000-0000-4000-8000-000000000005' as SnapshotId;
      await engine.freeze({ snapshotId, groupId: zeroUuid as GroupId, holdToken: null });
    }
    await request(engine, 'trim', 100 * BLOCK, 30 * BLOCK);
    await put(engine, 120, 4, 91 + life);
    await flush(engine);
    // The last one dies.
    if (life === 2) rig.nodes[0]!.disk = rig.nodes[0]!.disk.afterKill(rig.nodes[0]!.disk.journal.length);
    await engine.close();
  }
  const names = ['superblock.0', ...rig.nodes[0]!.segmentFiles()];
  return { rig, disk: rig.nodes[0]!.disk, names, history };
}

function join(keyed: number, files: readonly Buffer[]): Buffer {
  return Buffer.concat([
    Buffer.from([keyed, 0, 0, 0]),
    ...files.flatMap((bytes) => {
      const head = Buffer.alloc(4);
      head.writeUInt32LE(bytes.length);
      return [head, bytes];
    }),
  ]);
}
function split(input: Buffer): Buffer[] {
  const files: Buffer[] = [];
  for (let at = 4; at + 4 <= input.length && files.length < 20; ) {
    const length = Math.min(input.readUInt32LE(at), input.length - at - 4);
    files.push(input.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return files;
}

/** All segments again one chain, with every checksum right. */
function resealLog(segments: readonly Buffer[]): void {
  let digest = Buffer.alloc(16) as Buffer | null;
  for (const bytes of segments) {
    if (bytes.length < SEGMENT_HEADER_SIZE) continue;
    digest?.copy(bytes, 96);
    resealSegmentHeader(bytes);
    resealTrailer(bytes);
    digest = resealFrames(bytes, SEGMENT_HEADER_SIZE, { entries: true, frames: true, chain: true }, digest);
  }
}

function resealTrailer(bytes: Buffer): void {
  const trailer = bytes.subarray(Math.max(0, bytes.length - 64));
  if (trailer.length === 64 && trailer.readUInt32LE(0) === INDEX_TRAILER_MAGIC)
    trailer.writeUInt32LE(crc32c(trailer.subarray(8)), 4);
}

/** Where entries begin that are no records. */
function controlEntries(bytes: Buffer): number[] {
  const places: number[] = [];
  for (let at = SEGMENT_HEADER_SIZE; at + 64 <= bytes.length; at += 64)
    if (bytes.readUInt32LE(at) === ENTRY_MAGIC && bytes[at + 12] !== entryKind.record) places.push(at);
  return places;
}

class VolumeLogBench implements FuzzBench {
  readonly seeds: Buffer[] = [];
  readonly #volumes: readonly Volume[];

  constructor(volumes: readonly Volume[]) {
    this.#volumes = volumes;
    for (const [keyed, { disk, names, rig }] of volumes.entries())
      this.seeds.push(
        join(
          keyed,
          names.map((name) => disk.contents(`${rig.nodes[0]!.directory}/${name}`)),
        ),
      );
  }

  mutate(input: Buffer, chance: Chance): Buffer {
    const files: Buffer[] = split(input).map((bytes) => Buffer.from(bytes));
    for (let i = chance.between(1, 2); i > 0; i--) {
      const at = chance.below(files.length);
      if (at === 0) {
        files[0] = mutateSuperblock(files[0]!, chance);
        continue;
      }
      const bytes = files[at];
      if (bytes === undefined || bytes.length < SEGMENT_HEADER_SIZE) continue;
      // Entries, mostly: their heads lie at multiples of 64.
      const places = chance.hit(0.8) ? controlEntries(bytes) : [];
      const anywhere = SEGMENT_HEADER_SIZE + (chance.below(Math.max(1, bytes.length - SEGMENT_HEADER_SIZE)) & ~63);
      const from = places.length > 0 ? chance.pick(places) + chance.pick([0, 0, 64]) : anywhere;
      const part = bytes.subarray(from, from + chance.pick([64, 128, 256]));
      mutateBytes(part, chance, 1, part.length).copy(bytes, from);
      if (chance.hit(0.05)) files[at] = mutateBytes(bytes, chance, 1);
    }
    if (chance.hit(0.9)) resealLog(files.slice(1));
    return join(input[0]!, files);
  }

  async run(input: Buffer): Promise<string> {
    const volume = this.#volumes[input[0]! % 2]!;
    const { rig, names, history } = volume;
    const files = split(input);
    const node = rig.nodes[0]!;
    await node.restart(() => {
      const disk = volume.disk.afterKill(volume.disk.journal.length);
      for (const [i, name] of names.entries())
        if (files[i] !== undefined) disk.overwrite(`${node.directory}/${name}`, Buffer.from(files[i]));
      disk.overwrite(`${node.directory}/superblock.1`, Buffer.from(files[0] ?? Buffer.alloc(0)));
      return disk;
    });
    rig.flushedPoint = null;
    rig.lost = [];
    let engine: Engine;
    try {
      engine = await rig.open({ clock: quick });
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      return `${error.code} ${error.message.replaceAll(/[0-9a-f]{8,}|\d+/g, '#').slice(0, 160)}`;
    }
    try {
      return await this.#readAll(engine, input[0]! % 2 === 1, history);
    } finally {
      await engine.close().catch(() => {});
    }
  }

  async #readAll(engine: Engine, keyed: boolean, history: Volume['history']): Promise<string> {
    let errors = 0;
    let strange = 0;
    must(Number.isSafeInteger(engine.sizeBytes) && engine.sizeBytes >= 0, `a size of ${engine.sizeBytes}`);
    for (let at = 0; at < Math.min(SIZE, engine.sizeBytes - (engine.sizeBytes % WINDOW)); at += WINDOW) {
      let data: Buffer;
      try {
        data = await read(engine, at, WINDOW);
      } catch {
        errors++;
        continue;
      }
      for (let i = 0; i < WINDOW; i += BLOCK) {
        const held = history[(at + i) / BLOCK]!.has(digestOf(data.subarray(i, i + BLOCK)));
        must(held || !keyed, () => `block ${(at + i) / BLOCK} shows what was never written to it`);
        if (!held) strange++;
      }
    }
    return `open, errors ${Math.min(errors, 3)}, strange ${Math.min(strange, 3)}, size ${engine.sizeBytes === SIZE}`;
  }

  async close(): Promise<void> {}
}

export const volumeLog: FuzzTarget = {
  name: 'volume-log',
  sources: [
    'engine/replay',
    'engine/load-checkpoint',
    'segment/recovery',
    'segment/segment-scan',
    'segment/frame-walk',
    'format/',
    'hotpath/page-table',
    'hotpath/block-map',
  ],
  shortCases: 60,
  open: async () => new VolumeLogBench([await makeVolume(false), await makeVolume(true)]),
};
