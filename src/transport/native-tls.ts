// TLS over the native crate's sockets: handshakes, and the streams that come of them. The records are the crate's (tls_session.rs); a stream
// does not know that its bytes are sealed, for it is given functions of the same shape.
//
// Owner: a NativeNet. A socket belongs to a handshake until it has become a stream or was closed. Invariants: a stream is
// handed on only when the peer's certificate was verified and names a part of this cluster; the certificates of a session
// are those of the moment at which it began.

import { constants } from 'node:os';
import { type Clock, messageOf, precondition } from '../base/index.js';
import type { NativeSockets } from '../hotpath/index.js';
import {
  badHandshake,
  type Credentials,
  HANDSHAKE_MS,
  type Identity,
  identify,
  PENDING_MAX,
  Refusals,
  type Trust,
} from '../trust/index.js';
import type { ByteStream } from './byte-stream.js';
import { RoomyInbox } from './inbox.js';
import type { NativeNet } from './native-net.js';
import { BROKEN, NativeStream, type NativeStreamOwner, READABLE, systemError, WRITABLE } from './native-stream.js';
import type { StreamSecurity } from './security.js';

/** More than two records, which is what the crate asks for. */
const ROOM_BYTES = 64 * 1024;
/** A refused peer reads why before the connection goes, or is not interested. */
const LINGER_MS = 1_000;
const LINGER_BYTES_MAX = 1024 * 1024;
/** Beyond so many a refused peer is not waited for. */
const LINGERING_MAX = 64;

const EPROTO = -constants.errno.EPROTO;

class SecureStream extends NativeStream {
  readonly identity: Identity;

  constructor(owner: NativeStreamOwner, id: number, peer: string, identity: Identity) {
    super(owner, id, peer);
    this.identity = identity;
  }
}

export class NativeTls implements NativeStreamOwner {
  /** As streams use them. */
  readonly sockets: NativeSockets;
  readonly #net: NativeNet;
  readonly #trust: Trust;
  readonly #clock: Clock;
  readonly #refusals: Refusals;
  readonly #recordsPerKey: number;
  /** Sockets in a handshake that the peer began, and how each is ended; oldest first. */
  readonly #pending = new Map<number, (why: string) => void>();
  /** Those among them that made room for others: nobody waits for such a peer. */
  readonly #evicted = new Set<number>();
  #lingering = 0;
  /** What lingering peers still send. */
  readonly #trash = Buffer.allocUnsafeSlow(4096);

  constructor(net: NativeNet, { trust, logger, recordsPerKey }: StreamSecurity, clock: Clock) {
    const { sockets } = net;
    this.sockets = {
      ...sockets,
      receive: sockets.secureReceive,
      send: sockets.secureSend,
      sendAll: sockets.secureSendAll,
      shutdown: sockets.secureShutdown,
      close: sockets.secureClose,
    };
    this.#net = net;
    this.#trust = trust;
    this.#clock = clock;
    this.#refusals = new Refusals(clock, logger);
    this.#recordsPerKey = recordsPerKey ?? 0;
    const problem = this.#configure(trust.current);
    if (problem !== '') throw precondition(`the certificates can't be used: ${problem}`, 'BadCertificate');
    trust.watch((credentials) => {
      const refused = this.#configure(credentials);
      if (refused !== '') logger.warn({ error: refused }, 'the new certificates are not used, the old ones stay');
    });
  }

