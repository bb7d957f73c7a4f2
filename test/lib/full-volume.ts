// A replica that holds a volume of any size, every block of it written, behind a checkpoint: for tests of what opening and using such a
// volume costs in memory and reads. Nothing of it exists; what is asked for is made up. Frames that an engine appends are kept.

import { type GroupId, HoldfastError, type SnapshotId, uuidFromRandom } from '../../src/base/index.js';
import type {
  FrameInfo,
  ReadRange,
  ReplicaConnector,
  ReplicaEvents,
  ReplicaPort,
  ReplicaStatus,
  SegmentInfo,
} from '../../src/engine/index.js';
import {
  decodeFrame,
  encodeFrameHeader,
  encodePage,
  encodeRoot,
  encodeSegmentSlots,
  encodeSnapshotRoots,
  encodeTable,
  FRAME_HEADER_SIZE,
  frameDigest,
  PAGE_ENTRIES,
  type Place,
  placeWord0,
  placeWord1,
  type Reign,
  SEGMENT_HEADER_SIZE,
  SEGMENTS_PER_CHUNK,
  type SegmentName,
  SNAPSHOTS_PER_CHUNK,
  type Superblock,
  segmentFileName,
  TABLE_CHUNK_IDS,
  TABLE_ID_WORDS,
  TABLE_NUMBER_BITS,
} from '../../src/format/index.js';
import type { DescribeUpdate } from '../../src/wire/index.js';

const EPOCH = 1;
const PAGE_STORED = 8256;
const PAGES_PER_SEGMENT = 1000;
const DATA_LENGTH = 8 * 1024 * 1024;

export interface FullVolume {
  readonly superblock: Superblock;
  /** Each page has as many versions as it is older snapshots': versions of page n are spread over the snapshots. */
  readonly pages: number;
  readonly snapshots: number;
  /** Older versions, of the first page numbers, one for each snapshot. */
  readonly versions: number;
}

/** Pages (ids from 1 on), then versions; data lies in one segment for two pages. */
export class FullReplica {
  readonly #volume: FullVolume;
  superblock: Superblock;
  readonly #infos: SegmentInfo[] = [];
  /** Bytes of segments that are kept: the checkpoint's lists and what was appended. */
  readonly #kept = new Map<string, { info: { -readonly [K in keyof SegmentInfo]: SegmentInfo[K] }; bytes: Buffer }>();
  #end: { epoch: number; seq: number; digest: string };
  events: ReplicaEvents | undefined;
  pagesRead = 0;
  bytesRead = 0;
  pagesAppended = 0;
  readonly #firstPageSlot: number;
  readonly #words = new Uint32Array(PAGE_ENTRIES * 2);

  constructor(volume: FullVolume) {
    this.#volume = volume;
    const ids = volume.pages + volume.versions;
    const dataSegments = Math.ceil(volume.pages / 2);
    this.#firstPageSlot = dataSegments + 1;
    const pageSegments = Math.ceil(ids / PAGES_PER_SEGMENT);
    for (let slot = 1; slot <= dataSegments + pageSegments; slot++) this.#infos.push(infoOf(slot, DATA_LENGTH, true));
    const reign = { epoch: EPOCH, reignId: volume.superblock.promised.reignId };
    const checkpoint = this.#makeLists(dataSegments + pageSegments + 1, ids, reign);
    this.#end = checkpoint.end;
    this.superblock = { ...volume.superblock, reigns: [reign], checkpoint: checkpoint.place };
  }

