// The replica port over TCP: the engine's end of a session.
//
// Owner: whoever connected it. States: connecting -> ready -> lost (or closed). Three connections: data (everything whose order
// counts), control (confirm and small reads), bulk (lists, long reads, repair). Invariants: what the port promises about
// order is kept by sending it on one connection; when any connection ends, a request is not answered in time, or nothing
// acknowledges what was appended, the port is lost as a whole, once, and every pending call fails.

import {
  type Clock,
  commonVersion,
  HoldfastError,
  type Logger,
  type NodeId,
  type Random,
  type ReplicaId,
  unavailable,
  type VolumeId,
} from '../base/index.js';
import { FORMAT_VERSION, type Reign, type SegmentName, writeSafe } from '../format/index.js';
import type { StreamNet } from '../transport/index.js';
import { checkPart } from '../trust/index.js';
import { AppendHeaders } from './append-headers.js';
import {
  type Hello,
  type Page,
  parseError,
  parseFramePage,
  parseJson,
  parseSegmentPage,
  parseStatus,
  parseUsage,
  parseWelcome,
} from './bodies.js';
import { WireConnection } from './connection.js';
import { ACK_TIMEOUT_MS, FENCE_TIMEOUT_MS, REQUEST_TIMEOUT_MS, SMALL_READ_BYTES } from './limits.js';
import {
  answerBodies,
  type Channel,
  encodeReign,
  MESSAGE_HEADER_SIZE,
  type MessageFields,
  type MessageHead,
  messageType,
  protocolError,
  READ_RANGE_SIZE,
} from './message.js';
import { PeerWatch } from './peer-watch.js';
import { PendingRequests } from './pending-requests.js';
import { readPlan } from './read-plan.js';
import type {
  CloneOrder,
  DescribeUpdate,
  FrameInfo,
  ReadRange,
  ReplicaEvents,
  ReplicaPort,
  ReplicaStatus,
  SegmentInfo,
} from './replica-port.js';
import { PROTOCOL } from './versions.js';

export interface RemoteReplicaOptions {
  readonly volumeId: VolumeId;
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Without progress for this long while something is outstanding the replica is given up. */
  readonly ackTimeoutMs?: number;
  readonly fenceTimeoutMs?: number;
  readonly requestTimeoutMs?: number;
}

/** Of all replicas of this thread: what one sends, the next sends, too. */
const appendHeaders = new AppendHeaders();

type Done = (error: Error | null) => void;
type Request = Omit<MessageFields, 'requestId'>;

/**
 * Connects to a replica at "host:port". Rejects UNAVAILABLE when it is not there within `timeoutMs`, with the server's own
 * error (NOT_FOUND/ReplicaLost among them) when it refuses.
 */
export async function connectReplica(
  net: StreamNet,
  address: string,
  options: RemoteReplicaOptions,
  timeoutMs: number,
): Promise<ReplicaPort> {
  const replica = new RemoteReplica(options, address);
  const timer = options.clock.after(timeoutMs, () =>
    replica.fail(unavailable(`replica ${options.replicaId} at ${address} did not answer within ${timeoutMs} ms`)),
  );
  try {
    const session = options.random.uuid();
    await replica.open(net, 'data', session, timeoutMs);
    await Promise.all([
      replica.open(net, 'bulk', session, timeoutMs),
      replica.open(net, 'control', session, timeoutMs),
    ]);
    return replica;
  } catch (error) {
    replica.close();
    throw error;
  } finally {
    timer.cancel();
  }
}

class RemoteReplica implements ReplicaPort {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  readonly local = false;
  readonly #options: RemoteReplicaOptions;
  readonly #address: string;
  readonly #connections = new Map<Channel, WireConnection>();
  readonly #pending = new PendingRequests();
  readonly #requestTimeoutMs: number;
  /** The three by name, for the ways that count. */
  #data: WireConnection | null = null;
  #control: WireConnection | null = null;
  #bulk: WireConnection | null = null;
  #events: ReplicaEvents | null = null;
  #lost: HoldfastError | null = null;
  #freeBytes = 0;
  /**
   * What was called after a cut that is not answered yet, else null: acknowledgements name seqs, and those of frames that
   * the cut removed must not be taken for those of frames sent after it.
   */
  #held: (() => void)[] | null = null;
  #sentSeq = 0;
  #ackedSeq = 0;
  readonly #watch: PeerWatch;

