// Frames between the writer and their commit: sends them to the counting replicas, keeps them in order, and when a frame is
// committed applies it to the map and answers its requests. Also the waiters for durability: one sync serves all of them.
//
// Invariant: the map shows committed frames only, in order of seq. Reads therefore see committed state only. Whoever writes records
// pins the pages of their blocks before, so that the map is changed here without waiting.

import { assert } from '../base/index.js';
import type { BlockMap } from '../hotpath/index.js';
import type { BlockError, BlockRequest } from './block-device.js';
import type { BlockHeat } from './block-heat.js';
import { FlushHabit } from './flush-habit.js';
import type { FrameTail } from './frame-tail.js';
import type { Frame } from './log-writer.js';
import type { ReplicaSet } from './replica-set.js';

export interface InFlight {
  readonly frame: Frame;
  /** Requests whose last part is in this frame. */
  requests: BlockRequest[];
  /** Effect of a control frame on the map. */
  apply: (() => void) | undefined;
  /** Somebody else who wants to know. */
  committed: (() => void) | undefined;
}

type Reply = (requests: readonly BlockRequest[], error: BlockError | null) => void;

const none: BlockRequest[] = [];
const isFua = (request: BlockRequest) => request.fua;

export class Pipeline {
  readonly #map: BlockMap;
  readonly #heat: BlockHeat;
  readonly #tail: FrameTail;
  readonly #habit = new FlushHabit();
  readonly #reply: Reply;
  #set: ReplicaSet | undefined;
  #inFlight: InFlight[] = [];
  #head = 0;
  #sent = 0;
  #bytes = 0;
  #syncWaiters: { seq: number; done: (error: BlockError | null) => void }[] = [];
  #transmitting = false;
  #closed = false;

  constructor(map: BlockMap, heat: BlockHeat, tail: FrameTail, reply: Reply) {
    this.#map = map;
    this.#heat = heat;
    this.#tail = tail;
    this.#reply = reply;
  }
  connect(set: ReplicaSet): void {
    this.#set = set;
  }

  get bytesInFlight(): number {
    return this.#bytes;
  }
  /** The oldest frame that is not committed yet. */
  get oldest(): Frame | undefined {
    return this.#inFlight[this.#head]?.frame;
  }

  /** Takes a frame from the writer. It goes out with the next transmit(). */
  emit(frame: Frame): void {
    this.#inFlight.push({ frame, requests: none, apply: undefined, committed: undefined });
    this.#bytes += frame.bytes.length;
  }
  /** The frame that was emitted last. */
  newest(frame: Frame): InFlight {
    const item = this.#inFlight[this.#inFlight.length - 1];
    assert(item !== undefined && item.frame === frame, 'a frame is decorated right after it was written');
    return item;
  }

  /** Sends what was emitted since the last call. */
  transmit(): void {
    assert(this.#set !== undefined, 'a pipeline is connected before it sends');
    // An acknowledgement may come before append() returns, so each frame is in the tail before it is sent. What such an
    // acknowledgement lets go on may emit more frames and call this again: they go out here, behind those that came before.
    if (this.#transmitting) return;
    this.#transmitting = true;
    try {
      while (this.#sent < this.#inFlight.length) {
        const from = this.#sent;
        this.#sent = this.#inFlight.length;
        const frames: Frame[] = [];
        let durable = false;
        for (let i = from; i < this.#sent; i++) {
          const { frame, requests } = this.#inFlight[i]!;
          this.#tail.push(frame);
          frames.push(frame);
          for (let r = 0; r < requests.length && !durable; r++) durable = requests[r]!.fua;
        }
        this.#set.append(frames, durable || this.#habit.expected(frames[frames.length - 1]!.seq));
      }
    } finally {
      this.#transmitting = false;
    }
  }

  /** Every counting replica has appended through seq. */
  committed(seq: number): void {
    while (this.#head < this.#sent && this.#inFlight[this.#head]!.frame.seq <= seq) {
      const item = this.#inFlight[this.#head++]!;
      this.#apply(item);
      if (this.#closed) return;
    }
    // Compacted only now and then: shifting for every frame would cost more than the memory.
    if (this.#head === this.#inFlight.length) {
      this.#inFlight.length = 0;
      this.#sent = 0;
      this.#head = 0;
    } else if (this.#head > 1024) {
      this.#inFlight = this.#inFlight.slice(this.#head);
      this.#sent -= this.#head;
      this.#head = 0;
    }
    this.#tail.trim(seq, this.#set!.whole);
  }

  #apply(item: InFlight): void {
    const { frame, requests } = item;
    const { blocks, runs, words } = frame;
    const map = this.#map;
    this.#bytes -= frame.bytes.length;
    if (blocks.length > 0) {
      let stored = 0;
      for (let i = 0; i < blocks.length; i++) {
        map.setRun(blocks[i]!, runs[i]!, words[i * 2]!, words[i * 2 + 1]!);
        map.unpin(blocks[i]!, runs[i]!);
        this.#heat.wrote(blocks[i]!, runs[i]!);
        stored += runs[i]!;
      }
      map.stored(frame.segment.slot, blocks.length, stored);
    }
    item.apply?.();
    item.committed?.();
    if (requests.length === 0) return;
    if (!requests.some(isFua)) return this.#reply(requests, null);
    const fua = requests.filter(isFua);
    this.durable(frame.seq, (error) => this.#reply(fua, error));
    if (fua.length < requests.length)
      this.#reply(
        requests.filter((request) => !request.fua),
        null,
      );
  }

  /** The client asks that everything answered so far be durable. */
  flush(done: (error: BlockError | null) => void): void {
    const { committed } = this.#set!;
    this.#habit.flushed(committed);
    this.durable(committed, done);
  }

  /** Calls back when everything through seq is on stable storage of every counting replica. */
  durable(seq: number, done: (error: BlockError | null) => void): void {
    if (this.#closed) return done('ESHUTDOWN');
    if (this.#set!.synced >= seq) return done(null);
    this.#syncWaiters.push({ seq, done });
    this.#set!.sync(seq);
  }

  synced(seq: number): void {
    if (this.#syncWaiters.length === 0) return;
    const ready = this.#syncWaiters.filter((waiter) => waiter.seq <= seq);
    if (ready.length === 0) return;
    this.#syncWaiters = this.#syncWaiters.filter((waiter) => waiter.seq > seq);
    for (const waiter of ready) waiter.done(null);
  }

  /** Fails everything that waits. Frames already sent may or may not survive: the next reign decides that for all replicas alike. */
  close(error: BlockError): void {
    this.#closed = true;
    const items = this.#inFlight.slice(this.#head);
    this.#inFlight = [];
    this.#head = 0;
    this.#sent = 0;
    this.#bytes = 0;
    const waiters = this.#syncWaiters;
    this.#syncWaiters = [];
    for (const item of items) this.#reply(item.requests, error);
    for (const waiter of waiters) waiter.done(error);
  }
}
