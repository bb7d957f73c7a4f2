// The way between an engine and a replica on another machine: every call and every answer takes its time, in order, and is
// lost when the connection is cut or either process dies. Also where the model sees what an engine sends.

import { HoldfastError, type NodeId, type ReplicaId } from '../../../src/base/index.js';
import type { Reign, SegmentName } from '../../../src/format/index.js';
import type { LocalReplica } from '../../../src/replica/index.js';
import type {
  CloneOrder,
  DescribeUpdate,
  FrameInfo,
  ReadRange,
  ReplicaEvents,
  ReplicaPort,
  ReplicaStatus,
  SegmentInfo,
} from '../../../src/wire/index.js';
import type { VirtualTime } from './virtual-time.js';

type Done = (error: Error | null) => void;

/** One connection. Both ways are first in, first out. */
export interface Line {
  readonly time: VirtualTime;
  /** Milliseconds that the next message takes. */
  delay(): number;
  /** Both processes live and nobody cut the connection. */
  up(): boolean;
  /** The engine's process lives. */
  engineLives(): boolean;
}

export class SimPort implements ReplicaPort {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  readonly local: boolean;
  readonly #line: Line;
  readonly #replica: LocalReplica;
  readonly #sent: (bytes: Uint8Array, offset: number) => void;
  #events: ReplicaEvents | undefined;
  #lost: Error | undefined;
  #thereAt = 0;
  #backAt = 0;
  readonly #pending = new Set<(error: Error) => void>();

  constructor(parts: {
    replica: LocalReplica;
    local: boolean;
    line: Line;
    sent: (bytes: Uint8Array, offset: number) => void;
  }) {
    this.#replica = parts.replica;
    this.local = parts.local;
    this.#line = parts.line;
    this.#sent = parts.sent;
    this.replicaId = parts.replica.replicaId;
    this.nodeId = parts.replica.nodeId;
  }

  /** The connection is gone: the engine hears of it after a while, the replica's end at once. */
  breakOff(): void {
    if (this.#lost !== undefined) return;
    this.#replica.close();
    this.#line.time.after(this.#line.delay(), () =>
      this.#lose(new HoldfastError('UNAVAILABLE', `the connection to ${this.nodeId} was cut`)),
    );
  }

  #lose(error: Error): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    if (!this.#line.engineLives()) return;
    for (const fail of [...this.#pending]) fail(error);
    this.#pending.clear();
    this.#events?.lost(error);
  }

  /** Runs `action` at the replica. */
  #there(action: () => void): void {
    if (!this.#line.engineLives()) return;
    if (this.local) return action();
    const { time } = this.#line;
    this.#thereAt = Math.max(this.#thereAt, time.now + this.#line.delay());
    time.after(this.#thereAt - time.now, () => {
      if (this.#line.up() && this.#lost === undefined) action();
    });
  }
  /** Runs `action` at the engine. */
  #back(action: () => void): void {
    if (this.local) {
      if (this.#line.engineLives()) action();
      return;
    }
    const { time } = this.#line;
    this.#backAt = Math.max(this.#backAt, time.now + this.#line.delay());
    time.after(this.#backAt - time.now, () => {
      if (this.#line.up() && this.#line.engineLives() && this.#lost === undefined) action();
    });
  }

  listen(events: ReplicaEvents): void {
    this.#events = events;
    this.#replica.listen({
      appended: (seq) => this.#back(() => this.#events?.appended(seq)),
      lost: (error) => this.#back(() => this.#lose(error)),
    });
  }

  #ask<T>(call: () => Promise<T>): Promise<T> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return new Promise<T>((resolve, reject) => {
      this.#pending.add(reject);
      const settle = (then: () => void) =>
        this.#back(() => {
          this.#pending.delete(reject);
          then();
        });
      this.#there(() =>
        call().then(
          (value) => settle(() => resolve(value)),
          (error: unknown) => settle(() => reject(error)),
        ),
      );
    });
  }

  #callback(done: Done, call: (done: Done) => void): void {
    if (this.#lost !== undefined) return done(this.#lost);
    const fail = (error: Error) => done(error);
    this.#pending.add(fail);
    this.#there(() =>
      call((error) =>
        this.#back(() => {
          if (this.#pending.delete(fail)) done(error);
        }),
      ),
    );
  }

  fence(reign: Reign): Promise<ReplicaStatus> {
    return this.#ask(() => this.#replica.fence(reign));
  }
  segments(): Promise<SegmentInfo[]> {
    return this.#ask(() => this.#replica.segments());
  }
  frames(segment: SegmentName): Promise<FrameInfo[]> {
    return this.#ask(() => this.#replica.frames(segment));
  }
  append(segment: SegmentName, offset: number, bytes: Uint8Array, lastSeq: number): void {
    if (this.#lost !== undefined || !this.#line.engineLives()) return;
    this.#sent(bytes, offset);
    this.#there(() => this.#replica.append(segment, offset, bytes, lastSeq));
  }
  sync(throughSeq: number, done: Done): void {
    this.#callback(done, (answer) => this.#replica.sync(throughSeq, answer));
  }
  read(ranges: readonly ReadRange[], done: Done): void {
    this.#callback(done, (answer) => this.#replica.read(ranges, answer));
  }
  confirm(done: Done): void {
    this.#callback(done, (answer) => this.#replica.confirm(answer));
  }
  cut(seq: number): Promise<void> {
    return this.#ask(() => this.#replica.cut(seq));
  }
  deleteSegments(segments: readonly SegmentName[]): Promise<void> {
    return this.#ask(() => this.#replica.deleteSegments(segments));
  }
  describe(update: DescribeUpdate): Promise<void> {
    return this.#ask(() => this.#replica.describe(update));
  }
  repair(segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#ask(() => this.#replica.repair(segment, offset, bytes));
  }
  clone(order: CloneOrder): Promise<void> {
    return this.#ask(() => this.#replica.clone(order));
  }
  usage(): Promise<{ storedBytes: number; sharedBytes: number }> {
    return this.#ask(() => this.#replica.usage());
  }
  freeBytes(): number {
    return this.#replica.freeBytes();
  }
  close(): void {
    if (this.#lost !== undefined) return;
    this.#lost = new HoldfastError('UNAVAILABLE', 'the port was closed', { reason: 'Closed' });
    for (const fail of [...this.#pending]) fail(this.#lost);
    this.#pending.clear();
    this.#replica.close();
  }
}
