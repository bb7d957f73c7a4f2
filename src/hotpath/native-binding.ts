// What the native crate (native/) exports, one interface a part. Every part has a twin in TypeScript or Node.

/** native/src/seal.rs. Twin: kernel-twin.ts. Byte arrays are borrowed for the call only; wrong arguments throw. */
export interface NativeKernel {
  /** Version of this interface; the loader takes no other. */
  nativeVersion(): number;
  /** FramePlan.bytes, SealBatch.columns and sources, output. Returns where the frame ends in the output. */
  sealFrame(plan: Uint8Array, columns: Uint8Array, sources: readonly Uint8Array[], out: Uint8Array): number;
  /** Ring, OpenBatch.columns and count, buffers and their count. Returns how many records have a fault. */
  openRecords(
    ring: number,
    columns: Uint8Array,
    count: number,
    buffers: readonly Uint8Array[],
    bufferCount: number,
  ): number;
  /** Whether the MAC in a frame (all of it) is what the reign of `epoch` gives. */
  frameMacMatches(ring: number, epoch: number, frame: Uint8Array): boolean;
  /** `lineage` 16 bytes, `dataKey` 32. Rings belong to the thread that made them. */
  ringCreate(lineage: Uint8Array, dataKey: Uint8Array): number;
  ringAddReign(ring: number, epoch: number, reignId: Uint8Array): boolean;
  ringDestroy(ring: number): void;
}

/**
 * Sockets of one thread, named by small numbers, all non-blocking. Results below zero are negative errno; no function throws at
 * what a peer or the system does.
 */
export interface NativeSockets {
  /** Calls `ready(id, events)` of openNet() whenever one of the events holds (1 readable, 2 writable; 0 stops). */
  watch(id: number, events: number): number;
  /** Receives into bytes[from..to): how many came, 0 when the peer has ended. */
  receive(id: number, bytes: Uint8Array, from: number, to: number): number;
  /** Sends of bytes[from..to): how many were taken. */
  send(id: number, bytes: Uint8Array, from: number, to: number): number;
  /** Sends of pieces[first + i], each from spans[2i] to spans[2i + 1], for at most 64 of them: how many bytes were taken. */
  sendAll(id: number, pieces: readonly Uint8Array[], spans: Uint32Array, first: number, count: number): number;
  /** Ends the sending side. */
  shutdown(id: number): number;
  /** Its number may be given out again in a later turn. */
  close(id: number): number;
  /** 0, or the error that broke it; asking clears it. */
  failure(id: number): number;
  /** A socket that becomes writable once connected; failure() then says how it went. */
  connectTcp(ip: string, port: number): number;
  connectUnix(path: string): number;
  /** A socket that is readable when somebody waits to be accepted. A unix socket gets mode 0600 first. */
  listenTcp(ip: string, port: number): number;
  listenUnix(path: string): number;
  accept(id: number): number;
  /** The TCP port of this end. */
  port(id: number): number;
  /** "ip:port" of the other end of a TCP socket. */
  peer(id: number): string;
  /** A netlink socket of that protocol; receive() takes one datagram, and what the bytes do not hold of it is lost. Twin: none. */
  openNetlink(protocol: number): number;
  /** Has a netlink socket hear a multicast group. */
  joinGroup(id: number, group: number): number;
  /** The descriptor, which stays this socket's until close(). */
  descriptor(id: number): number;

  // TLS (native/src/tls.rs). A socket that secureStart() was called for sends and receives by these alone.
  /** PEM; what sessions begun from now on use; new keys after so many records (0: as many as are safe). The empty string, or why not. */
  secureConfigure(ca: Uint8Array, chain: Uint8Array, key: Uint8Array, recordsPerKey: number): string;
  /** Begins a session on a connected socket; `server` 0 or 1. */
  secureStart(id: number, server: number): number;
  /** 0 when the peer is verified and the session stands; 1 or 2 when it goes on once the socket is readable or writable. */
  secureHandshake(id: number): number;
  /** Why a session failed with EPROTO. */
  secureProblem(id: number): string;
  /** The peer's certificate, DER. */
  securePeer(id: number): Buffer;
  /** As receive(), with room for 34 KiB at least. ECONNRESET when the peer ended without saying so. */
  secureReceive(id: number, bytes: Uint8Array, from: number, to: number): number;
  /** As send(): those that were not taken must be offered again before others, and not change until they are. */
  secureSend(id: number, bytes: Uint8Array, from: number, to: number): number;
  secureSendAll(id: number, pieces: readonly Uint8Array[], spans: Uint32Array, first: number, count: number): number;
  /** As shutdown(); the peer is told that it was meant. EAGAIN: to be called again once the socket is writable. */
  secureShutdown(id: number): number;
  /** As close(); the peer is told, if that can be done at once. */
  secureClose(id: number): number;
}

/** native/src/net.rs. Twin: node:net. */
export interface NativeNet {
  /** `ready` is told from the event loop; event 4 means broken, and no longer watched. */
  openNet(ready: (id: number, events: number) => void): NativeSockets;
}

/** native/src/busy_poll.rs. Twin: none, the thread sleeps at once. */
export interface NativeBusyPoll {
  /** Has this thread's event loop look for events for up to so many microseconds before it sleeps. To be called once, with more than 0. */
  startBusyPoll(mostUs: number): void;
}

/** native/src/disk.rs. Twin: log-tail.ts of segment/. Byte arrays are borrowed for the call only. */
export interface NativeDisk {
  /** Checks the frames in bytes[from..) against a tail (segment/log-tail.ts) and moves it along: 0, or the fault's number. */
  verifyFrames(bytes: Uint8Array, from: number, tail: Uint8Array): number;
  /** Has the kernel begin to write a stretch of the file to disk; false when that was left to it. Never waits. */
  startWriteBack(fd: number, from: number, length: number): boolean;
  /** Takes the pages of the file that are on the disk out of the page cache, in the same way. */
  dropCached(fd: number): boolean;
  /** fdatasync() on this thread: the microseconds that it took, or a negative errno. */
  syncInPlace(fd: number): number;
}

/** native/src/reads.rs. Twin: segment/node-reads.ts reads one after the other. */
export interface NativeReads {
  /**
   * A reader of this thread. `ended(count)` is called from the event loop when `told` (3072 numbers) holds batch, row and result of so
   * many reads. `ring` false: by threads, as where the system gives no io_uring.
   */
  openReads(ended: (count: number) => void, told: Int32Array, ring: boolean): number;
  readsByRing(reader: number): boolean;
  /**
   * Rows of 32 bytes: double position; words descriptor, buffer, byte in it, length; then, filled in, a word result: the bytes read
   * (fewer only at the end of the file), a negative errno, or -2^31: `ended` will tell, naming `batch`. Returns how many it will tell
   * of. Their buffers must not be moved or shrunk and their descriptors not be closed until then.
   */
  readRanges(
    reader: number,
    rows: Uint8Array,
    count: number,
    buffers: readonly Uint8Array[],
    bufferCount: number,
    batch: number,
  ): number;
}

export interface NativeBinding extends NativeKernel, NativeNet, NativeDisk, NativeReads, NativeBusyPoll {}
