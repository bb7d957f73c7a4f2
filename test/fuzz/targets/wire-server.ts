// The replica server and an engine that sends anything: messages of a real session changed, moved, lost, cut. It answers or ends the
// session. What it took is a whole log of frames that were sent, and another session on another volume does not notice.

import {
  crc32c,
  type NodeId,
  type ReplicaId,
  realRandom,
  silentLogger,
  type VolumeId,
} from '../../../src/base/index.js';
import { decodeFrame, FRAME_HEADER_SIZE, SEGMENT_HEADER_SIZE } from '../../../src/format/index.js';
import type { ReplicaHost } from '../../../src/replica/index.js';
import type { Pool } from '../../../src/segment/index.js';
import { connectReplica, type ReplicaPort, WireServer } from '../../../src/wire/index.js';
import { answerBodies, MESSAGE_HEADER_SIZE, messageType } from '../../../src/wire/message.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { PipeNet, type PipeStream } from '../../lib/pipe-net.js';
import type { RecordingDisk } from '../../lib/recording-disk.js';
import {
  createOrder,
  freshHost,
  hear,
  localPort,
  nodeA,
  openHost,
  readBytes,
  replicaA,
  synced,
} from '../../lib/replica-setup.js';
import { ManualClock } from '../../unit/nbd/manual-clock.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';
import { RawEnd, TappedNet, turns } from '../wire-peers.js';
import { joinPieces, mutateStream, type Piece, splitMessages, splitPieces } from '../wire-stream.js';

export const volumeB = '0a000000-0000-4000-8000-00000000000b' as VolumeId;
const replicaB = '0b000000-0000-4000-8000-00000000000b' as ReplicaId;

interface Server {
  readonly disk: RecordingDisk;
  readonly pool: Pool;
  readonly host: ReplicaHost;
  readonly server: WireServer;
  readonly clock: ManualClock;
}

export async function startServer(net: PipeNet): Promise<Server> {
  const clock = new ManualClock();
  const { disk, pool, host } = await freshHost();
  await host.create(createOrder(pool, { volumeId: volumeB, replicaId: replicaB }));
  const server = await WireServer.listen(net, 'any', { source: host, nodeId: nodeA, clock, logger: silentLogger });
  return { disk, pool, host, server, clock };
}

export async function stopServer({ server, host, pool }: Server): Promise<void> {
  await server.close();
  await host.close();
  pool.close();
}

export function connectTo(
  net: PipeNet,
  { server, clock }: Server,
  volumeId: VolumeId,
  replicaId: ReplicaId,
): Promise<ReplicaPort> {
  const options = { volumeId, replicaId, nodeId: nodeA as NodeId, clock, random: realRandom, logger: silentLogger };
  return connectReplica(net, server.address, options, 2000);
}

/** Everything an engine may ask of a replica. */
export async function wholeSession(port: ReplicaPort): Promise<void> {
  hear(port);
  await port.fence(reignOf(1));
  const maker = new FrameMaker(reignOf(1));
  const append = (size: number, seal = false) => {
    const { segment, offset, bytes, lastSeq } = seal ? maker.seal() : maker.next(size);
    port.append(segment, offset, bytes, lastSeq);
  };
  await port.describe({ addReign: reignOf(1), setVersion: 2, sizeBytes: 1 << 30 });
  for (const size of [100, 1000, 5000]) append(size);
  await synced(port);
  append(0, true);
  append(64);
  await synced(port);
  await new Promise<void>((resolve) => port.confirm(() => resolve()));
  await readBytes(port, { epoch: 1, ordinal: 1 }, 0, 4200);
  const segments = await port.segments();
  await port.frames(segments[0]!);
  await port.repair(segments[0]!, SEGMENT_HEADER_SIZE, await readBytes(port, segments[0]!, SEGMENT_HEADER_SIZE, 64));
  await port.usage();
  const { superblock } = await port.fence(reignOf(1));
  const next = (id: string) => id.replace(/.$/, 'c') as never;
  const clone = {
    ...superblock,
    volumeId: next(volumeA),
    replicaId: next(replicaA),
    incarnationId: next(superblock.incarnationId),
  };
  await port.clone({ superblock: clone, segments: [segments[0]!] });
  await port.cut(3);
  await port.deleteSegments([{ epoch: 1, ordinal: 7 }]);
}

