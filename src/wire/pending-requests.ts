// The client's unanswered requests of one port, oldest first. Owner: RemoteReplica. Every request is finished exactly once.

import { HoldfastError } from '../base/index.js';
import type { WireConnection } from './connection.js';
import { REQUESTS_MAX } from './limits.js';
import type { MessageHead } from './message.js';

export interface PendingRequest {
  readonly connection: WireConnection;
  /** Monotonic milliseconds by which an answer must be there. */
  readonly deadlineMs: number;
  /** Where the answer's bytes go; null for any other answer. */
  readonly sink: readonly Uint8Array[] | null;
  /** `body` is null for READ_DATA, whose bytes went to the sink. */
  finish(error: Error | null, body: Buffer | null): void;
}

export class PendingRequests {
  readonly #byId = new Map<number, PendingRequest>();
  #nextId = 1;

  get size(): number {
    return this.#byId.size;
  }

  /** The id to send with it; throws RESOURCE_EXHAUSTED when too many are unanswered. */
  add(request: PendingRequest): number {
    if (this.#byId.size >= REQUESTS_MAX) {
      throw new HoldfastError(
        'RESOURCE_EXHAUSTED',
        `${REQUESTS_MAX} requests to ${request.connection.peer} are unanswered`,
        { reason: 'Busy' },
      );
    }
    // Ids wrap after 2^32 requests; those of unanswered ones are skipped.
    do {
      this.#nextId = this.#nextId === 0xffff_ffff ? 1 : this.#nextId + 1;
    } while (this.#byId.has(this.#nextId));
    this.#byId.set(this.#nextId, request);
    return this.#nextId;
  }

  find(head: MessageHead): PendingRequest | undefined {
    return this.#byId.get(head.requestId);
  }

  take(head: MessageHead): PendingRequest | undefined {
    const request = this.#byId.get(head.requestId);
    if (request !== undefined) this.#byId.delete(head.requestId);
    return request;
  }

  /** A request whose deadline passed, if there is one. */
  overdue(nowMs: number): PendingRequest | undefined {
    for (const request of this.#byId.values()) if (request.deadlineMs <= nowMs) return request;
    return undefined;
  }

  waitsOn(connection: WireConnection): boolean {
    for (const request of this.#byId.values()) if (request.connection === connection) return true;
    return false;
  }

  failAll(error: Error): void {
    const all = [...this.#byId.values()];
    this.#byId.clear();
    for (const request of all) request.finish(error, null);
  }
}