  constructor(options: RemoteReplicaOptions, address: string) {
    this.#options = options;
    this.#address = address;
    this.replicaId = options.replicaId;
    this.nodeId = options.nodeId;
    this.#requestTimeoutMs = options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
    this.#watch = new PeerWatch({
      clock: options.clock,
      timeoutMs: options.ackTimeoutMs ?? ACK_TIMEOUT_MS,
      pending: this.#pending,
      connections: this.#connections,
      appends: () => ({ sent: this.#sentSeq, acked: this.#ackedSeq }),
      giveUp: (what) => this.fail(unavailable(`replica ${this.replicaId} at ${address} ${what}`)),
    });
  }

  async open(net: StreamNet, channel: Channel, session: string, timeoutMs: number): Promise<void> {
    const stream = await net.connect(this.#address, timeoutMs);
    try {
      if (this.#lost !== null) throw this.#lost;
      if (stream.identity !== undefined)
        checkPart(stream.identity, { role: 'storage', node: this.nodeId }, this.#address);
    } catch (error) {
      stream.destroy();
      throw error;
    }
    const { clock, volumeId } = this.#options;
    const handler = {
      bodyMax: (head: MessageHead) => this.#bodyMax(head),
      sink: (head: MessageHead) => this.#sink(head),
      message: (head: MessageHead, body: Buffer) => this.#message(head, body),
      batchEnd: () => {},
      malformed: (error: HoldfastError) => this.fail(error),
      closed: (error: HoldfastError) => this.fail(error),
    };
    const connection = new WireConnection(stream, handler, clock);
    this.#connections.set(channel, connection);
    if (channel === 'data') this.#data = connection;
    else if (channel === 'bulk') this.#bulk = connection;
    else this.#control = connection;
    const hello: Hello = {
      minVersion: PROTOCOL.min,
      maxVersion: PROTOCOL.max,
      volumeId,
      replicaId: this.replicaId,
      channel,
      session,
    };
    const welcome = parseWelcome(parseJson(await this.#ask(connection, { type: messageType.hello }, timeoutMs, hello)));
    if (welcome.version < PROTOCOL.min || welcome.version > PROTOCOL.max)
      throw protocolError(`${this.#address} answers in version ${welcome.version}, which was not offered`);
    // What it is to keep it must be able to check.
    commonVersion('the disk format', `node ${this.nodeId}`, welcome.formats, {
      min: FORMAT_VERSION,
      max: FORMAT_VERSION,
    });
    connection.version = welcome.version;
    if (welcome.nodeId === this.nodeId) return;
    throw unavailable(
      `${this.#address} is node ${welcome.nodeId}, replica ${this.replicaId} belongs to ${this.nodeId}`,
    );
  }

  listen(events: ReplicaEvents): void {
    this.#events = events;
    const lost = this.#lost;
    if (lost !== null) events.lost(lost);
  }

  async fence(reign: Reign): Promise<ReplicaStatus> {
    if (this.#lost !== null) throw this.#lost;
    const bytes = encodeReign(reign);
    for (const connection of this.#connections.values()) connection.reign = bytes;
    const timeoutMs = this.#options.fenceTimeoutMs ?? FENCE_TIMEOUT_MS;
    const answer = parseJson(await this.#ask(this.#data!, { type: messageType.fence }, timeoutMs));
    const status = parseStatus(answer);
    if (typeof answer.freeBytes === 'number') this.#freeBytes = answer.freeBytes;
    this.#sentSeq = status.end.seq;
    this.#ackedSeq = status.end.seq;
    return status;
  }

  // --- The way of a write and of a read -------------------------------------------------------------------------------

  append(segment: SegmentName, offset: number, bytes: Uint8Array, lastSeq: number): void {
    if (this.#lost !== null) return;
    if (this.#held !== null) {
      this.#held.push(() => this.append(segment, offset, bytes, lastSeq));
      return;
    }
    this.#sentSeq = lastSeq;
    const data = this.#data!;
    const at = appendHeaders.encode(segment, offset, bytes, lastSeq, data.reign, data.version);
    data.sendEncoded(appendHeaders.bytes, at, bytes);
    this.#watch.start();
  }

  flush(): void {
    this.#data?.flush();
  }

  sync(throughSeq: number, done: Done): void {
    if (this.#held !== null) {
      this.#held.push(() => this.sync(throughSeq, done));
      return;
    }
    const requestId = this.#expect(this.#data, null, done);
    if (requestId !== 0) this.#data!.send({ type: messageType.sync, requestId, a: throughSeq });
  }

  confirm(done: Done): void {
    const requestId = this.#expect(this.#control, null, done);
    if (requestId !== 0) this.#control!.send({ type: messageType.confirm, requestId });
  }

  read(ranges: readonly ReadRange[], done: Done): void {
    const { requests, bytes } = readPlan(ranges);
    const connection = bytes > SMALL_READ_BYTES ? this.#bulk : this.#control;
    let waiting = requests.length;
    let failed: Error | null = null;
    if (waiting === 0) return done(this.#lost);
    const one = (error: Error | null) => {
      failed ??= error;
      if (--waiting === 0) done(failed);
    };
    for (const request of requests) this.#read(connection, request, one);
  }

  #read(connection: WireConnection | null, ranges: readonly ReadRange[], done: Done): void {
    const sink: Uint8Array[] = [];
    for (const range of ranges) sink.push(range.into);
    const requestId = this.#expect(connection, sink, done);
    if (requestId === 0) return;
    const { outbox } = connection!;
    const size = ranges.length * READ_RANGE_SIZE;
    outbox.reserve(MESSAGE_HEADER_SIZE + size);
    const { bytes, at } = outbox;
    for (let i = 0, place = at + MESSAGE_HEADER_SIZE; i < ranges.length; i++, place += READ_RANGE_SIZE) {
      const { segment, offset, into } = ranges[i]!;
      writeSafe(bytes, segment.epoch, place);
      bytes.writeUInt32LE(segment.ordinal, place + 8);
      bytes.writeUInt32LE(offset, place + 12);
      bytes.writeUInt32LE(into.length, place + 16);
      bytes.writeUInt32LE(0, place + 20);
    }
    connection!.sendFilled({ type: messageType.read, requestId }, bytes, at, size);
  }

  /** The id to send a request with, 0 when `done` has been told that there will be no answer. */
  #expect(
    connection: WireConnection | null,
    sink: Uint8Array[] | null,
    done: (error: Error | null, body: Buffer | null) => void,
  ): number {
    if (this.#lost !== null) {
      done(this.#lost, null);
      return 0;
    }
    const deadlineMs = this.#options.clock.monotonicMs() + this.#requestTimeoutMs;
    let requestId: number;
    try {
      requestId = this.#pending.add({ connection: connection!, deadlineMs, sink, finish: done });
    } catch (error) {
      done(error as Error, null);
      return 0;
    }
    this.#watch.start();
    return requestId;
  }

  // --- Everything else ------------------------------------------------------------------------------------------------

  async segments(): Promise<SegmentInfo[]> {
    const all: SegmentInfo[] = [];
    let page: Page<SegmentInfo> = { items: [], more: true };
    while (page.more) {
      const from = all.length === 0 ? 0 : all.at(-1)!.ordinal + 1;
      page = parseSegmentPage(parseJson(await this.#ask(this.#bulk!, { type: messageType.segments, a: from })));
      if (page.more && page.items.length === 0) throw protocolError('an empty page of segments that has a next one');
      all.push(...page.items);
    }
    return all;
  }

  async frames(segment: SegmentName): Promise<FrameInfo[]> {
    const all: FrameInfo[] = [];
    let page: Page<FrameInfo> = { items: [], more: true };
    while (page.more) {
      const from = all.length === 0 ? 0 : all.at(-1)!.seq + 1;
      const fields = { type: messageType.frames, a: segment.epoch, b: from, c: segment.ordinal };
      page = parseFramePage(parseJson(await this.#ask(this.#bulk!, fields)));
      if (page.more && page.items.length === 0) throw protocolError('an empty page of frames that has a next one');
      all.push(...page.items);
    }
    return all;
  }

  async cut(seq: number): Promise<void> {
    if (this.#held !== null) return await this.#afterCut(() => this.cut(seq));
    this.#held = [];
    try {
      await this.#ask(this.#data!, { type: messageType.cut, a: seq });
      // What was acknowledged until now was sent before the cut.
      this.#sentSeq = Math.min(this.#sentSeq, seq);
      this.#ackedSeq = Math.min(this.#ackedSeq, seq);
    } finally {
      const held = this.#held;
      this.#held = null;
      for (const send of held) send();
    }
  }

  async deleteSegments(segments: readonly SegmentName[]): Promise<void> {
    const names = segments.map(({ epoch, ordinal }) => ({ epoch, ordinal }));
    await this.#afterCut(() =>
      this.#ask(this.#data!, { type: messageType.deleteSegments }, undefined, { segments: names }),
    );
  }

  async describe(update: DescribeUpdate): Promise<void> {
    await this.#afterCut(() => this.#ask(this.#data!, { type: messageType.describe }, undefined, update));
  }

  async clone(order: CloneOrder): Promise<void> {
    await this.#afterCut(() => this.#ask(this.#data!, { type: messageType.clone }, undefined, order));
  }

  /** Runs `send` now, or in its turn behind a cut that is not answered yet. */
  #afterCut<T>(send: () => Promise<T>): Promise<T> {
    const held = this.#held;
    if (held === null) return send();
    return new Promise((resolve, reject) => held.push(() => void send().then(resolve, reject)));
  }

  async repair(segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const requestId = this.#expect(this.#bulk, null, (error) => (error ? reject(error) : resolve()));
      if (requestId === 0) return;
      const fields = { type: messageType.repair, requestId, a: segment.epoch, c: segment.ordinal, d: offset };
      this.#bulk!.sendBody(fields, bytes);
    });
  }

  freeBytes(): number {
    return this.#freeBytes;
  }

  async usage(): Promise<{ storedBytes: number; sharedBytes: number }> {
    return parseUsage(parseJson(await this.#ask(this.#bulk!, { type: messageType.usage })));
  }

  /** Sends a request with an optional JSON body; resolves with the reply's body. */
  #ask(
    connection: WireConnection,
    fields: Request,
    timeoutMs = this.#requestTimeoutMs,
    json?: unknown,
  ): Promise<Buffer> {
    if (this.#lost !== null) return Promise.reject(this.#lost);
    return new Promise((resolve, reject) => {
      const requestId = this.#pending.add({
        connection,
        deadlineMs: this.#options.clock.monotonicMs() + timeoutMs,
        sink: null,
        // The body lies in memory that is used again after this call.
        finish: (error, body) => (error ? reject(error) : resolve(Buffer.from(body!))),
      });
      if (json === undefined) connection.send({ ...fields, requestId });
      else connection.sendJson({ ...fields, requestId }, json);
      this.#watch.start();
    });
  }

  // --- What the server sends ------------------------------------------------------------------------------------------

  #bodyMax(head: MessageHead): number {
    const max = answerBodies[head.type];
    if (max === undefined) throw protocolError(`message of type ${head.type} from a server`);
    return max;
  }

  #sink(head: MessageHead): readonly Uint8Array[] | null {
    if (head.type !== messageType.readData) return null;
    const sink = this.#pending.find(head)?.sink ?? null;
    const expected = sink?.reduce((sum, target) => sum + target.length, 0);
    if (expected !== head.length)
      throw protocolError(`${head.length} bytes of data for a read of ${expected ?? 'nothing'}`);
    return sink;
  }

  #message(head: MessageHead, body: Buffer): void {
    if (this.#lost !== null) return;
    switch (head.type) {
      case messageType.ack:
        return this.#acknowledged(head.a, head.b);
      case messageType.pong:
        return;
      case messageType.lost:
        return this.fail(parseError(body));
      default: {
        const request = this.#pending.find(head);
        if (request === undefined) throw protocolError(`an answer to request ${head.requestId}, which nobody made`);
        const failure = head.type === messageType.failure ? parseError(body) : null;
        if (failure === null && (head.type === messageType.readData) !== (request.sink !== null))
          throw protocolError('an answer of another kind than its request');
        // Not before the answer is known to be one: what is not pending any more is not failed with the port.
        this.#pending.take(head);
        return failure === null ? request.finish(null, body) : request.finish(failure, null);
      }
    }
  }

  #acknowledged(seq: number, freeBytes: number): void {
    if (seq > this.#sentSeq) throw protocolError(`seq ${seq} was acknowledged, ${this.#sentSeq} was the last sent`);
    this.#freeBytes = freeBytes;
    if (seq <= this.#ackedSeq) return;
    this.#ackedSeq = seq;
    this.#events?.appended(seq);
  }

  /** Ends the port; the first error counts. */
  fail(error: HoldfastError): void {
    if (this.#lost !== null) return;
    this.#end(error);
    this.#options.logger.info(
      { replica: this.replicaId, address: this.#address, why: error.message },
      'replica connection lost',
    );
    this.#events?.lost(error);
  }

  close(): void {
    if (this.#lost !== null) return;
    this.#end(
      new HoldfastError('UNAVAILABLE', `the port to replica ${this.replicaId} was closed`, { reason: 'Closed' }),
    );
  }

  #end(error: HoldfastError): void {
    this.#lost = error;
    this.#watch.stop();
    for (const connection of this.#connections.values()) connection.destroy(error);
    this.#pending.failAll(error);
  }
}
