// A handler that remembers what it heard, for the conformance suite.

import type { ByteStream, ReceiveSlab, StreamHandler } from '../../../src/transport/index.js';

export class Probe implements StreamHandler {
  readonly stream: ByteStream;
  readonly chunks: Buffer[] = [];
  bytes = 0;
  wanted = 0;
  drains = 0;
  ends = 0;
  closes: (Error | null)[] = [];
  /** Takes what it is offered; returns how much of it. */
  take: (slab: ReceiveSlab, from: number, to: number) => number = (slab, from, to) => {
    this.keep(slab, from, to);
    return to - from;
  };
  #waiting: { ready: () => boolean; resolve: () => void }[] = [];

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.start(this);
  }

  keep(slab: ReceiveSlab, from: number, to: number): void {
    this.chunks.push(Buffer.from(slab.bytes.subarray(from, to)));
    this.bytes += to - from;
  }
  get all(): Buffer {
    return Buffer.concat(this.chunks);
  }

  received(slab: ReceiveSlab, from: number, to: number): number {
    const taken = this.take(slab, from, to);
    this.#check();
    return taken;
  }
  drained(): void {
    this.drains++;
    this.#check();
  }
  ended(): void {
    this.ends++;
    this.#check();
  }
  closed(error: Error | null): void {
    this.closes.push(error);
    this.#check();
  }

  #check(): void {
    const met = this.#waiting.filter(({ ready }) => ready());
    this.#waiting = this.#waiting.filter((one) => !met.includes(one));
    for (const { resolve } of met) resolve();
  }
  /** Resolves when the condition holds after something was heard; the test's own time is the bound. */
  until(ready: () => boolean): Promise<void> {
    if (ready()) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ ready, resolve }));
  }
}
