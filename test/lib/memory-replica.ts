// A ReplicaPort over memory, with the accept rules of a real replica and faults on command: for tests of the engine alone.

import type { NodeId, ReplicaId } from '../../src/base/index.js';
import { HoldfastError, zeroUuid } from '../../src/base/index.js';
import type {
  CloneOrder,
  DescribeUpdate,
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
  decodeSegmentHeader,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  followsDigest,
  frameDigest,
  type LogPoint,
  type Reign,
  SEGMENT_HEADER_SIZE,
  type SegmentName,
  type Superblock,
  segmentFileName,
} from '../../src/format/index.js';

interface Stored {
  info: {
    epoch: number;
    ordinal: number;
    slot: number;
    firstSeq: number;
    lastSeq: number;
    lastDigest: string;
    length: number;
    sealed: boolean;
  };
  bytes: Buffer;
  frames: FrameInfo[];
}

/** What survives of a replica when its process dies: the content. Ports come and go. */
export class MemoryReplica {
  superblock: Superblock;
  readonly segments = new Map<string, Stored>();
  end: LogPoint = { epoch: 0, seq: 0, digest: '0'.repeat(32) };
  flushedThrough = 0;
  cacheSurvived = true;
  damage: string | null = null;
  reachable = true;
  free = 1e12;
  /** Set to hold acknowledgements back until released. */
  paused = false;
  syncs = 0;
  /** Not null: syncs wait in it until they are called. */
  heldSyncs: (() => void)[] | null = null;
  /** Calls of read() by the current and former ports. */
  reads = 0;
  bytesWritten = 0;
  readonly clones: CloneOrder[] = [];
  current: MemoryPort | undefined;
  readonly nodeId: NodeId;

  constructor(superblock: Superblock) {
    this.superblock = superblock;
    this.nodeId = superblock.nodeId;
  }

  list(): Stored[] {
    return [...this.segments.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, stored]) => stored);
  }
  /** The connection breaks, the content stays. */
  disconnect(): void {
    const port = this.current;
    this.current = undefined;
    port?.fail(new HoldfastError('UNAVAILABLE', 'connection lost'));
  }
  /** Lets acknowledgements go that were held back. */
  resume(): void {
    this.paused = false;
    this.current?.flushAcks();
  }
  copyInto(other: MemoryReplica, names: readonly SegmentName[]): void {
    for (const name of names) {
      const stored = this.segments.get(segmentFileName(name));
      if (stored)
        other.segments.set(segmentFileName(name), {
          info: { ...stored.info },
          bytes: Buffer.from(stored.bytes),
          frames: [...stored.frames],
        });
    }
    const last = other.list().at(-1);
    if (last) other.end = { epoch: last.info.epoch, seq: last.info.lastSeq, digest: last.info.lastDigest };
  }
}

class MemoryPort implements ReplicaPort {
  readonly local: boolean;
  readonly #replica: MemoryReplica;
  #events: ReplicaEvents | undefined;
  #dead: Error | undefined;
  #acked = 0;
  #given: { readonly given: Uint8Array; readonly taken: Buffer }[] = [];

