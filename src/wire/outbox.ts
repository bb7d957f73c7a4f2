// Memory for what a connection sends: headers, acknowledgements, answers of usual size, one behind the other, so that those of one
// turn leave as one piece. Owner: one WireConnection.
//
// Invariants: bytes that were reserved stay as they are until they are sent; once nothing is unsent or being filled the memory
// is used from its start again.

import { KiB } from '../base/index.js';
import type { ByteStream } from '../transport/index.js';

/** Some hundred acknowledgements, or a few small reads. */
const BYTES_FIRST = 16 * KiB;
/** Large reads of a busy connection are answered from memory of this size; a longer answer gets some of its own. */
const BYTES_MAX = 512 * KiB;

export class Outbox {
  readonly #stream: ByteStream;
  #bytes: Buffer = Buffer.alloc(0);
  #end = 0;
  /** Places reserved and neither sent nor dropped. */
  #open = 0;
  /** What reserve() gave last: bytes[at..). */
  bytes: Buffer = this.#bytes;
  at = 0;

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  /** Makes room for `size` bytes at `bytes[at]`, to be filled and then sent() or dropped(). */
  reserve(size: number): void {
    if (this.#open++ === 0 && this.#stream.unsentBytes === 0) this.#end = 0;
    if (this.#bytes.length - this.#end < size) {
      if (size > BYTES_MAX / 2) {
        this.bytes = Buffer.allocUnsafeSlow(size);
        this.at = 0;
        return;
      }
      const larger = Math.max(BYTES_FIRST, Math.min(BYTES_MAX, 4 * size), this.#bytes.length);
      this.#bytes = Buffer.allocUnsafeSlow(larger);
      this.#end = 0;
    }
    this.bytes = this.#bytes;
    this.at = this.#end;
    this.#end += size;
  }

  /** Sends what was filled at a place. */
  sent(bytes: Buffer, at: number, size: number): void {
    this.#open--;
    this.#stream.write(bytes, at, at + size);
  }

  dropped(): void {
    this.#open--;
  }
}
