// The record layer: bytes instead of a handshake, and after one any records, sealed and not. What comes out on the other side is what was
// sealed as data, in order, up to the first wrong record and no further; another connection of the same server goes on.
//
// An input: 0 or 1 (u8: no handshake), then either bytes as they are sent, or records: how it is made (u8), kind (u8), length (u16), body.

import { createConnection } from 'node:net';
import { realClock, silentLogger } from '../../../src/base/index.js';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { type ByteStream, NativeNet, type StreamListener } from '../../../src/transport/index.js';
import { TestAuthority } from '../../lib/authority.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { kinds, TlsPeer } from '../../lib/tls-peer.js';
import { Probe } from '../../unit/transport/probe.js';
import { mutateBytes } from '../mutate.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

const HEAD = 4;
const PATIENCE_MS = 400;
type Credentials = { ca: string; cert: string; key: string };

function record(how: number, kind: number, body: Buffer): Buffer {
  const head = Buffer.from([how, kind, 0, 0]);
  head.writeUInt16LE(body.length, 2);
  return Buffer.concat([head, body]);
}

const text = (length: number, byte: number) => Buffer.alloc(length, byte);
const records = [
  record(0, kinds.data, text(5, 1)),
  record(0, kinds.data, text(300, 2)),
  record(1, kinds.data, text(9, 3)),
  record(2, 0, Buffer.alloc(0)),
  record(0, kinds.data, text(16_384, 4)),
  record(0, kinds.alert, Buffer.from([1, 90])),
];

class TlsBench implements FuzzBench {
  readonly seeds: Buffer[] = [Buffer.concat([Buffer.from([0]), ...records])];
  readonly #net: NativeNet;
  readonly #credentials: Credentials;
  #listener!: StreamListener;
  #port = 0;
  #accepted: (stream: ByteStream) => void = (stream) => stream.destroy();
  #honest!: { readonly peer: TlsPeer; readonly far: Probe };

  constructor(net: NativeNet, credentials: Credentials) {
    this.#net = net;
    this.#credentials = credentials;
  }

  async start(): Promise<this> {
    this.#listener = await this.#net.listen('127.0.0.1:0', (stream) => this.#accepted(stream));
    this.#port = Number(this.#listener.address.split(':')[1]);
    this.#honest = (await this.#pair())!;
    this.seeds.push(Buffer.concat([Buffer.from([1]), await helloOf()]));
    return this;
  }

  async #pair(): Promise<{ peer: TlsPeer; far: Probe }> {
    const stream = new Promise<ByteStream>((resolve) => {
      this.#accepted = resolve;
    });
    const peer = await TlsPeer.connect(this.#port, this.#credentials);
    return { peer, far: new Probe(await stream) };
  }

  mutate(input: Buffer, chance: Chance): Buffer {
    if (chance.hit(0.05)) return Buffer.concat([Buffer.from([input[0]! ^ 1]), input.subarray(1)]);
    return Buffer.concat([input.subarray(0, 1), mutateBytes(input.subarray(1), chance, chance.between(1, 4), 60_000)]);
  }

  async run(input: Buffer): Promise<string> {
    if (input.length === 0) return 'no input';
    const outcome =
      input[0] === 1 ? await this.#noHandshake(input.subarray(1)) : await this.#records(input.subarray(1));
    const { peer, far } = this.#honest;
    const before = far.bytes;
    peer.send(peer.record(kinds.data, text(100, 9)));
    await this.#patiently(() => far.bytes === before + 100, 'another connection is not heard any more');
    return outcome;
  }

  async #noHandshake(bytes: Buffer): Promise<string> {
    let accepted = false;
    this.#accepted = (stream) => {
      accepted = true;
      stream.destroy();
    };
    const socket = createConnection(this.#port, '127.0.0.1');
    let heard = 0;
    let closed = false;
    socket.on('data', (chunk: Buffer) => {
      heard += chunk.length;
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      closed = true;
    });
    socket.end(bytes);
    await this.#patiently(() => closed, 'a connection without a handshake stays open after its end');
    must(!accepted, 'a connection was accepted without a handshake');
    return `closed, ${heard > 100 ? 'answered' : heard}`;
  }

  async #records(bytes: Buffer): Promise<string> {
    const { peer, far } = await this.#pair();
    const sent: Buffer[] = [];
    let wrong = false;
    for (let at = 0; at + HEAD <= bytes.length && !wrong; ) {
      const [how, kind] = [bytes[at]! % 5, bytes[at + 1]!];
      const body = bytes.subarray(at + HEAD, at + HEAD + bytes.readUInt16LE(at + 2));
      at += HEAD + body.length;
      if (how === 2) peer.send(peer.keyUpdate());
      else if (how === 3) peer.send(body);
      else if (how === 4) peer.send(peer.odd(body, kind));
      else peer.send(peer.record(kind, body, how * 20));
      // Only records of data hold data; after anything else all may be over.
      if (how < 2 && kind === kinds.data && body.length <= 16_384) sent.push(body);
      else if (how !== 2) wrong = true;
    }
    const whole = Buffer.concat(sent);
    await this.#patiently(
      () => far.bytes >= whole.length || far.closes.length > 0 || far.ends > 0,
      'data does not arrive',
    );
    peer.socket.destroy();
    await this.#patiently(() => far.closes.length > 0 || far.ends > 0, 'the stream does not end with its connection');
    const heard = far.all;
    far.stream.destroy();
    must(
      wrong ? whole.subarray(0, heard.length).equals(heard) || startsWith(heard, whole, bytes) : heard.equals(whole),
      () => `${heard.length} bytes came of ${whole.length}`,
    );
    return `${sent.length > 3 ? 'many' : sent.length} ${wrong} ${far.closes.length > 0 ? String(far.closes[0]?.message).slice(0, 40) : 'ended'}`;
  }

  async #patiently(met: () => boolean, otherwise: string): Promise<void> {
    for (let i = 0; i < PATIENCE_MS && !met(); i++) await realClock.sleep(i < 20 ? 0 : 5);
    must(met(), otherwise);
  }

  async close(): Promise<void> {
    this.#honest.peer.socket.destroy();
    this.#honest.far.stream.destroy();
    await this.#listener.close();
  }
}

/** A record under an odd outer kind may be data all the same, if what it holds says so. */
function startsWith(heard: Buffer, whole: Buffer, bytes: Buffer): boolean {
  return heard.subarray(0, whole.length).equals(whole) && bytes.includes(heard.subarray(whole.length));
}

/** What a client says first. */
async function helloOf(): Promise<Buffer> {
  const { createServer } = await import('node:net');
  const { connect } = await import('node:tls');
  return await new Promise((resolve) => {
    const server = createServer((socket) => {
      socket.once('data', (bytes: Buffer) => {
        socket.destroy();
        server.close();
        resolve(bytes);
      });
    }).listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      connect({ port, host: '127.0.0.1', minVersion: 'TLSv1.3' }).on('error', () => {});
    });
  });
}

export const tls: FuzzTarget = {
  name: 'tls',
  sources: ['transport/native-tls', 'transport/native-stream', 'transport/inbox'],
  shortCases: 40,
  async open() {
    const native = nativeBinding();
    if (native === null) throw new Error('the record layer is native: it was not built');
    const authority = await TestAuthority.make();
    const { ca, certificate: cert, key } = await authority.credentials('storage/node-2');
    const net = new NativeNet(native, realClock, {
      trust: await authority.trust('storage/node-1'),
      logger: silentLogger,
    });
    return await new TlsBench(net, { ca, cert, key }).start();
  },
};