  constructor(replica: MemoryReplica, local: boolean) {
    this.#replica = replica;
    this.local = local;
  }
  get replicaId(): ReplicaId {
    return this.#replica.superblock.replicaId;
  }
  get nodeId(): NodeId {
    return this.#replica.nodeId;
  }
  listen(events: ReplicaEvents): void {
    this.#events = events;
  }
  fail(error: Error): void {
    if (this.#dead) return;
    this.#dead = error;
    queueMicrotask(() => this.#events?.lost(error));
  }
  flushAcks(): void {
    if (this.#acked > 0) this.#acknowledge(this.#acked);
  }
  /** What was handed over may lie in a queue until now: it must still be what it was. */
  #acknowledge(seq: number): void {
    for (const { given, taken } of this.#given.splice(0))
      if (!taken.equals(given)) throw new Error('bytes of an append changed before it was acknowledged');
    this.#events?.appended(seq);
  }
  async #turn(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#dead) throw this.#dead;
  }
  async fence(reign: Reign): Promise<ReplicaStatus> {
    await this.#turn();
    const replica = this.#replica;
    const promised = replica.superblock.promised;
    if (reign.epoch < promised.epoch || (reign.epoch === promised.epoch && reign.reignId !== promised.reignId))
      throw new HoldfastError('ABORTED', 'a higher reign was promised', { reason: 'StaleReign' });
    if (replica.current && replica.current !== this)
      replica.current.fail(new HoldfastError('ABORTED', 'a higher reign was promised', { reason: 'StaleReign' }));
    replica.current = this;
    replica.superblock = { ...replica.superblock, promised: reign };
    return {
      superblock: replica.superblock,
      end: replica.end,
      cacheSurvived: replica.cacheSurvived,
      damage: replica.damage,
      flushedThrough: replica.flushedThrough,
      stoppedEngine: false,
    };
  }
  async segments(): Promise<SegmentInfo[]> {
    await this.#turn();
    return this.#replica.list().map((stored) => ({ ...stored.info, links: 1 }));
  }
  async frames(segment: SegmentName): Promise<FrameInfo[]> {
    await this.#turn();
    return [...(this.#replica.segments.get(segmentFileName(segment))?.frames ?? [])];
  }
  append(segment: SegmentName, offset: number, bytes: Uint8Array, lastSeq: number): void {
    if (this.#dead) return;
    const taken = Buffer.from(bytes);
    this.#given.push({ given: bytes, taken });
    try {
      this.#accept(segment, offset, taken);
    } catch (error) {
      return this.fail(error as Error);
    }
    this.#acked = lastSeq;
    setImmediate(() => {
      if (!this.#dead && !this.#replica.paused) this.#acknowledge(lastSeq);
    });
  }
  #accept(segment: SegmentName, offset: number, bytes: Buffer): void {
    const replica = this.#replica;
    const file = segmentFileName(segment);
    let at = 0;
    if (offset === 0) {
      const header = decodeSegmentHeader(bytes, file);
      const expected = replica.end.seq + 1;
      if (header.firstSeq !== expected && !(replica.superblock.joining && header.firstSeq > expected))
        throw new Error(`segment starts at ${header.firstSeq}, expected ${expected}`);
      replica.segments.set(file, {
        info: {
          epoch: header.epoch,
          ordinal: header.ordinal,
          slot: header.slot,
          firstSeq: header.firstSeq,
          lastSeq: header.firstSeq - 1,
          lastDigest: header.previousDigest.toString('hex'),
          length: SEGMENT_HEADER_SIZE,
          sealed: false,
        },
        bytes: bytes.subarray(0, SEGMENT_HEADER_SIZE),
        frames: [],
      });
      if (header.firstSeq !== expected)
        replica.end = { epoch: header.epoch, seq: header.firstSeq - 1, digest: header.previousDigest.toString('hex') };
      at = SEGMENT_HEADER_SIZE;
    }
    const stored = replica.segments.get(file);
    if (!stored) throw new Error(`no segment ${file}`);
    if (stored.info.sealed || stored.info.length !== offset + at)
      throw new Error(`${file}: append at ${offset + at}, ends at ${stored.info.length}`);
    while (at < bytes.length) {
      const header = decodeFrame(bytes, at, true);
      if (typeof header === 'string') throw new Error(`frame: ${header}`);
      if (header.seq !== replica.end.seq + 1) throw new Error(`seq ${header.seq}, expected ${replica.end.seq + 1}`);
      if (header.offset !== offset + at || header.ordinal !== segment.ordinal)
        throw new Error('frame is not where it says');
      if (!followsDigest(bytes, at, Buffer.from(replica.end.digest, 'hex'))) throw new Error('frame does not follow');
      const length = FRAME_HEADER_SIZE + header.bodyLength;
      const digest = frameDigest(bytes, at).toString('hex');
      appendTo(stored, bytes.subarray(at, at + length));
      stored.frames.push({ seq: header.seq, offset: offset + at, length, digest });
      replica.end = { epoch: header.epoch, seq: header.seq, digest };
      stored.info.lastSeq = header.seq;
      stored.info.lastDigest = digest;
      stored.info.sealed = (header.flags & FRAME_FLAG_SEALS) !== 0;
      at += length;
    }
    stored.info.length = stored.bytes.length;
    replica.bytesWritten += bytes.length;
  }
  sync(throughSeq: number, done: (error: Error | null) => void): void {
    const { heldSyncs } = this.#replica;
    if (heldSyncs !== null) return void heldSyncs.push(() => this.sync(throughSeq, done));
    setImmediate(() => {
      if (this.#dead) return done(this.#dead);
      this.#replica.syncs++;
      this.#replica.flushedThrough =
        this.#replica.flushedThrough < throughSeq ? this.#replica.flushedThrough : this.#replica.flushedThrough;
      done(null);
    });
  }
  read(ranges: readonly ReadRange[], done: (error: Error | null) => void): void {
    this.#replica.reads++;
    setImmediate(() => {
      if (this.#dead) return done(this.#dead);
      for (const { segment, offset, into } of ranges) {
        const stored = this.#replica.segments.get(segmentFileName(segment));
        if (!stored || offset + into.length > stored.bytes.length)
          return done(
            new HoldfastError(
              'OUT_OF_RANGE',
              `${segmentFileName(segment)}: ${offset}+${into.length} is beyond the end`,
            ),
          );
        into.set(stored.bytes.subarray(offset, offset + into.length));
      }
      done(null);
    });
  }
  confirm(done: (error: Error | null) => void): void {
    setImmediate(() => done(this.#dead ?? null));
  }
  async cut(seq: number): Promise<void> {
    await this.#turn();
    const replica = this.#replica;
    for (const [file, stored] of replica.segments) {
      if (stored.info.firstSeq > seq) {
        replica.segments.delete(file);
      } else if (stored.info.lastSeq > seq) {
        stored.frames = stored.frames.filter((frame) => frame.seq <= seq);
        const last = stored.frames.at(-1);
        stored.bytes = stored.bytes.subarray(0, last ? last.offset + last.length : SEGMENT_HEADER_SIZE);
        Object.assign(stored.info, {
          lastSeq: seq,
          lastDigest: last?.digest ?? stored.info.lastDigest,
          length: stored.bytes.length,
          sealed: false,
        });
      }
    }
    const last = replica.list().at(-1);
    replica.end = last
      ? { epoch: last.info.epoch, seq: last.info.lastSeq, digest: last.info.lastDigest }
      : { epoch: 0, seq: 0, digest: '0'.repeat(32) };
    replica.damage = null;
  }
  async deleteSegments(segments: readonly SegmentName[]): Promise<void> {
    await this.#turn();
    for (const segment of segments) this.#replica.segments.delete(segmentFileName(segment));
  }
  async repair(segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    await this.#turn();
    this.#replica.segments.get(segmentFileName(segment))!.bytes.set(bytes, offset);
  }
  freeBytes(): number {
    return this.#replica.free;
  }
  async describe(update: DescribeUpdate): Promise<void> {
    await this.#turn();
    const { checkpoint, addReign, parameters, ...rest } = update;
    const before = this.#replica.superblock;
    const reigns =
      addReign && !before.reigns.some((reign) => reign.epoch === addReign.epoch)
        ? [...before.reigns, addReign]
        : before.reigns;
    this.#replica.superblock = {
      ...before,
      ...rest,
      parameters: { ...before.parameters, ...parameters },
      reigns,
      ...(checkpoint && checkpoint.coveredThrough !== before.checkpoint?.coveredThrough
        ? { checkpoint, previousCheckpoint: before.checkpoint }
        : {}),
    };
    if (update.flushed) this.#replica.flushedThrough = update.flushed.seq;
  }
  async clone(order: CloneOrder): Promise<void> {
    await this.#turn();
    this.#replica.clones.push(order);
  }
  async usage(): Promise<{ storedBytes: number; sharedBytes: number }> {
    return { storedBytes: this.#replica.list().reduce((sum, stored) => sum + stored.bytes.length, 0), sharedBytes: 0 };
  }
  close(): void {
    this.#dead ??= new HoldfastError('UNAVAILABLE', 'closed', { reason: 'Closed' });
    if (this.#replica.current === this) this.#replica.current = undefined;
  }
}

/** Grows the backing buffer by doubling; `bytes` is the used part of it. */
function appendTo(stored: Stored, bytes: Buffer): void {
  const start = stored.bytes.byteOffset;
  const used = stored.bytes.length;
  const room = stored.bytes.buffer.byteLength - start;
  if (used + bytes.length > room || start !== 0) {
    const larger = Buffer.from(new ArrayBuffer(Math.max(65_536, (used + bytes.length) * 2)));
    stored.bytes.copy(larger);
    stored.bytes = larger.subarray(0, used);
  }
  const grown = Buffer.from(stored.bytes.buffer, 0, used + bytes.length);
  bytes.copy(grown, used);
  stored.bytes = grown;
}

export function memoryConnector(replicas: readonly MemoryReplica[], here: NodeId): ReplicaConnector {
  return {
    async connect({ replicaId }) {
      await new Promise((resolve) => setImmediate(resolve));
      const replica = replicas.find((candidate) => candidate.superblock.replicaId === replicaId);
      if (!replica?.reachable) throw new HoldfastError('UNAVAILABLE', `replica ${replicaId} does not answer`);
      return new MemoryPort(replica, replica.nodeId === here);
    },
  };
}

export function emptySuperblock(
  fields: Pick<Superblock, 'volumeId' | 'lineageId' | 'replicaId' | 'incarnationId' | 'nodeId' | 'sizeBytes'>,
): Superblock {
  return {
    ...fields,
    poolId: zeroUuid as Superblock['poolId'],
    parameters: {},
    wrappedKey: null,
    promised: { epoch: 0, reignId: zeroUuid as Reign['reignId'] },
    reigns: [],
    setVersion: 1,
    members: [],
    flushed: null,
    checkpoint: null,
    previousCheckpoint: null,
    joining: false,
    retired: false,
    cache: null,
  };
}