  #configure({ ca, certificate, key }: Credentials): string {
    const bytes = (pem: string) => Buffer.from(pem, 'utf8');
    return this.#net.sockets.secureConfigure(bytes(ca), bytes(certificate), bytes(key), this.#recordsPerKey);
  }

  // --- As the owner of streams

  inbox(): RoomyInbox {
    return new RoomyInbox(this.#net.pool, ROOM_BYTES);
  }
  flushLater(stream: NativeStream): void {
    this.#net.flushLater(stream);
  }
  forget(id: number): void {
    this.#net.forget(id);
  }
  errorOf(id: number, negative: number, what: string): Error {
    const problem = negative === EPROTO ? this.sockets.secureProblem(id) : '';
    return problem === ''
      ? systemError(negative, what)
      : Object.assign(new Error(`${what}: ${problem}`), { code: 'EPROTO' });
  }

  // --- Handshakes

  /** Makes a stream of a socket that is connected. Rejects UNAUTHENTICATED, with the socket closed. */
  async connect(id: number, peer: string, leftMs: number): Promise<ByteStream> {
    try {
      return await this.#stream(id, peer, false, Math.min(HANDSHAKE_MS, leftMs));
    } catch (error) {
      this.#linger(id);
      throw error;
    }
  }

  /** Hands a stream on when the peer is whom it may be, else closes the socket with a line in the log. */
  accept(id: number, peer: string, accepted: (stream: ByteStream) => void): void {
    this.#makeRoom();
    this.#stream(id, peer, true, HANDSHAKE_MS).then(accepted, (error) => {
      this.#refusals.note(peer, messageOf(error));
      if (this.#evicted.delete(id)) this.sockets.close(id);
      else this.#linger(id);
    });
  }

  /** A handshake takes milliseconds: the oldest is of a peer that does not mean it. */
  #makeRoom(): void {
    if (this.#pending.size < PENDING_MAX) return;
    for (const [id, end] of this.#pending) {
      this.#evicted.add(id);
      return end('others wait for their handshakes');
    }
  }

  async #stream(id: number, peer: string, server: boolean, leftMs: number): Promise<ByteStream> {
    await this.#handshake(id, peer, server, Math.max(1, leftMs));
    const identity = identify(this.#trust, this.sockets.securePeer(id));
    const stream = new SecureStream(this, id, peer, identity);
    this.#net.aim(id, stream);
    return stream;
  }

  #handshake(id: number, peer: string, server: boolean, leftMs: number): Promise<void> {
    const { sockets } = this;
    return new Promise((resolve, reject) => {
      const end = (why: string | null) => {
        timer.cancel();
        this.#pending.delete(id);
        sockets.watch(id, 0);
        this.forget(id);
        if (why === null) resolve();
        else reject(badHandshake(peer, why));
      };
      const timer = this.#clock.after(leftMs, () => end(`the handshake was not done within ${Math.round(leftMs)} ms`));
      const goOn = (broken: boolean) => {
        const status = sockets.secureHandshake(id);
        if (status === 0) return end(null);
        if (status < 0) return end(this.errorOf(id, status, 'the handshake failed').message);
        // A broken socket is not watched any more.
        if (broken)
          return end(systemError(sockets.failure(id) || -constants.errno.ECONNRESET, 'the handshake failed').message);
        const watched = sockets.watch(id, status === 1 ? READABLE : WRITABLE);
        if (watched < 0) end(systemError(watched, 'the connection can not be watched').message);
      };
      if (server) this.#pending.set(id, end);
      this.#net.aim(id, { ready: (events) => goOn((events & BROKEN) !== 0) });
      const started = sockets.secureStart(id, server ? 1 : 0);
      if (started < 0) end(systemError(started, 'the handshake could not begin').message);
      else goOn(false);
    });
  }

  /** What the peer has still sent would have the system reset the connection, and with it our last words. */
  #linger(id: number): void {
    const { sockets } = this.#net;
    if (this.#lingering >= LINGERING_MAX) {
      sockets.close(id);
      return;
    }
    this.#lingering++;
    const trash = this.#trash;
    let bytes = 0;
    const end = () => {
      timer.cancel();
      this.#lingering--;
      this.forget(id);
      sockets.close(id);
    };
    const timer = this.#clock.after(LINGER_MS, end);
    this.#net.aim(id, {
      ready: () => {
        const count = sockets.receive(id, trash, 0, trash.length);
        bytes += Math.max(0, count);
        if ((count <= 0 && count !== -constants.errno.EAGAIN) || bytes > LINGER_BYTES_MAX) end();
      },
    });
    sockets.shutdown(id);
    if (sockets.watch(id, READABLE) < 0) end();
  }
}
