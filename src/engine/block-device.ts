// The port between a block protocol (nbd/) and an open volume (engine/). One call hands over everything that arrived
// together, so that the engine can seal it as one batch; no promise and no event per block.

/** What a block request can fail with. nbd/ maps each to its wire errno in one table. */
export type BlockError = 'EPERM' | 'EIO' | 'ENOMEM' | 'EINVAL' | 'ENOSPC' | 'EOVERFLOW' | 'ENOTSUP' | 'ESHUTDOWN';

export type BlockOp = 'read' | 'write' | 'flush' | 'trim' | 'zero';

export interface BlockRequest {
  readonly op: BlockOp;
  /** First byte; any alignment. 0 for flush. */
  readonly offset: number;
  /** Bytes; any length from 1 (0 for flush). offset + length is within sizeBytes: the caller has checked. */
  readonly length: number;
  /** Complete only when the request's effect is on stable storage (write, trim, zero). */
  readonly fua: boolean;
  /**
   * write: the payload is data[dataAt .. dataAt + length). read: the destination is, to be filled before complete(null), and it
   * stays where it is until then. Otherwise null.
   *
   * A write's payload may lie in memory that is received into again soon. So the device sets `data` to null as soon as it needs
   * the payload no longer, mostly before submit() returns; where `data` is still set by then, the submitter may put the payload
   * elsewhere and change `data` and `dataAt`. The device reads both anew whenever it comes back to a request.
   */
  data: Uint8Array | null;
  dataAt: number;
  /** Called exactly once, in any order among requests, possibly before submit() returns. */
  complete(error: BlockError | null): void;
  /** Set by the submitter when its connection is gone: a request that has no sequence number yet may be dropped (complete('ESHUTDOWN')). */
  cancelled: boolean;
}

export interface BlockDevice {
  /** Current size in bytes, a multiple of 4096. Only ever grows. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** True when the device answers only errors from now on (closed or deposed); connections should be dropped. */
  readonly closed: boolean;
  /**
   * Admits a batch in order. Semantics are a disk's with a volatile cache: requests in flight together may take effect
   * in any order; a read that is submitted after a write's completion sees it; flush covers every write completed before
   * the flush was submitted, by whichever connection. Trimmed and zeroed ranges read as zeroes.
   */
  submit(requests: readonly BlockRequest[]): void;
  /** Resolves when the device has closed; listeners drop their connections. */
  onClosed(listener: () => void): void;
  /** Called after sizeBytes grew. */
  onResized(listener: () => void): void;
}
