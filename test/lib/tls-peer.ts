// A TLS 1.3 peer that can send anything: OpenSSL (node:tls) makes the handshake and tells its secrets, then records are sealed and opened here
// by the letter of RFC 8446, sections 5.2, 5.3 and 7.3, so that every kind of wrong one can be made, too.

import { createCipheriv, createDecipheriv, createHmac } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { type SecureContextOptions, connect as tlsConnect } from 'node:tls';

export const kinds = { changeCipherSpec: 20, alert: 21, handshake: 22, data: 23 } as const;

function expandLabel(secret: Buffer, label: string, length: number): Buffer {
  const name = Buffer.from(`tls13 ${label}`);
  const info = Buffer.concat([Buffer.from([length >> 8, length & 255, name.length]), name, Buffer.from([0, 1])]);
  return createHmac('sha256', secret).update(info).digest().subarray(0, length);
}

/** One way of a connection with TLS_AES_128_GCM_SHA256. */
class Way {
  #secret: Buffer;
  #key!: Buffer;
  #iv!: Buffer;
  record = 0;

  constructor(secret: Buffer) {
    this.#secret = secret;
    this.#derive();
  }

  #derive(): void {
    this.#key = expandLabel(this.#secret, 'key', 16);
    this.#iv = expandLabel(this.#secret, 'iv', 12);
    this.record = 0;
  }

  renew(): void {
    this.#secret = expandLabel(this.#secret, 'traffic upd', 32);
    this.#derive();
  }

  #nonce(): Buffer {
    const nonce = Buffer.from(this.#iv);
    nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ this.record++) >>> 0, 8);
    return nonce;
  }

  seal(inner: Buffer, outer: number = kinds.data): Buffer {
    const header = Buffer.from([outer, 3, 3, (inner.length + 16) >> 8, (inner.length + 16) & 255]);
    const cipher = createCipheriv('aes-128-gcm', this.#key, this.#nonce()).setAAD(header);
    return Buffer.concat([header, cipher.update(inner), cipher.final(), cipher.getAuthTag()]);
  }

  /** What a record holds. Throws when it is not the next one under these keys. */
  open(record: Buffer): { kind: number; body: Buffer } {
    const cipher = createDecipheriv('aes-128-gcm', this.#key, this.#nonce()).setAAD(record.subarray(0, 5));
    cipher.setAuthTag(record.subarray(-16));
    const inner = Buffer.concat([cipher.update(record.subarray(5, -16)), cipher.final()]);
    let end = inner.length;
    while (inner[end - 1] === 0) end--;
    return { kind: inner[end - 1] ?? 0, body: inner.subarray(0, end - 1) };
  }
}

export class TlsPeer {
  readonly socket: Socket;
  readonly #ours: Way;
  readonly #theirs: Way;
  #received = Buffer.alloc(0);
  ended = false;

  private constructor(socket: Socket, ours: Way, theirs: Way) {
    this.socket = socket;
    this.#ours = ours;
    this.#theirs = theirs;
  }

  /** Connects as a client to a server that prefers AES-128-GCM and gives no tickets. */
  static async connect(port: number, options: SecureContextOptions): Promise<TlsPeer> {
    const socket = connect(port, '127.0.0.1').setNoDelay(true);
    const inner = new Duplex({ read() {}, write: (chunk, _encoding, done) => void socket.write(chunk, () => done()) });
    const pass = (chunk: Buffer) => void inner.push(chunk);
    socket.on('data', pass);
    socket.on('error', () => {});
    const secrets = new Map<string, Buffer>();
    const tls = tlsConnect({
      ...options,
      socket: inner,
      minVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256',
      checkServerIdentity: () => undefined,
    });
    tls.on('keylog', (line: Buffer) => {
      const [name, , secret] = line.toString().trim().split(' ');
      secrets.set(name!, Buffer.from(secret!, 'hex'));
    });
    await new Promise<void>((resolve, reject) => {
      tls.once('secureConnect', () => resolve());
      tls.once('error', reject);
    });
    socket.off('data', pass);
    const way = (name: string) => new Way(secrets.get(name)!);
    const peer = new TlsPeer(socket, way('CLIENT_TRAFFIC_SECRET_0'), way('SERVER_TRAFFIC_SECRET_0'));
    socket.on('data', (chunk: Buffer) => {
      peer.#received = Buffer.concat([peer.#received, chunk]);
    });
    for (const event of ['end', 'close'] as const)
      socket.on(event, () => {
        peer.ended = true;
      });
    return peer;
  }

  /** A sealed record of that kind. */
  record(kind: number, body: Buffer, padding = 0): Buffer {
    return this.#ours.seal(Buffer.concat([body, Buffer.from([kind]), Buffer.alloc(padding)]));
  }

  /** One whose inner text is as given, under any outer kind. */
  odd(inner: Buffer, outer: number = kinds.data): Buffer {
    return this.#ours.seal(inner, outer);
  }

  /** A KeyUpdate; what is sealed after it has new keys. */
  keyUpdate(asked = 0): Buffer {
    const record = this.record(kinds.handshake, Buffer.from([24, 0, 0, 1, asked]));
    this.#ours.renew();
    return record;
  }

  send(...records: Buffer[]): void {
    this.socket.write(Buffer.concat(records));
  }

  /** The next record, opened; keys are followed. Undefined when the peer ended. */
  async next(): Promise<{ kind: number; body: Buffer } | undefined> {
    for (let i = 0; i < 400; i++) {
      const length = this.#received.length < 5 ? Number.POSITIVE_INFINITY : 5 + this.#received.readUInt16BE(3);
      if (this.#received.length >= length) {
        const record = this.#received.subarray(0, length);
        this.#received = this.#received.subarray(length);
        const opened = this.#theirs.open(record);
        if (opened.kind === kinds.handshake && opened.body[0] === 24) this.#theirs.renew();
        return opened;
      }
      if (this.ended) return undefined;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    throw new Error('nothing came within two seconds');
  }
}
