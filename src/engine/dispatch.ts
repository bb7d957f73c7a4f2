// The way of block requests into the open volume: limits on their rate, then reads to the read path, writes to the write path,
// flushes to the pipeline; and of reads' answers back. Owner: the engine.

import type { Clock } from '../base/index.js';
import type { BlockOp, BlockRequest } from './block-device.js';
import type { Counters } from './counters.js';
import type { QosLimits } from './engine-api.js';
import type { Pipeline } from './pipeline.js';
import { QosGate } from './qos.js';
import type { ReadAnswer, ReadPath } from './read-path.js';
import type { ReplicaSet } from './replica-set.js';
import type { ReplyGate } from './reply-gate.js';
import type { WritePath } from './write-path.js';

export interface DispatchParts {
  readonly reads: ReadPath;
  readonly writes: WritePath;
  readonly pipeline: Pipeline;
  readonly set: ReplicaSet;
  readonly gate: ReplyGate;
  readonly counters: Counters;
  readonly readOnly: boolean;
  /** The volume is encrypted, and its key is not here. */
  readonly keyless: boolean;
  readonly minReplicas: () => number;
  readonly qos: QosLimits;
  readonly clock: Clock;
  readonly closed: () => boolean;
}

export class Dispatch {
  readonly #parts: DispatchParts;
  readonly #qos: QosGate;
  #waitingFlushes: BlockRequest[] = [];

  constructor(parts: DispatchParts) {
    this.#parts = parts;
    this.#qos = new QosGate(parts.clock, parts.qos, (requests) => this.#pass(requests));
  }

  submit(requests: readonly BlockRequest[]): void {
    if (this.#parts.closed()) {
      for (const request of requests) request.complete('ESHUTDOWN');
      return;
    }
    this.#pass(this.#qos.open ? requests : this.#qos.admit(requests));
  }

  setQos(limits: QosLimits): void {
    this.#qos.set(limits);
  }

  /** The in-sync set changed. */
  retry(): void {
    for (const request of this.#waitingFlushes.splice(0)) this.#flush(request);
  }

  /** The engine ends: fails what waits here. */
  close(): void {
    for (const request of [...this.#qos.drop(), ...this.#waitingFlushes.splice(0)]) request.complete('ESHUTDOWN');
  }

  #pass(requests: readonly BlockRequest[]): void {
    const { readOnly, keyless, closed } = this.#parts;
    if (closed()) {
      for (const request of requests) request.complete('ESHUTDOWN');
      return;
    }
    // A maintenance engine of an encrypted volume has no key: it must neither read nor, above all, write in the clear.
    const plain = !keyless && !readOnly;
    if (plain && all(requests, 'read')) return this.#read(requests);
    if (plain && all(requests, 'write')) return this.#write(requests);
    const reads: BlockRequest[] = [];
    const writes: BlockRequest[] = [];
    for (const request of requests) {
      if (keyless && request.op !== 'flush') request.complete('EPERM');
      else if (request.op === 'read') reads.push(request);
      else if (request.op === 'flush') this.#flush(request);
      else if (readOnly) request.complete('EPERM');
      else writes.push(request);
    }
    if (writes.length > 0) this.#write(writes);
    if (reads.length > 0) this.#read(reads);
  }

  #write(writes: readonly BlockRequest[]): void {
    const { counters } = this.#parts;
    for (let i = 0; i < writes.length; i++) {
      const { op, length } = writes[i]!;
      if (op === 'write') {
        counters.writes++;
        counters.writeBytes += length;
      } else counters.trims++;
    }
    this.#parts.writes.submit(writes);
  }

  #read(reads: readonly BlockRequest[]): void {
    this.#parts.set.lease.keep();
    this.#parts.reads.read(reads, this.#answer);
  }

  /** The lease is checked after the data was fetched and before the replies leave, also for zeroes; once for all of them. */
  readonly #answer: ReadAnswer = (requests, failed) => {
    const { set, closed } = this.#parts;
    if (closed() || set.lease.held()) this.#complete(requests, failed, false);
    else set.lease.ask((failure) => this.#complete(requests, failed, failure !== null));
  };

  #complete(requests: readonly BlockRequest[], failed: ReadonlySet<number> | null, lapsed: boolean): void {
    const { counters, closed } = this.#parts;
    for (let i = 0; i < requests.length; i++) {
      const request = requests[i]!;
      // Whatever a read met while the engine ended says nothing of the volume: the next engine answers it.
      if (lapsed || closed()) request.complete('ESHUTDOWN');
      else if (failed?.has(i)) request.complete('EIO');
      else {
        counters.reads++;
        counters.readBytes += request.length;
        request.complete(null);
      }
    }
  }

  #flush(request: BlockRequest): void {
    const { set, minReplicas, pipeline, gate, counters } = this.#parts;
    if (set.inSyncCount < minReplicas()) {
      this.#waitingFlushes.push(request);
      return;
    }
    counters.flushes++;
    // Covers every write that was answered; those are committed. Nothing new since the last sync: nothing to do.
    pipeline.flush((error) => gate.reply([request], error));
  }
}

function all(requests: readonly BlockRequest[], op: BlockOp): boolean {
  for (let i = 0; i < requests.length; i++) if (requests[i]!.op !== op) return false;
  return true;
}