/** Three connections with what their clients sent, in order. */
export function piecesOf(sent: readonly { connection: number; bytes: Buffer }[]): Buffer {
  const pieces: { channel: number; parts: Buffer[] }[] = [];
  for (const { connection, bytes } of sent) {
    const last = pieces.at(-1);
    if (last?.channel === connection) last.parts.push(bytes);
    else pieces.push({ channel: connection, parts: [bytes] });
  }
  return joinPieces(pieces.map(({ channel, parts }) => ({ channel, bytes: Buffer.concat(parts) })));
}

/** A session in which everything was asked for once: what either side said. */
export async function recordedSession(): Promise<TappedNet> {
  const net = new TappedNet();
  const server = await startServer(net);
  const port = await connectTo(net, server, volumeA, replicaA);
  await wholeSession(port);
  port.close();
  await stopServer(server);
  return net;
}

class WireServerBench implements FuzzBench {
  readonly seeds: Buffer[] = [];

  async record(): Promise<this> {
    this.seeds.push(piecesOf((await recordedSession()).sent));
    return this;
  }

  mutate(input: Buffer, chance: Chance): Buffer {
    return mutateStream(input, chance);
  }

  async run(input: Buffer): Promise<string> {
    const net = new PipeNet();
    const server = await startServer(net);
    const honest = await Honest.make(net, server);
    const pieces = splitPieces(input);
    const ends = await attack(net, server, pieces);
    await honest.goesOn();
    const outcome = ends
      .map((end, i) =>
        judgeAnswers(
          end,
          pieces.filter(({ channel }) => channel === i),
        ),
      )
      .join(' | ');
    const slabs = net.clients.map((client) => client.other!);
    for (const { stream } of ends) stream.destroy();
    await turns(6);
    await honest.goesOn();
    honest.port.close();
    await turns(4);
    must(
      slabs.every((stream: PipeStream) => stream.retained === 0),
      'received memory is kept after the end',
    );
    await stopServer(server);
    return `${outcome} > ${await judgeLog(server.disk, pieces)}`;
  }

  async close(): Promise<void> {}
}

/** A well-behaved engine of another volume on the same server. */
class Honest {
  readonly port: ReplicaPort;
  readonly #maker = new FrameMaker(reignOf(1), undefined, { volumeId: volumeB });
  readonly #heard: ReturnType<typeof hear>;

