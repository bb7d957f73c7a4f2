// What a volume must hold, worked out beside the engine: every frame that an engine sends is decoded here, its records are
// traced back to the requests that asked for them, and the frames form a tree by their digests. After a crash the recovered
// log names its last frame; the state must then be exactly that of the frames up to it, and whatever was promised must be
// among them.

import { assert, BLOCK_SIZE, type SnapshotId } from '../../../src/base/index.js';
import type { BlockError, BlockOp } from '../../../src/engine/index.js';
import {
  decodeControl,
  decodeEntry,
  decodeFrame,
  entryKind,
  FRAME_HEADER_SIZE,
  frameDigest,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
} from '../../../src/format/index.js';
import { type KeyRing, kernel, OpenBatch } from '../../../src/hotpath/index.js';

export type Effect =
  | { readonly kind: 'blocks'; readonly block: number; readonly contents: readonly Buffer[] }
  | { readonly kind: 'range'; readonly block: number; readonly count: number }
  | { readonly kind: 'freeze'; readonly snapshotId: SnapshotId }
  | { readonly kind: 'unfreeze'; readonly snapshotId: SnapshotId }
  | { readonly kind: 'size'; readonly sizeBytes: number };

export interface ModelFrame {
  readonly digest: string;
  readonly parent: string;
  readonly seq: number;
  readonly epoch: number;
  readonly effects: readonly Effect[];
  /** When it was first sent. */
  readonly moment: number;
}

export interface VolumeState {
  sizeBytes: number;
  /** Blocks that are not zero. */
  readonly blocks: Map<number, Buffer>;
  readonly snapshots: Map<SnapshotId, { readonly sizeBytes: number; readonly blocks: ReadonlyMap<number, Buffer> }>;
}

export interface Request {
  readonly id: number;
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer | null;
  readonly fua: boolean;
  /** Blocks (and a range, as -1) that no frame has carried yet. */
  readonly open: Set<number>;
  /** By which frame the others were carried, and what was written. */
  readonly carried: Map<number, { readonly frame: ModelFrame; readonly content: Buffer | null }>;
  /** The frame that carried its last part. */
  frame: ModelFrame | null;
  error: BlockError | null | undefined;
}

/** Something that was told to a client: the frame must be there after a crash of that severity. */
export interface Floor {
  readonly frame: ModelFrame;
  readonly moment: number;
  /** durable: after any crash. acked: unless all in-sync replicas lost power. */
  readonly kind: 'durable' | 'acked';
  readonly why: string;
}

const zeroBlock = Buffer.alloc(BLOCK_SIZE);

export class VolumeModel {
  readonly keys: KeyRing;
  readonly base: VolumeState;
  /** Of a clone: what its source had sent. Its replicas may get such frames from each other. */
  readonly source: VolumeModel | null;
  /** The frame before the first; null until it is known (a clone's is its source's). */
  rootDigest: string | null;
  readonly frames: Map<string, ModelFrame>;
  /** Move entries that engines sent. */
  moves = 0;
  readonly floors: Floor[];
  /** Every block that any frame or request ever touched. */
  readonly touched: Set<number>;
  readonly #moment: () => number;
  /** What the newest frame of each reign leaves. */
  readonly #tips = new Map<number, { digest: string; state: VolumeState }>();
  readonly #seen = new WeakSet<Uint8Array>();
  #pending: Request[] = [];
  #nextRequest = 1;
  /** The newest frame whose effects were acknowledged. */
  #ackedTip: ModelFrame | null = null;
  /** End of the log that each reign took over. */
  readonly takenOver = new Map<number, string>();

  constructor(
    keys: KeyRing,
    base: VolumeState,
    moment: () => number,
    from: {
      frames: Map<string, ModelFrame>;
      floors: Floor[];
      touched: Set<number>;
      rootDigest: string | null;
      nextRequest: number;
    } | null,
    source: VolumeModel | null = null,
  ) {
    this.source = source;
    this.keys = keys;
    this.base = base;
    this.#moment = moment;
    this.rootDigest = from?.rootDigest ?? null;
    this.frames = from?.frames ?? new Map();
    this.floors = from?.floors ?? [];
    this.touched = from?.touched ?? new Set();
    this.#nextRequest = from?.nextRequest ?? 1;
  }

