// An engine's port and a replica server that answers anything: what a real server said, changed, moved, lost, cut. Every call settles,
// nothing is acknowledged that was not sent, and nothing is believed that its type does not allow.

import { HoldfastError, realRandom, silentLogger } from '../../../src/base/index.js';
import { FieldReader } from '../../../src/format/index.js';
import { connectReplica, type ReplicaPort } from '../../../src/wire/index.js';
import { messageType } from '../../../src/wire/message.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { PipeNet, type PipeStream } from '../../lib/pipe-net.js';
import { nodeA, replicaA } from '../../lib/replica-setup.js';
import { ManualClock } from '../../unit/nbd/manual-clock.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';
import { turns } from '../wire-peers.js';
import { fitMessage, mutateStream, splitMessages, splitPieces } from '../wire-stream.js';
import { piecesOf, recordedSession } from './wire-server.js';

const shape = new FieldReader((what, value) => new Error(`believed a status with ${what} ${String(value)}`));

class WireClientBench implements FuzzBench {
  readonly seeds: Buffer[] = [];

  async record(): Promise<this> {
    this.seeds.push(piecesOf((await recordedSession()).answered));
    return this;
  }

  mutate(input: Buffer, chance: Chance): Buffer {
    return mutateStream(input, chance);
  }

  async run(input: Buffer): Promise<string> {
    const net = new PipeNet();
    const clock = new ManualClock();
    const script = new Script(input);
    const listener = await net.listen('any', (stream) => script.serve(stream as PipeStream));
    const options = {
      volumeId: volumeA,
      replicaId: replicaA,
      nodeId: nodeA,
      clock,
      random: realRandom,
      logger: silentLogger,
    };
    const outcomes: string[] = [];
    let over = false;
    const using = use(() => connectReplica(net, listener.address, options, 2000), outcomes).finally(() => {
      over = true;
    });
    for (let i = 0; i < 400 && !over; i++) {
      await turns(3);
      // Whoever waits for an answer that does not come gives up by the clock.
      if (i > 6) clock.pass(1000);
    }
    must(over, () => `a call never settled after ${outcomes.join(', ')}`);
    await using;
    await listener.close();
    await turns(4);
    must(
      net.clients.every((client) => client.destroyed),
      'a connection is left over',
    );
    must(clock.waiting === 0, () => `${clock.waiting} timers are left over`);
    return outcomes.join(' ');
  }

  async close(): Promise<void> {}
}

/** Answers each request with the next message of the script for its connection, under the request's id. */
class Script {
  readonly #messages: Buffer[][] = [[], [], []];
  #connections = 0;

  constructor(input: Buffer) {
    for (const { channel, bytes } of splitPieces(input)) this.#messages[channel]!.push(...splitMessages(bytes));
  }

  serve(stream: PipeStream): void {
    const mine = this.#messages[this.#connections++ % 3]!;
    let unread = Buffer.alloc(0);
    stream.start({
      wanted: 1,
      received: (slab, from, to) => {
        unread = Buffer.concat([unread, slab.bytes.subarray(from, to)]);
        const all = splitMessages(unread);
        for (const request of all) {
          const whole = request.length >= 72 && request.length === 72 + request.readUInt32LE(12);
          if (!whole) break;
          unread = unread.subarray(request.length);
          answer(stream, mine, request);
        }
        return to - from;
      },
      drained: () => {},
      ended: () => stream.destroy(),
      closed: () => {},
    });
  }
}

/** Everything up to and including the next message that answers something. */
function answer(stream: PipeStream, mine: Buffer[], request: Buffer): void {
  if (request[6] === messageType.append) {
    while (mine[0]?.[6] === messageType.ack) stream.write(mine.shift()!);
    return;
  }
  for (;;) {
    const next = mine.shift();
    if (next === undefined) return;
    const answers = next.length >= 72 && next[6] !== messageType.ack && next[6] !== messageType.lost;
    const bytes = Buffer.from(next);
    // The script's ids are those of another run; wrong ones stay wrong.
    if (answers && next.readUInt32LE(8) < 1000) {
      bytes.writeUInt32LE(request.readUInt32LE(8), 8);
      fitMessage(bytes, false);
    }
    stream.write(bytes);
    if (answers) return;
  }
}

async function use(connect: () => Promise<ReplicaPort>, outcomes: string[]): Promise<void> {
  let port: ReplicaPort;
  try {
    port = await connect();
  } catch (error) {
    return void outcomes.push(`connect: ${reasonOf(error)}`);
  }
  let sent = 0;
  let acked = 0;
  let lost = 0;
  port.listen({
    appended: (seq) => {
      must(seq <= sent && seq > acked, `${seq} was acknowledged after ${acked} of ${sent}`);
      acked = seq;
    },
    lost: () => {
      lost++;
    },
  });
  const step = async (name: string, work: () => Promise<unknown>) => {
    try {
      await work();
      outcomes.push(name);
    } catch (error) {
      outcomes.push(`${name}: ${reasonOf(error)}`);
    }
  };
  await step('fence', async () => {
    const { superblock, end } = await port.fence(reignOf(1));
    shape.superblock(superblock);
    shape.point(end);
    sent = end.seq;
    acked = end.seq;
  });
  const maker = new FrameMaker(reignOf(1));
  for (let i = 0; i < 4; i++) {
    const { segment, offset, bytes } = maker.next(90);
    port.append(segment, offset, bytes, ++sent);
  }
  await step('sync', () => new Promise<void>((resolve, reject) => port.sync(sent, (e) => (e ? reject(e) : resolve()))));
  await step('confirm', () => new Promise<void>((resolve, reject) => port.confirm((e) => (e ? reject(e) : resolve()))));
  await step('read', async () => {
    const guarded = Buffer.alloc(4200 + 32, 0xee);
    const into = guarded.subarray(16, 16 + 4200);
    await new Promise<void>((resolve, reject) =>
      port.read([{ segment: { epoch: 1, ordinal: 1 }, offset: 0, into }], (e) => (e ? reject(e) : resolve())),
    );
    must(
      guarded.subarray(0, 16).every((b) => b === 0xee) && guarded.subarray(4216).every((b) => b === 0xee),
      'wrote beside',
    );
  });
  await step('segments', async () => {
    for (const info of await port.segments()) shape.segment(info);
  });
  await step('frames', () => port.frames({ epoch: 1, ordinal: 1 }));
  await step('usage', () => port.usage());
  await step('cut', () => port.cut(0));
  port.close();
  must(lost <= 1, `lost ${lost} times`);
}

function reasonOf(error: unknown): string {
  if (!(error instanceof HoldfastError)) throw error;
  return `${error.code}/${error.reason}`;
}

export const wireClient: FuzzTarget = {
  name: 'wire-client',
  sources: ['wire/remote-replica', 'wire/pending-requests', 'wire/message-reader', 'wire/bodies', 'wire/connection'],
  shortCases: 400,
  open: () => new WireClientBench().record(),
};
