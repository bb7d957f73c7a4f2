// The port to stream sockets: what the protocol needs of node:net, and no more.

export interface WireSocket {
  /** Queues bytes; they must not change before they were sent. */
  write(bytes: Uint8Array): void;
  /** Holds writes back until uncork(), so that they leave together. */
  cork(): void;
  uncork(): void;
  /** Bytes queued and not yet taken by the system. */
  readonly bufferedBytes: number;
  pause(): void;
  resume(): void;
  /** Ends it at once; queued bytes may be lost. */
  destroy(): void;
  /** Sends what is queued, then ends. */
  end(): void;
  /** For log lines. */
  readonly peer: string;
  /** Called once, before anything can have been read. */
  listen(events: SocketEvents): void;
}

export interface SocketEvents {
  data(chunk: Buffer): void;
  /** Queued bytes fell below the socket's own mark again. */
  drained(): void;
  /** Once, whatever ended it; null when the peer or this side closed it in order. */
  closed(error: Error | null): void;
}

export interface WireListener {
  /** "host:port" with the port that was given out. */
  readonly address: string;
  close(): Promise<void>;
}

export interface WireNet {
  /** `address` is "host:port" ("[v6]:port"). Rejects UNAVAILABLE when it is not connected in time. */
  connect(address: string, timeoutMs: number): Promise<WireSocket>;
  /** Port 0 takes a free one. Rejects FAILED_PRECONDITION/AddressInUse. */
  listen(address: string, accept: (socket: WireSocket) => void): Promise<WireListener>;
}