  /**
   * The model as it was at `moment`: what had been sent and told by then. No request is under way. Promises of other kinds than
   * these ended with the crash.
   */
  fork(moment: number, now: () => number, keys: KeyRing, kinds: readonly Floor['kind'][]): VolumeModel {
    const frames = new Map([...this.frames].filter(([, frame]) => frame.moment < moment));
    // Everything before the fork counts as having happened before the new world's first moment.
    const early = <T extends { moment: number }>(item: T): T => ({ ...item, moment: -1 });
    const from = {
      frames: new Map([...frames].map(([digest, frame]) => [digest, early(frame)])),
      floors: this.floors.filter((floor) => floor.moment < moment && kinds.includes(floor.kind)).map(early),
      touched: new Set(this.touched),
      rootDigest: this.rootDigest,
      nextRequest: this.#nextRequest,
    };
    return new VolumeModel(keys, this.base, now, from, this.source);
  }

  // --- Requests -------------------------------------------------------------------------------------------------------

  submitted(op: BlockOp, offset: number, length: number, data: Buffer | null, fua: boolean): Request {
    const request: Request = {
      id: this.#nextRequest++,
      op,
      offset,
      length,
      data,
      fua,
      open: new Set(),
      carried: new Map(),
      frame: op === 'flush' || op === 'read' ? this.#ackedTip : null,
      error: undefined,
    };
    const first = Math.floor(offset / BLOCK_SIZE);
    const last = Math.floor((offset + length - 1) / BLOCK_SIZE);
    if (op === 'write') {
      for (let block = first; block <= last; block++) {
        request.open.add(block);
        this.touched.add(block);
      }
    } else if (op === 'trim' || op === 'zero') {
      const inner = innerRange(request);
      if (inner.count > 0) request.open.add(-1);
      if (op === 'zero') for (const block of edgesOf(request)) request.open.add(block);
      for (const block of [first, last]) this.touched.add(block);
    }
    if (request.open.size > 0) this.#pending.push(request);
    return request;
  }

  nextId(): number {
    return this.#nextRequest;
  }

