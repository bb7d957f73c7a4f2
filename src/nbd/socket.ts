// The port to a byte stream. A node:net Socket is one as it stands; tests bring their own and feed bytes.

export interface NbdSocket {
  /** Bytes handed to write() that the peer's kernel has not taken yet. */
  readonly writableLength: number;
  readonly destroyed: boolean;
  /** `written` is called when these bytes have left, also with an error when the socket is destroyed before. */
  write(bytes: Uint8Array, written?: (error?: Error | null) => void): boolean;
  /** Between cork() and uncork() writes are collected and leave together. */
  cork(): void;
  uncork(): void;
  /** No 'data' event comes after pause() until resume(). */
  pause(): unknown;
  resume(): unknown;
  /** Sends what is queued, then ends the sending side; `finished` is called when all has left. */
  end(finished?: () => void): unknown;
  /** Closes at once, dropping what is queued and unread. 'close' follows. */
  destroy(): unknown;
  on(event: 'data', listener: (chunk: Buffer) => void): unknown;
  on(event: 'end' | 'close', listener: () => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
}