  /** Table, lists and root, one after the other in a segment of their own, which may be as large as it gets. */
  #makeLists(slot: number, ids: number, reign: Reign) {
    const parts: Buffer[] = [Buffer.alloc(SEGMENT_HEADER_SIZE)];
    let at = SEGMENT_HEADER_SIZE;
    const put = (entry: Buffer): Place => {
      const place: Place = [placeWord0(slot, 0), placeWord1(at, entry.length)];
      parts.push(entry);
      at += entry.length;
      return place;
    };
    const tablePlaces: Place[] = [];
    for (let chunk = 0; chunk * TABLE_CHUNK_IDS <= ids; chunk++)
      tablePlaces.push(put(encodeTable(chunk, this.#tableChunk(chunk, ids))));
    const segmentPlaces: Place[] = [];
    for (let first = 0; first <= slot; first += SEGMENTS_PER_CHUNK)
      segmentPlaces.push(put(encodeSegmentSlots(first / SEGMENTS_PER_CHUNK, this.#segmentChunk(first, slot))));
    const snapshotPlaces: Place[] = [];
    for (let first = 0; first < this.#volume.snapshots; first += SNAPSHOTS_PER_CHUNK)
      snapshotPlaces.push(put(encodeSnapshotRoots(first / SNAPSHOTS_PER_CHUNK, this.#snapshotChunk(first))));
    const root = encodeRoot({
      coveredThrough: slot - 1,
      sizeBytes: this.#volume.superblock.sizeBytes,
      nextId: ids + 1,
      birth: this.#volume.snapshots + 1,
      nextOrdinal: slot,
      reigns: [reign],
      tablePlaces,
      segmentPlaces,
      snapshotPlaces,
    });
    const frame = Buffer.alloc(FRAME_HEADER_SIZE + root.length);
    root.copy(frame, FRAME_HEADER_SIZE);
    const offset = at;
    const header = {
      flags: 0,
      bodyLength: root.length,
      entryCount: 1,
      epoch: EPOCH,
      seq: slot,
      committedThrough: slot - 1,
      flushedThrough: slot - 1,
      ordinal: slot - 1,
      offset,
      volumeId: this.#volume.superblock.volumeId,
    };
    encodeFrameHeader(frame, 0, header, Buffer.alloc(16));
    parts.push(frame);
    const bytes = Buffer.concat(parts);
    const info = infoOf(slot, bytes.length, false);
    this.#kept.set(segmentFileName(info), { info, bytes });
    const segment = { epoch: EPOCH, ordinal: slot - 1 };
    const place = { coveredThrough: slot - 1, segment, frameOffset: offset, replayFrom: { segment, offset } };
    return { place, end: { epoch: EPOCH, seq: slot, digest: frameDigest(frame, 0).toString('hex') } };
  }

  #tableChunk(chunk: number, ids: number): Uint32Array {
    const words = new Uint32Array(TABLE_CHUNK_IDS * TABLE_ID_WORDS);
    for (let i = 0; i < TABLE_CHUNK_IDS; i++) {
      const id = chunk * TABLE_CHUNK_IDS + i;
      if (id === 0 || id > ids) continue;
      const [word0, word1] = this.#placeOf(id);
      const { number, birth } = this.#versionOf(id);
      words.set(
        [word0, word1, 0, 0, birth, (number | ((PAGE_ENTRIES - 1) << TABLE_NUMBER_BITS)) >>> 0],
        i * TABLE_ID_WORDS,
      );
    }
    return words;
  }

  /** Older versions lie below the live ones of the first page numbers; those were born last. */
  #versionOf(id: number): { number: number; birth: number } {
    const { pages, versions, snapshots } = this.#volume;
    if (id <= pages)
      return { number: id - 1, birth: id - 1 < Math.ceil(versions / Math.max(1, snapshots)) ? snapshots + 1 : 1 };
    const version = id - pages - 1;
    return { number: Math.floor(version / snapshots), birth: (version % snapshots) + 1 };
  }
  #placeOf(id: number): Place {
    const slot = this.#firstPageSlot + Math.floor((id - 1) / PAGES_PER_SEGMENT);
    return [
      placeWord0(slot, 0),
      placeWord1(SEGMENT_HEADER_SIZE + ((id - 1) % PAGES_PER_SEGMENT) * PAGE_STORED, PAGE_STORED),
    ];
  }

  #segmentChunk(first: number, last: number) {
    const slots = [];
    for (let slot = Math.max(1, first); slot < Math.min(last, first + SEGMENTS_PER_CHUNK); slot++) {
      const data = slot < this.#firstPageSlot;
      let live = 0;
      if (data) live = 2 * PAGE_ENTRIES + this.#olderOf((slot - 1) * 2) + this.#olderOf((slot - 1) * 2 + 1);
      slots.push({ slot, epoch: EPOCH, ordinal: slot - 1, firstSeq: slot, live, blocks: data ? 2 * PAGE_ENTRIES : 0 });
    }
    return slots;
  }
  #olderOf(number: number): number {
    const { versions, snapshots } = this.#volume;
    const before = number * snapshots;
    return Math.max(0, Math.min(snapshots, versions - before)) * PAGE_ENTRIES;
  }

  #snapshotChunk(first: number) {
    const roots = [];
    for (let i = first; i < Math.min(this.#volume.snapshots, first + SNAPSHOTS_PER_CHUNK); i++)
      roots.push({
        snapshotId: snapshotOf(i),
        groupId: '00000000-0000-0000-0000-000000000000' as GroupId,
        birth: i + 1,
        position: i,
        seq: i + 1,
        sizeBytes: this.#volume.superblock.sizeBytes,
        wallMs: i,
      });
    return roots;
  }

  #page(id: number): Buffer {
    const { number } = this.#versionOf(id);
    const word0 = placeWord0(1 + (number >> 1), 0);
    for (let i = 0; i < PAGE_ENTRIES; i++) {
      this.#words[i * 2] = word0;
      this.#words[i * 2 + 1] = placeWord1(SEGMENT_HEADER_SIZE + ((number & 1) * PAGE_ENTRIES + i) * 4096, 4096);
    }
    this.pagesRead++;
    return encodePage(id, number, this.#words);
  }

  read(segment: SegmentName, offset: number, into: Uint8Array): void {
    this.bytesRead += into.length;
    const kept = this.#kept.get(segmentFileName(segment));
    if (kept !== undefined) {
      if (offset + into.length > kept.bytes.length) throw new HoldfastError('OUT_OF_RANGE', 'beyond the end');
      into.set(kept.bytes.subarray(offset, offset + into.length));
      return;
    }
    const slot = segment.ordinal + 1;
    if (slot < this.#firstPageSlot)
      throw new HoldfastError('DATA_LOSS', 'this replica has no data', { reason: 'Corrupt' });
    // Ranges are whole pages, maybe several.
    for (let at = 0; at < into.length; at += PAGE_STORED) {
      const index = (offset + at - SEGMENT_HEADER_SIZE) / PAGE_STORED;
      into.set(this.#page((slot - this.#firstPageSlot) * PAGES_PER_SEGMENT + index + 1), at);
    }
  }

  append(segment: SegmentName, offset: number, bytes: Uint8Array, slotOf: (header: Buffer) => number): void {
    const name = segmentFileName(segment);
    let kept = this.#kept.get(name);
    const copy = Buffer.from(bytes);
    if (kept === undefined) {
      kept = {
        info: { ...infoOf(1, 0, false), ...segment, slot: slotOf(copy), firstSeq: this.#end.seq + 1 },
        bytes: Buffer.alloc(0),
      };
      this.#kept.set(name, kept);
    }
    const used = kept.bytes.length;
    if (used + copy.length > kept.bytes.buffer.byteLength || kept.bytes.byteOffset !== 0) {
      const larger = Buffer.from(new ArrayBuffer(Math.max(65_536, (used + copy.length) * 2)));
      kept.bytes.copy(larger);
      kept.bytes = larger;
    }
    kept.bytes = Buffer.from(kept.bytes.buffer, 0, used + copy.length);
    copy.copy(kept.bytes, used);
    let at = offset === 0 ? SEGMENT_HEADER_SIZE : 0;
    while (at < copy.length) {
      const header = decodeFrame(copy, at, false);
      if (typeof header === 'string') throw new Error(header);
      const digest = frameDigest(copy, at).toString('hex');
      this.#end = { epoch: header.epoch, seq: header.seq, digest };
      Object.assign(kept.info, { lastSeq: header.seq, lastDigest: digest, length: kept.bytes.length });
      at += FRAME_HEADER_SIZE + header.bodyLength;
    }
  }

  status(reign: Reign): ReplicaStatus {
    this.superblock = { ...this.superblock, promised: reign };
    return {
      ...{ superblock: this.superblock, end: this.#end, cacheSurvived: true, damage: null },
      ...{ flushedThrough: 0, stoppedEngine: true },
    };
  }
  segments(): SegmentInfo[] {
    return [...this.#infos, ...[...this.#kept.values()].map((kept) => ({ ...kept.info }))];
  }
}

export function snapshotOf(i: number): SnapshotId {
  const bytes = Buffer.alloc(16, 0x50);
  bytes.writeUInt32LE(i, 0);
  return uuidFromRandom(bytes) as SnapshotId;
}

function infoOf(slot: number, length: number, sealed: boolean): SegmentInfo {
  return {
    ...{ epoch: EPOCH, ordinal: slot - 1, slot, firstSeq: slot, lastSeq: slot, lastDigest: '0'.repeat(32) },
    ...{ length, sealed, links: 1 },
  };
}

/** A port of it that answers within the call, as a local replica does. */
class FullPort implements ReplicaPort {
  readonly local = true;
  readonly #replica: FullReplica;
  #events: ReplicaEvents | undefined;

  constructor(replica: FullReplica) {
    this.#replica = replica;
  }
  get replicaId() {
    return this.#replica.superblock.replicaId;
  }
  get nodeId() {
    return this.#replica.superblock.nodeId;
  }
  listen(events: ReplicaEvents): void {
    this.#events = events;
  }
  async fence(reign: Reign): Promise<ReplicaStatus> {
    return this.#replica.status(reign);
  }
  async segments(): Promise<SegmentInfo[]> {
    return this.#replica.segments();
  }
  async frames(): Promise<FrameInfo[]> {
    return [];
  }
  append(segment: SegmentName, offset: number, bytes: Uint8Array, lastSeq: number): void {
    this.#replica.append(segment, offset, bytes, (header) => header.readUInt32LE(12));
    this.#events?.appended(lastSeq);
  }
  sync(_: number, done: (error: Error | null) => void): void {
    done(null);
  }
  read(ranges: readonly ReadRange[], done: (error: Error | null) => void): void {
    try {
      for (const { segment, offset, into } of ranges) this.#replica.read(segment, offset, into);
    } catch (error) {
      return done(error as Error);
    }
    done(null);
  }
  confirm(done: (error: Error | null) => void): void {
    done(null);
  }
  async cut(): Promise<void> {}
  async deleteSegments(): Promise<void> {}
  async repair(): Promise<void> {}
  freeBytes(): number {
    return 1e15;
  }
  async describe(update: DescribeUpdate): Promise<void> {
    const { checkpoint, addReign, ...rest } = update;
    const before = this.#replica.superblock;
    const reigns =
      addReign && !before.reigns.some((reign) => reign.epoch === addReign.epoch)
        ? [...before.reigns, addReign]
        : before.reigns;
    this.#replica.superblock = {
      ...before,
      ...rest,
      reigns,
      ...(checkpoint ? { checkpoint, previousCheckpoint: before.checkpoint } : {}),
    };
  }
  async clone(): Promise<void> {}
  async usage(): Promise<{ storedBytes: number; sharedBytes: number }> {
    return { storedBytes: 0, sharedBytes: 0 };
  }
  close(): void {}
}

export function fullConnector(replica: FullReplica): ReplicaConnector {
  return { connect: async () => new FullPort(replica) };
}
