// Collects the replies of one turn and sends them in one go. Owner: one transmission. Replies are made one behind the other in
// slabs, so those that come to lie side by side leave as one piece. Invariant: bytes handed to the stream stay as they are until
// it has sent everything; only then are slabs given back.

import type { ByteStream } from '../transport/index.js';
import { DATA_CHUNK_BYTES, ERROR_CHUNK_BYTES, SIMPLE_REPLY_BYTES } from './constants.js';
import { writeDataChunk, writeErrorChunk, writeSimpleReply } from './messages.js';
import { giveReplySlab, type ReplySlab, takeReplySlab } from './reply-slabs.js';
import type { ServerRequest } from './server-request.js';

export class ReplyWriter {
  readonly #stream: ByteStream;
  /** Bytes in front of a read's data. */
  readonly headBytes: number;
  /** The slab being filled. */
  #slab: ReplySlab | null = null;
  /** Those filled before it, with reads under way or bytes that are not sent. */
  #full: ReplySlab[] = [];
  /** Of the piece that was made last, so that it can grow. */
  #piece: ReplySlab | null = null;
  #from = 0;
  #to = 0;
  /** Turns whose replies the peer has not taken. */
  unsentTurns = 0;

  constructor(stream: ByteStream, structured: boolean) {
    this.#stream = stream;
    this.headBytes = structured ? DATA_CHUNK_BYTES : SIMPLE_REPLY_BYTES;
  }

  /** Bytes the peer has not taken. */
  get unsentBytes(): number {
    return this.#stream.unsentBytes;
  }

  /** Memory of slabs that are full and not given back: one read under way, or a peer that does not read, holds a whole one. */
  get heldBytes(): number {
    let bytes = 0;
    for (const slab of this.#full) bytes += slab.bytes.length;
    return bytes;
  }

  /** Gives a read the place for its reply: sets its destination. */
  reserve(request: ServerRequest): void {
    const { length } = request;
    const slab = this.#room(this.headBytes + length);
    request.slab = slab;
    request.data = slab.bytes;
    request.dataAt = slab.end + this.headBytes;
    slab.end += this.headBytes + length;
    slab.reads++;
  }

  /** Sends the data of a read, filled in by now. */
  readDone(request: ServerRequest): void {
    const { slab, high, low, length, offset } = request;
    const at = request.dataAt - this.headBytes;
    if (this.headBytes === DATA_CHUNK_BYTES) writeDataChunk(slab!.bytes, at, high, low, offset, length);
    else writeSimpleReply(slab!.bytes, at, 0, high, low);
    slab!.reads--;
    this.#add(slab!, at, at + this.headBytes + length);
  }

  /** The answer to anything but a read that went well; `error` is 0 or a wire errno. */
  simple(error: number, high: number, low: number): void {
    const slab = this.#room(SIMPLE_REPLY_BYTES);
    const at = slab.end;
    slab.end += SIMPLE_REPLY_BYTES;
    writeSimpleReply(slab.bytes, at, error, high, low);
    this.#add(slab, at, slab.end);
  }

  /** The answer to a read that failed: a chunk once structured replies were negotiated, else a simple reply. */
  readFailed(error: number, high: number, low: number, slab: ReplySlab | null): void {
    if (slab !== null) slab.reads--;
    if (this.headBytes !== DATA_CHUNK_BYTES) return this.simple(error, high, low);
    const room = this.#room(ERROR_CHUNK_BYTES);
    const at = room.end;
    room.end += ERROR_CHUNK_BYTES;
    writeErrorChunk(room.bytes, at, error, high, low);
    this.#add(room, at, room.end);
  }

  /** Sends all replies collected so far, and gives memory back. */
  flush(): void {
    if (this.#piece !== null) {
      this.#write();
      this.#stream.flush();
      this.unsentTurns++;
    }
    if (this.#stream.unsentBytes > 0) return;
    this.unsentTurns = 0;
    if (this.#full.length > 0) this.#full = this.#full.filter((slab) => !gaveBack(slab));
    if (this.#slab !== null && gaveBack(this.#slab)) this.#slab = null;
  }

  #room(bytes: number): ReplySlab {
    if (this.#slab !== null) {
      if (this.#slab.room >= bytes) return this.#slab;
      this.#full.push(this.#slab);
    }
    this.#slab = takeReplySlab(bytes);
    return this.#slab;
  }

  #add(slab: ReplySlab, from: number, to: number): void {
    if (this.#piece === slab && this.#to === from) {
      this.#to = to;
      return;
    }
    if (this.#piece !== null) this.#write();
    this.#piece = slab;
    this.#from = from;
    this.#to = to;
  }

  #write(): void {
    this.#stream.write(this.#piece!.bytes, this.#from, this.#to);
    this.#piece = null;
  }
}

function gaveBack(slab: ReplySlab): boolean {
  if (slab.reads > 0) return false;
  giveReplySlab(slab);
  return true;
}