  completed(request: Request, error: BlockError | null): void {
    assert(request.error === undefined, `request ${request.id} was completed twice`);
    request.error = error;
    this.#pending = this.#pending.filter((other) => other !== request);
    if (error !== null) return;
    if (request.op === 'flush') {
      if (request.frame !== null) this.promise('durable', request.frame, `flush ${request.id}`);
      return;
    }
    if (request.op === 'read') return;
    for (const block of [...request.open]) this.#exchange(request, block);
    if (request.open.size > 0)
      throw new Error(
        `${request.op} ${request.id} at ${request.offset}, ${request.length} bytes, was acknowledged though blocks ${[...request.open].slice(0, 5)} were in no frame`,
      );
    if (request.frame === null) return;
    this.promise(request.fua ? 'durable' : 'acked', request.frame, `${request.op} ${request.id}`);
    if (request.frame.seq > (this.#ackedTip?.seq ?? 0)) this.#ackedTip = request.frame;
  }

  /** The engine of `epoch` serves: what it took over has been brought to every in-sync replica and synced. */
  opened(epoch: number): void {
    const digest = this.takenOver.get(epoch);
    const frame = digest === undefined ? undefined : this.frames.get(digest);
    if (frame === undefined) return;
    this.promise('durable', frame, `open of reign ${epoch}`);
    this.#ackedTip = frame;
  }

  promise(kind: Floor['kind'], frame: ModelFrame, why: string): void {
    this.floors.push({ kind, frame, moment: this.#moment(), why });
  }

  /** An order (freeze, resize) was answered: the newest frame with that effect is durable. */
  ordered(matches: (effect: Effect) => boolean, why: string): ModelFrame {
    let found: ModelFrame | undefined;
    for (const frame of this.frames.values()) if (frame.effects.some(matches)) found = frame;
    if (found === undefined) throw new Error(`${why} was answered without a frame`);
    this.promise('durable', found, why);
    if (found.seq > (this.#ackedTip?.seq ?? 0)) this.#ackedTip = found;
    return found;
  }

  /**
   * What a read returned must be the state of some frame that is not older than what was acknowledged when it was asked for;
   * and since it was seen, it must stay.
   */
  checkRead(request: Request, epoch: number, got: Buffer): void {
    const tip = this.#tips.get(epoch)!;
    const floor = request.frame?.seq ?? 0;
    const first = Math.floor(request.offset / BLOCK_SIZE);
    const last = Math.floor((request.offset + request.length - 1) / BLOCK_SIZE);
    for (let block = first; block <= last; block++) {
      const from = Math.max(request.offset, block * BLOCK_SIZE);
      const to = Math.min(request.offset + request.length, (block + 1) * BLOCK_SIZE);
      const part = got.subarray(from - request.offset, to - request.offset);
      const at = from - block * BLOCK_SIZE;
      const now = tip.state.blocks.get(block) ?? zeroBlock;
      if (
        now.compare(part, 0, part.length, at, at + part.length) === 0 &&
        !this.#changedSince(tip.digest, block, floor)
      )
        continue;
      const seen = this.#findContent(tip.digest, block, floor, part, at);
      if (seen === undefined)
        throw new Error(
          `read ${request.id} of block ${block}: neither what it held at frame ${floor} nor anything written after it`,
        );
      if (seen !== null) this.promise('acked', seen, `read ${request.id} of block ${block}`);
    }
  }

  #changedSince(digest: string, block: number, floor: number): boolean {
    for (const frame of this.#back(digest)) {
      if (frame.seq <= floor) return false;
      if (frame.effects.some((effect) => contentOf(effect, block) !== undefined)) return true;
    }
    return false;
  }

  /**
   * The oldest frame above the floor that gave the block this content, null when it had it at the floor; undefined when there
   * is none.
   */
  #findContent(digest: string, block: number, floor: number, part: Buffer, at: number): ModelFrame | null | undefined {
    const same = (content: Buffer) => content.compare(part, 0, part.length, at, at + part.length) === 0;
    let found: ModelFrame | undefined;
    for (const frame of this.#back(digest)) {
      const content = lastContent(frame, block);
      if (content === undefined) continue;
      if (frame.seq <= floor) return same(content) ? null : found;
      if (same(content)) found = frame;
    }
    return same(this.base.blocks.get(block) ?? zeroBlock) ? null : found;
  }

  *#back(digest: string): Generator<ModelFrame> {
    for (let frame = this.frames.get(digest); frame !== undefined; frame = this.frames.get(frame.parent)) yield frame;
  }

  // --- Frames ---------------------------------------------------------------------------------------------------------

  /** A frame of this volume, or of what it was cloned from. */
  knows(digest: string): boolean {
    return this.frames.has(digest) || this.source?.knows(digest) === true;
  }

  /** An engine of `epoch` sends these bytes to a replica. Returns the frames that were not known before. */
  sent(bytes: Uint8Array, offset: number, epoch: number): ModelFrame[] {
    if (this.#seen.has(bytes)) return [];
    this.#seen.add(bytes);
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const fresh: ModelFrame[] = [];
    let at = offset === 0 ? SEGMENT_HEADER_SIZE : 0;
    while (at < buffer.length) {
      const header = decodeFrame(buffer, at, true);
      if (typeof header === 'string') throw new Error(`an engine sent a bad frame (${header})`);
      const digest = frameDigest(buffer, at).toString('hex');
      if (!this.knows(digest)) {
        if (header.epoch !== epoch)
          throw new Error(
            `reign ${epoch} sent frame ${header.seq} of epoch ${header.epoch}, which nobody had sent before`,
          );
        const frame = this.#decode(buffer, at, header, digest);
        this.frames.set(digest, frame);
        fresh.push(frame);
      }
      at += FRAME_HEADER_SIZE + header.bodyLength;
    }
    return fresh;
  }

  #decode(
    bytes: Buffer,
    at: number,
    header: { seq: number; epoch: number; bodyLength: number },
    digest: string,
  ): ModelFrame {
    const parent = bytes.toString('hex', at + 80, at + 96);
    let tip = this.#tips.get(header.epoch);
    if (tip === undefined) {
      this.rootDigest ??= parent;
      this.takenOver.set(header.epoch, parent);
      tip = { digest: parent, state: this.stateAt(parent) };
      this.#tips.set(header.epoch, tip);
    }
    if (parent !== tip.digest)
      throw new Error(`frame ${header.seq} of epoch ${header.epoch} does not follow the one before it`);
    const effects: Effect[] = [];
    const frame: ModelFrame = { digest, parent, seq: header.seq, epoch: header.epoch, effects, moment: this.#moment() };
    const end = at + FRAME_HEADER_SIZE + header.bodyLength;
    let moving = false;
    for (let entry = at + FRAME_HEADER_SIZE; entry < end; ) {
      const head = decodeEntry(bytes, entry, end);
      if (typeof head === 'string') throw new Error(`an engine sent a bad entry (${head})`);
      if (head.kind === entryKind.move) {
        moving = true;
        this.moves++;
      }
      // What is moved changes nothing: reads tell when it does.
      const effect = moving ? null : this.#effect(bytes, entry, head.kind, head.length);
      if (effect !== null) {
        effects.push(effect);
        // Traced before it is applied: a merge is judged by what the block held until then.
        this.#trace(effect, frame, tip.state);
        applyEffect(tip.state, effect);
      }
      entry += Math.ceil(head.length / 64) * 64;
    }
    tip.digest = digest;
    return frame;
  }

  #effect(bytes: Buffer, at: number, kind: number, length: number): Effect | null {
    if (kind === entryKind.record) {
      const header = readRecordHeader(bytes, at)!;
      const content = Buffer.alloc(header.run * BLOCK_SIZE);
      const stored = Math.ceil(length / 64) * 64;
      const batch = new OpenBatch();
      batch.add(bytes, at, stored, header.block, header.run, content, 0);
      kernel.open(this.keys, batch);
      const fault = batch.fault(0);
      if (fault !== null)
        throw new Error(`an engine sent a record of block ${header.block} that does not open (${fault})`);
      const contents = Array.from({ length: header.run }, (_, i) =>
        content.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE),
      );
      return { kind: 'blocks', block: header.block, contents };
    }
    if (
      kind === entryKind.range ||
      kind === entryKind.freeze ||
      kind === entryKind.snapshotDelete ||
      kind === entryKind.resize ||
      kind === entryKind.open
    ) {
      const entry = decodeControl(bytes, at, kind, length);
      if (entry.kind === 'range') return { kind: 'range', block: entry.block, count: entry.count };
      if (entry.kind === 'freeze') return { kind: 'freeze', snapshotId: entry.snapshotId };
      if (entry.kind === 'snapshotDelete') return { kind: 'unfreeze', snapshotId: entry.snapshotId };
      if (entry.kind === 'resize' || entry.kind === 'open') return { kind: 'size', sizeBytes: entry.sizeBytes };
    }
    return null;
  }

  /** Finds the request that asked for this; nothing may get into the log that nobody asked for. */
  #trace(effect: Effect, frame: ModelFrame, state: VolumeState): void {
    if (effect.kind === 'range') {
      const owner = this.#pending.find((request) => {
        if (!request.open.has(-1)) return false;
        const inner = innerRange(request);
        return inner.block === effect.block && inner.count === effect.count;
      });
      if (owner === undefined)
        throw new Error(
          `frame ${frame.seq} clears ${effect.count} blocks from ${effect.block} on, which nobody asked for`,
        );
      carry(owner, -1, frame, null);
    } else if (effect.kind === 'blocks') {
      effect.contents.forEach((content, i) => {
        const block = effect.block + i;
        const before = state.blocks.get(block) ?? zeroBlock;
        const owner = this.#pending.find(
          (request) => request.open.has(block) && merged(request, block, before).equals(content),
        );
        if (owner === undefined)
          throw new Error(
            `frame ${frame.seq} of epoch ${frame.epoch} writes block ${block} with content that nobody asked for: ${sectors(content)}; before: ${sectors(before)}; asked for: ${this.#pending
              .filter((request) => request.open.has(block))
              .map((request) => `${request.op} ${request.id} of ${request.length} bytes at ${request.offset}`)
              .join(', ')}`,
          );
        carry(owner, block, frame, content);
      });
    }
  }

  /**
   * Two requests in flight may make the same of a block (zeroes of zeroes), and the frame of one was taken for the other's: the
   * one that was answered first gets it.
   */
  #exchange(request: Request, block: number): void {
    const inner = innerRange(request);
    for (const other of this.#pending) {
      const carried = other.carried.get(block);
      if (carried === undefined) continue;
      const theirs = innerRange(other);
      const same =
        carried.content === null
          ? theirs.block === inner.block && theirs.count === inner.count
          : merged(request, block, carried.content).equals(carried.content);
      if (!same) continue;
      other.carried.delete(block);
      other.open.add(block);
      carry(request, block, carried.frame, carried.content);
      return;
    }
  }

  // --- States ---------------------------------------------------------------------------------------------------------

  /** The frames up to `digest`, oldest first; throws when they don't lead back to the beginning. */
  chain(digest: string): ModelFrame[] {
    const frames = [...this.#back(digest)].reverse();
    const start = frames[0]?.parent ?? digest;
    if (this.rootDigest !== null && start !== this.rootDigest)
      throw new Error(`the log ends with frame ${digest}, which no engine sent`);
    return frames;
  }

  /** What the newest frame of a reign leaves; not to be changed. */
  stateOf(epoch: number): VolumeState | undefined {
    return this.#tips.get(epoch)?.state;
  }

  stateAt(digest: string): VolumeState {
    const state: VolumeState = {
      sizeBytes: this.base.sizeBytes,
      blocks: new Map(this.base.blocks),
      snapshots: new Map(this.base.snapshots),
    };
    for (const frame of this.chain(digest)) for (const effect of frame.effects) applyEffect(state, effect);
    return state;
  }
}

