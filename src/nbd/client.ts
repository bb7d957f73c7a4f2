// An NBD client with promises: for tools, tests and the demo. Owner: whoever called connect(). When its connection is lost it
// is dead: everything pending is rejected with an error isConnectionLost() recognises. See ReconnectingNbdClient for one
// that goes on.

import { HoldfastError, invalid, precondition } from '../base/index.js';
import type { BlockError, BlockOp } from '../engine/index.js';
import type { ExportInfo } from './client-handshake.js';
import type { ClientLink, LinkRequest } from './client-link.js';
import { askInfo, dialer, establish, type NbdAddress, type NbdDialer } from './dial.js';
import { BlockRequestError } from './errno.js';

export interface NbdClientOptions {
  readonly address: NbdAddress | NbdDialer;
  /** '' or absent asks for the server's default export. */
  readonly exportName?: string;
  /** A UUID; the server drops older connections of it first. Absent: other connections are left alone. */
  readonly clientId?: string;
}

/** Requests that may wait for an answer at once. */
export const CLIENT_REQUESTS_MAX = 16_384;
/** TRIM and WRITE_ZEROES longer than this are sent in pieces (the length has 32 bits). */
const RANGE_BYTES_MAX = 2 ** 30;

export class NbdClient {
  readonly #link: ClientLink;
  readonly #dial: NbdDialer;
  readonly #exportName: string;
  #sizeBytes: number;
  readonly #closed: Promise<void>;
  readonly #closeListeners: ((error: HoldfastError | null) => void)[] = [];
  #closing = false;

  /** Connects and enters the export. Rejects with NOT_FOUND for an unknown export, UNAVAILABLE when nobody answers. */
  static async connect(options: NbdClientOptions): Promise<NbdClient> {
    const dial = typeof options.address === 'function' ? options.address : dialer(options.address);
    const exportName = options.exportName ?? '';
    let gone = (): void => {};
    const closed = new Promise<void>((resolve) => {
      gone = resolve;
    });
    const link = await establish(await dial(), { exportName, clientId: options.clientId }, () => gone());
    return new NbdClient(link, dial, exportName, closed);
  }

  private constructor(link: ClientLink, dial: NbdDialer, exportName: string, closed: Promise<void>) {
    this.#link = link;
    this.#dial = dial;
    this.#exportName = exportName;
    this.#sizeBytes = link.info.sizeBytes;
    this.#closed = closed.then(() => this.#gone());
  }

  get info(): ExportInfo {
    return this.#link.info;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get readOnly(): boolean {
    return this.#link.info.readOnly;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const target = Buffer.allocUnsafeSlow(length);
    await this.readInto(offset, target);
    return target;
  }

  /** Fills `target`; its content is undefined when this rejects. */
  readInto(offset: number, target: Uint8Array): Promise<void> {
    return this.#split('read', offset, target.length, this.info.payloadBytesMax, false, target);
  }

  /** `data` must stay as it is until this settles. */
  write(offset: number, data: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    return this.#split('write', offset, data.length, this.info.payloadBytesMax, options.fua ?? false, data);
  }

  /** Resolves when every write answered before this call is on stable storage. */
  flush(): Promise<void> {
    return this.#request('flush', 0, 0, false, null);
  }

  trim(offset: number, length: number, options: { fua?: boolean } = {}): Promise<void> {
    return this.#split('trim', offset, length, RANGE_BYTES_MAX, options.fua ?? false, null);
  }

  writeZeroes(offset: number, length: number, options: { fua?: boolean } = {}): Promise<void> {
    return this.#split('zero', offset, length, RANGE_BYTES_MAX, options.fua ?? false, null);
  }

  /** Asks over a fresh connection how large the export is now. From then on the new range can be used. */
  async refreshSize(): Promise<number> {
    const info = await askInfo(await this.#dial(), this.#exportName);
    this.#sizeBytes = info.sizeBytes;
    return info.sizeBytes;
  }

  /** Calls `listener` once the connection is gone: with the cause, or null after close(). */
  onClose(listener: (error: HoldfastError | null) => void): void {
    this.#closeListeners.push(listener);
    if (this.#link.lost !== undefined) void this.#closed.then(() => this.#tellClosed());
  }

  /** Sends DISC; the server answers what is in flight and closes. Resolves when the connection is gone. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#link.disconnect();
    await this.#closed;
  }

  /** Requests above `most` bytes go out as several, which are in flight together. */
  async #split(
    op: BlockOp,
    offset: number,
    length: number,
    most: number,
    fua: boolean,
    data: Uint8Array | null,
  ): Promise<void> {
    if (!Number.isSafeInteger(offset) || offset < 0 || !Number.isSafeInteger(offset + length) || length < 0) {
      throw invalid(`${op} at ${offset}, length ${length}: not a range of bytes`);
    }
    if (length === 0) return;
    if (length <= most) return this.#request(op, offset, length, fua, data);
    const pieces: Promise<void>[] = [];
    for (let done = 0; done < length; done += most) {
      const bytes = Math.min(most, length - done);
      pieces.push(this.#request(op, offset + done, bytes, fua, data?.subarray(done, done + bytes) ?? null));
    }
    await Promise.all(pieces);
  }

  #request(op: BlockOp, offset: number, length: number, fua: boolean, data: Uint8Array | null): Promise<void> {
    if (this.#link.lost !== undefined) return Promise.reject(this.#link.lost);
    if (this.#closing) return Promise.reject(precondition('the NBD client is closed', 'Closed'));
    if (this.#link.inFlight >= CLIENT_REQUESTS_MAX) {
      const text = `${CLIENT_REQUESTS_MAX} NBD requests are in flight; wait for answers before sending more`;
      return Promise.reject(new HoldfastError('RESOURCE_EXHAUSTED', text, { reason: 'Busy' }));
    }
    return new Promise((resolve, reject) => {
      this.#link.send(new PromisedRequest(op, offset, length, fua, data, resolve, reject));
    });
  }

  #gone(): void {
    const cause = this.#link.lost!;
    for (const request of this.#link.takePending()) (request as PromisedRequest).reject(cause);
    this.#tellClosed();
  }

  #tellClosed(): void {
    for (const listener of this.#closeListeners.splice(0)) listener(this.#closing ? null : this.#link.lost!);
  }
}

class PromisedRequest implements LinkRequest {
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly data: Uint8Array | null;
  readonly #resolve: () => void;
  readonly reject: (error: HoldfastError) => void;

  constructor(
    op: BlockOp,
    offset: number,
    length: number,
    fua: boolean,
    data: Uint8Array | null,
    resolve: () => void,
    reject: (error: HoldfastError) => void,
  ) {
    this.op = op;
    this.offset = offset;
    this.length = length;
    this.fua = fua;
    this.data = data;
    this.#resolve = resolve;
    this.reject = reject;
  }

  done(error: BlockError | null): void {
    if (error === null) this.#resolve();
    else this.reject(new BlockRequestError(error, `${this.op} of ${this.length} bytes at ${this.offset}`));
  }
}
