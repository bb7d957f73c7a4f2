// Connections that are made here and served by the kernel from then on. Node's own sockets read ahead and can't be made to
// let go of their descriptor, so the native crate's are used: what it receives is asked for, and nothing else is taken.
// Owner of a ReadySocket: who dialled it. Invariant: when the handshake is through, nothing of the transmission phase has been
// read (the server is silent until it is asked), and this process neither reads nor watches the socket again.

import { getSystemErrorName } from 'node:util';
import { type Clock, HoldfastError, unavailable } from '../../../base/index.js';
import type { NativeNet, NativeSockets } from '../../../hotpath/index.js';
import { ClientHandshake, type ExportInfo } from '../../../nbd/index.js';
import type { ExportAddress } from '../port.js';
import type { ReadySocket } from './port.js';

const READABLE = 1;
const BROKEN = 4;
/** Of a handshake the longest answer is some hundred bytes. */
const chunkBytes = 4096;
/** The server answers when what the former connection had in flight has ended, which can take as long as a lost replica. */
const handshakeTimeoutMs = 60_000;

/** The native sockets of this thread, each with who is told of its events. */
export class SocketHub {
  readonly sockets: NativeSockets;
  readonly #listeners = new Map<number, (broken: boolean) => void>();

  constructor(binding: NativeNet) {
    this.sockets = binding.openNet((id, events) => this.#listeners.get(id)?.((events & BROKEN) !== 0));
  }

  /**
   * Calls `listener` whenever there is something to receive, and when the system reported an error, after which the socket is not
   * watched any more. Throws UNAVAILABLE for one that can't be watched.
   */
  watch(id: number, listener: (broken: boolean) => void): void {
    this.#listeners.set(id, listener);
    const status = this.sockets.watch(id, READABLE);
    if (status < 0) throw unavailable(`a socket can't be watched: ${getSystemErrorName(status)}`);
  }

  unwatch(id: number): void {
    this.#listeners.delete(id);
    this.sockets.watch(id, 0);
  }

  close(id: number): void {
    this.#listeners.delete(id);
    this.sockets.close(id);
  }
}

/** See KernelNbd.dial(). Rejects with a HoldfastError, and never with a socket left open. */
export async function dialExport(
  hub: SocketHub,
  clock: Clock,
  address: ExportAddress,
  clientId: string,
  signal: AbortSignal,
): Promise<ReadySocket> {
  const { socketPath, exportName } = address;
  const { sockets } = hub;
  const id = sockets.connectUnix(socketPath);
  if (id < 0) {
    throw unavailable(`cannot connect to the NBD server at ${socketPath}: ${getSystemErrorName(id)}`);
  }
  let info: ExportInfo;
  try {
    info = await shake(hub, id, { exportName, clientId }, clock, signal);
  } catch (error) {
    hub.close(id);
    throw error;
  }
  hub.unwatch(id);
  let open = true;
  return {
    descriptor: sockets.descriptor(id),
    sizeBytes: info.sizeBytes,
    flags: info.flags,
    cut: () => {
      if (open) sockets.shutdown(id);
    },
    release: () => {
      if (open) hub.close(id);
      open = false;
    },
  };
}

function shake(
  hub: SocketHub,
  id: number,
  who: { readonly exportName: string; readonly clientId: string },
  clock: Clock,
  signal: AbortSignal,
): Promise<ExportInfo> {
  const { sockets } = hub;
  return new Promise((resolve, reject) => {
    const end = (error: Error | null, info?: ExportInfo) => {
      timer.cancel();
      signal.removeEventListener('abort', stopped);
      if (error !== null || info === undefined) reject(error);
      else resolve(info);
    };
    const lost = (what: string) => end(unavailable(`NBD connection lost: ${what}`));
    const stopped = () => end(new HoldfastError('CANCELLED', 'the connection is not wanted any more'));
    const timer = clock.after(handshakeTimeoutMs, () => lost(`no handshake within ${handshakeTimeoutMs} ms`));
    const send = (bytes: Buffer) => {
      // Handshakes are far smaller than the buffer of a socket that holds nothing else.
      const sent = sockets.send(id, bytes, 0, bytes.length);
      if (sent !== bytes.length) lost(sent < 0 ? getSystemErrorName(sent) : 'it takes no handshake');
    };
    const receive = () => {
      const chunk = Buffer.alloc(chunkBytes);
      const length = sockets.receive(id, chunk, 0, chunk.length);
      if (length === 0) return lost('closed by the server');
      if (length < 0) return getSystemErrorName(length) === 'EAGAIN' ? undefined : lost(getSystemErrorName(length));
      const verdict = handshake.feed(chunk.subarray(0, length));
      if (verdict.kind === 'refused') return end(verdict.error);
      if (verdict.kind !== 'ready') return;
      if (verdict.rest.length === 0) return end(null, verdict.info);
      end(new HoldfastError('INTERNAL', 'the NBD server spoke before it was asked', { reason: 'Protocol' }));
    };
    let handshake: ClientHandshake;
    try {
      handshake = new ClientHandshake({ ...who, mode: 'go' }, send);
      if (signal.aborted) stopped();
      else signal.addEventListener('abort', stopped, { once: true });
      hub.watch(id, receive);
    } catch (error) {
      end(error as Error);
    }
  });
}