function carry(request: Request, block: number, frame: ModelFrame, content: Buffer | null): void {
  request.open.delete(block);
  request.carried.set(block, { frame, content });
  if (frame.seq > (request.frame?.seq ?? 0)) request.frame = frame;
}

function applyEffect(state: VolumeState, effect: Effect): void {
  switch (effect.kind) {
    case 'blocks':
      effect.contents.forEach((content, i) => {
        state.blocks.set(effect.block + i, content);
      });
      return;
    case 'range':
      if (effect.count > state.blocks.size) {
        for (const block of state.blocks.keys())
          if (block >= effect.block && block < effect.block + effect.count) state.blocks.delete(block);
      } else for (let i = 0; i < effect.count; i++) state.blocks.delete(effect.block + i);
      return;
    case 'freeze':
      if (!state.snapshots.has(effect.snapshotId))
        state.snapshots.set(effect.snapshotId, { sizeBytes: state.sizeBytes, blocks: new Map(state.blocks) });
      return;
    case 'unfreeze':
      state.snapshots.delete(effect.snapshotId);
      return;
    case 'size':
      state.sizeBytes = Math.max(state.sizeBytes, effect.sizeBytes);
  }
}

function contentOf(effect: Effect, block: number): Buffer | undefined {
  if (effect.kind === 'range')
    return block >= effect.block && block < effect.block + effect.count ? zeroBlock : undefined;
  if (effect.kind !== 'blocks') return undefined;
  return effect.contents[block - effect.block];
}

