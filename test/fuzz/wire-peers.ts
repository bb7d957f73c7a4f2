// Ends of replica connections that send what they are told and keep what they hear.

import type { ByteStream, ReceiveSlab } from '../../src/transport/index.js';
import { PipeNet, type PipeStream } from '../lib/pipe-net.js';

export const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

export class RawEnd {
  readonly stream: ByteStream;
  #heard: Buffer[] = [];
  closed = false;

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.start({
      wanted: 1,
      received: (slab: ReceiveSlab, from: number, to: number) => {
        this.#heard.push(Buffer.from(slab.bytes.subarray(from, to)));
        return to - from;
      },
      drained: () => {},
      ended: () => {
        this.closed = true;
        this.stream.destroy();
      },
      closed: () => {
        this.closed = true;
      },
    });
  }
  get heard(): Buffer {
    return Buffer.concat(this.#heard);
  }
}

/** Keeps what clients send, in the order in which it was written, by connection. */
export class TappedNet extends PipeNet {
  readonly sent: { connection: number; bytes: Buffer }[] = [];
  readonly answered: { connection: number; bytes: Buffer }[] = [];

  override async connect(address: string): Promise<PipeStream> {
    const connection = this.clients.length;
    const stream = await super.connect(address);
    tap(stream, (bytes) => this.sent.push({ connection, bytes }));
    tap(stream.other!, (bytes) => this.answered.push({ connection, bytes }));
    return stream;
  }
}

function tap(stream: PipeStream, note: (bytes: Buffer) => void): void {
  const write = stream.write.bind(stream);
  stream.write = (bytes: Uint8Array, from = 0, to: number = bytes.length) => {
    note(Buffer.from(bytes.subarray(from, to)));
    write(bytes, from, to);
  };
}