  private constructor(port: ReplicaPort) {
    this.port = port;
    this.#heard = hear(port);
  }
  static async make(net: PipeNet, server: Server): Promise<Honest> {
    const honest = new Honest(await connectTo(net, server, volumeB, replicaB));
    await honest.port.fence(reignOf(1));
    return honest;
  }
  async goesOn(): Promise<void> {
    const { segment, offset, bytes, lastSeq } = this.#maker.next(500);
    this.port.append(segment, offset, bytes, lastSeq);
    await synced(this.port);
    must(this.#heard.lost === null, () => `another session was lost: ${this.#heard.lost?.message}`);
    must(
      (await readBytes(this.port, segment, offset, bytes.length)).equals(bytes),
      'another session reads other bytes',
    );
  }
}

async function attack(net: PipeNet, { server, clock }: Server, pieces: readonly Piece[]): Promise<RawEnd[]> {
  const ends: RawEnd[] = [];
  for (const { channel, bytes } of pieces) {
    while (ends.length <= channel) ends.push(new RawEnd(await net.connect(server.address)));
    const before = ends[channel]!.heard.length;
    ends[channel]!.stream.write(bytes);
    // An order's effect comes before the next piece, as with an engine that waits for its answer.
    for (let i = 0; i < 12 && ends[channel]!.heard.length === before && !ends[channel]!.closed; i++) await turns(2);
  }
  await turns(10);
  clock.pass(1000);
  await turns(4);
  return ends;
}

/** Each answer is a message that a server may send, to something that was asked. */
function judgeAnswers(end: RawEnd, pieces: readonly Piece[]): string {
  const met = new Set<string>();
  const asked = askedBy(pieces);
  for (const message of splitMessages(end.heard)) {
    must(message.length >= MESSAGE_HEADER_SIZE, 'a message was cut short');
    const type = message[6]!;
    const most = answerBodies[type];
    must(most !== undefined && message.length - MESSAGE_HEADER_SIZE <= most, () => `the server sent type ${type}`);
    const id = message.readUInt32LE(8);
    if (type === messageType.reply || type === messageType.failure || type === messageType.readData) {
      const left = asked.get(id) ?? 0;
      must(left > 0, () => `an answer to request ${id}, which was not asked or had one`);
      asked.set(id, left - 1);
    }
    met.add(type === messageType.failure || type === messageType.lost ? reasonIn(message) : String(type));
  }
  return `${[...met].sort().join(',')}${end.closed ? ' closed' : ''}`;
}

/** Ids of the good messages up to the first bad one, and how often each was used: nothing after it may be heard. */
function askedBy(pieces: readonly Piece[]): Map<number, number> {
  const asked = new Map<number, number>();
  for (const message of splitMessages(Buffer.concat(pieces.map(({ bytes }) => bytes)))) {
    const body = message.subarray(MESSAGE_HEADER_SIZE);
    const good =
      message.length >= MESSAGE_HEADER_SIZE &&
      crc32c(message.subarray(0, 68)) === message.readUInt32LE(68) &&
      body.length === message.readUInt32LE(12) &&
      ((message[7]! & 1) === 0 || crc32c(body) === message.readUInt32LE(16));
    if (!good) break;
    const id = message.readUInt32LE(8);
    asked.set(id, (asked.get(id) ?? 0) + 1);
  }
  return asked;
}

function reasonIn(message: Buffer): string {
  const { code, reason } = JSON.parse(message.toString('utf8', MESSAGE_HEADER_SIZE)) as {
    code: string;
    reason: string;
  };
  must(
    (code !== 'INTERNAL' && code !== 'DATA_LOSS') || reason === 'Corrupt',
    () => `answered with ${message.toString('utf8', MESSAGE_HEADER_SIZE)}`,
  );
  return `${code}/${reason}`;
}

/** Orders that change what a replica says of itself or what is on its disk: after them it may be found damaged. */
const mayDamage = new Set<number>([
  messageType.describe,
  messageType.repair,
  messageType.deleteSegments,
  messageType.clone,
]);

async function judgeLog(disk: RecordingDisk, pieces: readonly Piece[]): Promise<string> {
  const sent = Buffer.concat(pieces.map(({ bytes }) => bytes));
  const directory = `/pool/replicas/${volumeA}`;
  const repaired = pieces.some(({ bytes }) =>
    splitMessages(bytes).some((message) => message[6] === messageType.repair),
  );
  let frames = 0;
  for (const name of disk.list(directory).filter((file) => file.endsWith('.seg'))) {
    const bytes = disk.contents(`${directory}/${name}`);
    for (let at = SEGMENT_HEADER_SIZE; at + FRAME_HEADER_SIZE <= bytes.length && bytes[at] !== 0; frames++) {
      const header = decodeFrame(bytes, at, true);
      if (repaired && typeof header === 'string') break;
      must(typeof header !== 'string', () => `${name} holds a bad frame at ${at}: ${String(header)}`);
      const end = at + FRAME_HEADER_SIZE + header.bodyLength;
      must(repaired || sent.includes(bytes.subarray(at, end)), () => `${name} holds a frame at ${at} that nobody sent`);
      at = end;
    }
  }
  const { host, pool } = await openHost(disk);
  const { port, status } = await localPort(host, reignOf(2 ** 47));
  const excused = pieces.some(({ bytes }) => splitMessages(bytes).some((message) => mayDamage.has(message[6] ?? 0)));
  must(excused || status.damage === null, () => `the log is damaged: ${status.damage}`);
  port.close();
  await host.close();
  pool.close();
  return `${Math.min(frames, 6)} frames${status.damage === null ? '' : ', damaged'}`;
}

export const wireServer: FuzzTarget = {
  name: 'wire-server',
  sources: [
    'wire/server-session',
    'wire/wire-server',
    'wire/message',
    'wire/connection',
    'wire/bodies',
    'replica/accept',
  ],
  shortCases: 80,
  open: () => new WireServerBench().record(),
};