function lastContent(frame: ModelFrame, block: number): Buffer | undefined {
  let content: Buffer | undefined;
  for (const effect of frame.effects) content = contentOf(effect, block) ?? content;
  return content;
}

/** Whole blocks of a trim or zero. */
function innerRange(request: Request): { block: number; count: number } {
  const from = Math.ceil(request.offset / BLOCK_SIZE);
  const to = Math.floor((request.offset + request.length) / BLOCK_SIZE);
  return { block: from, count: Math.max(0, to - from) };
}

function edgesOf(request: Request): number[] {
  const first = Math.floor(request.offset / BLOCK_SIZE);
  const last = Math.floor((request.offset + request.length - 1) / BLOCK_SIZE);
  const inner = innerRange(request);
  const edges: number[] = [];
  for (const block of new Set([first, last]))
    if (block < inner.block || block >= inner.block + inner.count) edges.push(block);
  return edges;
}

/** What the request makes of a block. */
function merged(request: Request, block: number, before: Buffer): Buffer {
  const from = Math.max(request.offset, block * BLOCK_SIZE);
  const to = Math.min(request.offset + request.length, (block + 1) * BLOCK_SIZE);
  if (to - from === BLOCK_SIZE && request.data !== null)
    return request.data.subarray(from - request.offset, to - request.offset);
  const content = Buffer.from(before);
  if (request.data === null) content.fill(0, from - block * BLOCK_SIZE, to - block * BLOCK_SIZE);
  else request.data.copy(content, from - block * BLOCK_SIZE, from - request.offset, to - request.offset);
  return content;
}

/** Which request each sector of a block names, for messages. */
function sectors(block: Buffer): string {
  return Array.from({ length: BLOCK_SIZE / 512 }, (_, i) => block.readUInt32LE(i * 512)).join(' ');
}
