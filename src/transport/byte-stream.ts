// The port to byte streams: what the replica protocol and the NBD server need of a socket, and no more. Two implementations pass
// one conformance suite: native-stream.ts (descriptors driven by the thread's own event loop) and node-stream.ts (anything that
// node:net, or TLS above it, gives). Nothing here assumes a descriptor.
//
// Calls of one stream and of its handler never overlap: a handler is called from the event loop only, never from within a call that
// it made itself.

import type { Identity } from '../trust/index.js';

/**
 * Memory that received bytes lie in. Who keeps a view beyond received() retains it, and releases it when done; then the memory is
 * used again. The bytes of a view do not change while it is retained.
 */
export interface ReceiveSlab {
  readonly bytes: Buffer;
  retain(): void;
  release(): void;
}

export interface StreamHandler {
  /**
   * slab.bytes[from..to) are all bytes received and not consumed yet, contiguous. Returns how many were consumed; the rest is
   * offered again together with what follows it, or by itself after pause() and resume(). Not called while paused.
   */
  received(slab: ReceiveSlab, from: number, to: number): number;
  /**
   * Bytes from the first unconsumed one on without which received() can't go on (a large message of which a part has arrived); 0
   * when unknown. Read after received(). The stream makes that much room, so the handler bounds it.
   */
  readonly wanted: number;
  /** Everything was sent, after a flush that could not send all at once. */
  drained(): void;
  /** The peer ended its side: nothing more will come. Sending may go on until end() or destroy(). */
  ended(): void;
  /** Once, in a later turn than the call that caused it: after destroy(), a failure, or the end of both sides. Null when nothing failed. */
  closed(error: Error | null): void;
}

export interface ByteStream {
  /** For log lines: "host:port", or "unix:path". */
  readonly peer: string;
  /** Whom the peer's certificate names; every stream of a secured net has it, no other one does. */
  readonly identity?: Identity;
  /** Bytes written and not yet taken by the system. When 0, memory given to write() may be used again. */
  readonly unsentBytes: number;
  readonly destroyed: boolean;
  /** Called once; before it nothing is received. */
  start(handler: StreamHandler): void;
  /** Queues bytes[from..to), which must not change until they are sent. Dropped when the stream is destroyed or ended. */
  write(bytes: Uint8Array, from?: number, to?: number): void;
  /** Sends what is queued now, in one vectored call. Without it everything queued leaves at the end of the turn. */
  flush(): void;
  /** No received() and no ended() until resume(). What is unconsumed is offered again in the turn of resume(). */
  pause(): void;
  resume(): void;
  /** Sends what is queued, then ends this side. closed() follows once the peer has ended its own. */
  end(): void;
  /** Closes at once: what is queued is dropped, and so is what was received. */
  destroy(error?: Error): void;
}

export interface StreamListener {
  /** As given to listen(), with the port that was given out. */
  readonly address: string;
  /** Stops accepting, and removes a unix socket; streams that were accepted go on. */
  close(): Promise<void>;
}

export interface StreamNet {
  /**
   * Connects to "unix:PATH", "HOST:PORT" or "[V6]:PORT". Rejects INVALID_ARGUMENT for another form, UNAVAILABLE when it is not
   * connected within `timeoutMs`, UNAUTHENTICATED/BadCertificate when the net is a secured one and the
   * peer is not who it may be. (A peer that refuses us may say so only when something is to be received.)
   */
  connect(address: string, timeoutMs: number): Promise<ByteStream>;
  /**
   * Port 0 takes a free one. A unix socket gets mode 0600 before anybody can connect; one left by a dead process is replaced.
   * Rejects INVALID_ARGUMENT for a bad address, FAILED_PRECONDITION/AddressInUse when it is taken, NOT_FOUND when a unix
   * socket's directory is missing.
   */
  listen(address: string, accepted: (stream: ByteStream) => void): Promise<StreamListener>;
}
