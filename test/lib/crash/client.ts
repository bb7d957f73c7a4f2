// A client of an open volume: submits requests as a block protocol would, in batches, tells the model of each, and judges
// every answer. Also makes the data: every 512 bytes name the request and the block they were written for.

import { BLOCK_SIZE } from '../../../src/base/index.js';
import type { BlockError, BlockOp, BlockRequest } from '../../../src/engine/index.js';
import type { Session, SimWorld } from './sim-world.js';
import type { Chance } from './virtual-time.js';
import type { Request, VolumeModel } from './volume-model.js';

export interface Wish {
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
}

export class Client {
  readonly #world: SimWorld;
  readonly #session: Session;
  readonly #model: VolumeModel;
  #open = 0;
  #waiters: (() => void)[] = [];
  answered = 0;
  refused = 0;
  bytes = 0;

  constructor(world: SimWorld, session: Session, model: VolumeModel) {
    this.#world = world;
    this.#session = session;
    this.#model = model;
  }

  get open(): number {
    return this.#open;
  }

  /** Submits everything in one call. */
  submit(wishes: readonly Wish[]): Promise<void>[] {
    const answers: Promise<void>[] = [];
    const requests = wishes.map((wish) => {
      const { op, offset, length, fua } = wish;
      const id = this.#model.nextId();
      const data =
        op === 'write'
          ? fill(this.#world.chance, id, offset, length)
          : op === 'read'
            ? Buffer.alloc(length, 0xa5)
            : null;
      const request = this.#model.submitted(op, offset, length, op === 'write' ? data : null, fua);
      this.#open++;
      this.bytes += op === 'write' ? length : 0;
      let answer: () => void = () => {};
      answers.push(new Promise<void>((resolve) => (answer = resolve)));
      const block: BlockRequest = {
        op,
        offset,
        length,
        fua,
        data: op === 'write' ? Buffer.concat([margin, data!]) : data,
        dataAt: op === 'write' ? margin.length : 0,
        cancelled: false,
        complete: (error) => {
          this.#complete(request, error, data);
          answer();
        },
      };
      return block;
    });
    const payloads = requests.map(({ op, data }) => (op === 'write' ? data : null));
    this.#session.engine.submit(requests);
    for (const [i, bytes] of payloads.entries()) if (bytes !== null) receiveOver(requests[i]!, bytes);
    return answers;
  }

  #complete(request: Request, error: BlockError | null, data: Buffer | null): void {
    this.#open--;
    if (error === null) this.answered++;
    else this.refused++;
    try {
      this.#world.tick();
      this.#model.completed(request, error);
      if (request.op === 'read' && error === null) this.#model.checkRead(request, this.#session.reign.epoch, data!);
      // Shutting down is the only error that a healthy volume may answer.
      if (error !== null && error !== 'ESHUTDOWN') throw new Error(`${request.op} ${request.id} failed with ${error}`);
    } catch (caught) {
      this.#world.fatal ??= caught as Error;
    }
    if (this.#open > 0) return;
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  /** Resolves when nothing is in flight. */
  drained(): Promise<void> {
    if (this.#open === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  async flush(): Promise<void> {
    await Promise.all(this.submit([{ op: 'flush', offset: 0, length: 0, fua: false }]));
  }
}

/** Payloads rarely begin where their memory does. */
const margin = Buffer.alloc(28, 0x5a);

/** As a server does whose memory is received into again: what the engine still needs goes elsewhere, and the rest is overwritten. */
function receiveOver(request: BlockRequest, bytes: Uint8Array): void {
  if (request.data !== null) {
    request.data = Buffer.from(bytes.subarray(request.dataAt, request.dataAt + request.length));
    request.dataAt = 0;
  }
  bytes.fill(0xee);
}

/** Data of one write: stamped, half of it compressible. */
function fill(chance: Chance, id: number, offset: number, length: number): Buffer {
  const data = Buffer.alloc(length);
  const words = new Uint32Array(data.buffer, data.byteOffset, length >> 2);
  if (chance.hit(0.5)) {
    let state = (id * 2654435761) >>> 0;
    for (let i = 0; i < words.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      words[i] = state;
    }
  } else words.fill(id);
  for (let at = 0; at + 16 <= length; at += 512) {
    data.writeUInt32LE(id, at);
    data.writeDoubleLE(offset + at, at + 8);
  }
  return data;
}

/** Reads one stretch, outside of any workload. */
export async function readAt(session: Session, offset: number, length: number): Promise<Buffer> {
  const data = Buffer.alloc(length, 0xa5);
  const error = await new Promise<BlockError | null>((resolve) =>
    session.engine.submit([
      { op: 'read', offset, length, fua: false, data, dataAt: 0, cancelled: false, complete: resolve },
    ]),
  );
  if (error !== null) throw new Error(`read at ${offset}: ${error}`);
  return data;
}

/** The blocks given, as runs of at most 256. */
export function* runsOf(blocks: Iterable<number>): Generator<[number, number]> {
  let start = -1;
  let count = 0;
  for (const block of [...blocks].sort((a, b) => a - b)) {
    if (start >= 0 && block === start + count && count < 256) {
      count++;
      continue;
    }
    if (start >= 0) yield [start, count];
    start = block;
    count = 1;
  }
  if (start >= 0) yield [start, count];
}

export const blockBytes = BLOCK_SIZE;
