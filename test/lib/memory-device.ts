// A BlockDevice over one Buffer, for tests of what stands in front of an engine.

import type { BlockDevice, BlockRequest } from '../../src/engine/index.js';

export class MemoryDevice implements BlockDevice {
  bytes: Buffer;
  readonly readOnly: boolean = false;
  closed = false;
  readonly log: { op: string; offset: number; length: number; fua: boolean }[] = [];
  /** Set to delay or fail: called for each request; return true when it took over completion. */
  intercept: ((request: BlockRequest) => boolean) | undefined;
  #closedListeners: (() => void)[] = [];
  #resizedListeners: (() => void)[] = [];

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }
  get sizeBytes(): number {
    return this.bytes.length;
  }
  submit(requests: readonly BlockRequest[]): void {
    for (const request of requests) {
      this.log.push({ op: request.op, offset: request.offset, length: request.length, fua: request.fua });
      if (this.intercept?.(request)) continue;
      this.apply(request);
      request.complete(null);
    }
  }
  apply(request: BlockRequest): void {
    const end = request.offset + request.length;
    const { op, dataAt, length } = request;
    if (op === 'read') request.data!.set(this.bytes.subarray(request.offset, end), dataAt);
    else if (op === 'write') {
      this.bytes.set(request.data!.subarray(dataAt, dataAt + length), request.offset);
      request.data = null;
    } else if (op === 'trim' || op === 'zero') this.bytes.fill(0, request.offset, end);
  }
  close(): void {
    this.closed = true;
    for (const listener of this.#closedListeners) listener();
  }
  grow(sizeBytes: number): void {
    this.bytes = Buffer.concat([this.bytes, Buffer.alloc(sizeBytes - this.bytes.length)]);
    for (const listener of this.#resizedListeners) listener();
  }
  onClosed(listener: () => void): void {
    this.#closedListeners.push(listener);
  }
  onResized(listener: () => void): void {
    this.#resizedListeners.push(listener);
  }
}
