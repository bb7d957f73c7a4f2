// One remote port on the server: three connections that act on one local port.
//
// Owner: WireServer. Invariants: requests of the data connection reach the port in the order in which they were sent, appends
// that arrived together as one batch; every request gets one answer, and no answer overtakes the acknowledgement of an append
// before it; memory that appends lie in is kept until they are acknowledged (the port writes them at once unless something
// before them holds it up); when any connection or the port ends, all of it ends.

import {
  AssertionError,
  asHoldfastError,
  HoldfastError,
  type Logger,
  type ReignId,
  uuidFromBytes,
} from '../base/index.js';
import { isSafe, type Reign, readSafe } from '../format/index.js';
import type { ReceiveSlab } from '../transport/index.js';
import { errorBody, type Hello, type Page, parseClone, parseDescribe, parseJson, parseSegments } from './bodies.js';
import type { WireConnection } from './connection.js';
import { KEPT_BYTES_MAX, PAGE_ITEMS_MAX, READ_BYTES_MAX, REPLY_BACKLOG_BYTES, REQUESTS_MAX } from './limits.js';
import {
  bodiesOn,
  type Channel,
  MESSAGE_HEADER_SIZE,
  type MessageHead,
  messageType,
  protocolError,
  READ_RANGE_SIZE,
} from './message.js';
import type { AppendItem, BatchReplicaPort, ReadRange } from './replica-port.js';

const bodies = { data: bodiesOn('data'), bulk: bodiesOn('bulk'), control: bodiesOn('control') } as const;

/** Reads come on these: they are held when too much is being read. */
const readingChannels = ['control', 'bulk'] as const;

/** Appends that the port has taken and not acknowledged, and the memory they lie in. */
interface KeptAppends {
  readonly slab: ReceiveSlab;
  readonly lastSeq: number;
  readonly bytes: number;
}

export class ServerSession {
  readonly #hello: Hello;
  readonly #port: BatchReplicaPort;
  readonly #logger: Logger;
  readonly #onEnd: () => void;
  readonly #connections = new Map<Channel, WireConnection>();
  /** Appends of the read being handled; all lie in one slab. */
  #batch: AppendItem[] = [];
  #batchBytes = 0;
  #batchSlab: ReceiveSlab | null = null;
  /** Oldest first. */
  readonly #kept: KeptAppends[] = [];
  #keptBytes = 0;
  /** The data connection is being read: one acknowledgement at the end does for all. */
  #receiving = false;
  #ackDue = false;
  #ackSeq = 0;
  /** The highest seq acknowledged since the last batch was handed over, 0 for none. */
  #sinceBatch = 0;
  /** As the fence sent it; every later message must carry the same. */
  #reign: Buffer | null = null;
  #outstanding = 0;
  /** What the reads under way will answer with. */
  #readingBytes = 0;
  #ended = false;

  constructor(hello: Hello, port: BatchReplicaPort, logger: Logger, onEnd: () => void) {
    this.#hello = hello;
    this.#port = port;
    this.#logger = logger;
    this.#onEnd = onEnd;
    port.listen({
      appended: (seq) => this.#appended(seq),
      lost: (error) => this.#lost(asHoldfastError(error)),
    });
  }

  matches(hello: Hello): boolean {
    return (
      hello.session === this.#hello.session &&
      hello.volumeId === this.#hello.volumeId &&
      hello.replicaId === this.#hello.replicaId
    );
  }

  attach(channel: Channel, connection: WireConnection): void {
    if (this.#ended || this.#connections.has(channel)) {
      throw protocolError(`the session has a ${channel} connection already, or has ended`);
    }
    this.#connections.set(channel, connection);
  }

  bodyMax(channel: Channel, head: MessageHead): number {
    const most = bodies[channel][head.type]!;
    if (most < 0) throw protocolError(`message of type ${head.type} on the ${channel} connection`);
    return most;
  }

  message(channel: Channel, head: MessageHead, body: Buffer, slab: ReceiveSlab): void {
    if (this.#ended) return;
    const data = channel === 'data';
    if (data) this.#receiving = true;
    const connection = this.#connections.get(channel)!;
    if (head.type === messageType.ping) return connection.send({ type: messageType.pong, requestId: head.requestId });
    if (head.type === messageType.fence) return this.#fence(connection, head);
    if (this.#reign === null || !head.hasReign(this.#reign)) return this.#refuseReign(connection, head);
    if (head.type === messageType.append) {
      this.#batch.push({ segment: { epoch: head.a, ordinal: head.c }, offset: head.d, bytes: body, lastSeq: head.b });
      this.#batchBytes += body.length;
      this.#batchSlab = slab;
      return;
    }
    if (data) this.#flushBatch();
    this.#request(connection, head, body);
    if (!data) connection.holdAbove(REPLY_BACKLOG_BYTES);
  }

  batchEnd(channel: Channel): void {
    if (channel !== 'data') return;
    this.#flushBatch();
    this.#receiving = false;
    if (this.#ackDue) this.#acknowledge();
    if (this.#keptBytes > KEPT_BYTES_MAX) this.#connections.get('data')?.hold();
  }

  #flushBatch(): void {
    const batch = this.#batch;
    if (batch.length === 0) return;
    const slab = this.#batchSlab!;
    const { lastSeq } = batch[batch.length - 1]!;
    const bytes = this.#batchBytes;
    this.#batch = [];
    this.#batchBytes = 0;
    this.#sinceBatch = 0;
    this.#port.appendBatch(batch);
    if (this.#ended || this.#sinceBatch >= lastSeq) return;
    slab.retain();
    this.#kept.push({ slab, lastSeq, bytes });
    this.#keptBytes += bytes;
  }

  #appended(seq: number): void {
    this.#ackSeq = seq;
    this.#sinceBatch = seq;
    while (this.#kept.length > 0 && this.#kept[0]!.lastSeq <= seq) {
      const { slab, bytes } = this.#kept.shift()!;
      slab.release();
      this.#keptBytes -= bytes;
      if (this.#keptBytes <= KEPT_BYTES_MAX) this.#connections.get('data')?.goOn();
    }
    this.#ackDue = true;
    if (!this.#receiving) this.#acknowledge();
  }

  #acknowledge(): void {
    this.#ackDue = false;
    const fields = { type: messageType.ack, requestId: 0, a: this.#ackSeq, b: this.#port.freeBytes() } as const;
    this.#connections.get('data')?.send(fields);
  }

  #fence(connection: WireConnection, head: MessageHead): void {
    this.#flushBatch();
    const sent = head.copyReign();
    const reign: Reign = { epoch: readSafe(sent, 0), reignId: uuidFromBytes(sent, 8) as ReignId };
    this.#answer(
      connection,
      head.requestId,
      this.#port.fence(reign).then((status) => {
        this.#reign = sent;
        for (const other of this.#connections.values()) other.reign = sent;
        return { ...status, freeBytes: this.#port.freeBytes() };
      }),
    );
  }

  #refuseReign(connection: WireConnection, head: MessageHead): void {
    if (this.#reign === null) throw protocolError(`message of type ${head.type} before a fence`);
    const error = new HoldfastError('ABORTED', 'the message carries another reign than its session', {
      reason: 'StaleReign',
    });
    this.#fail(connection, head.requestId, error);
  }

  #request(connection: WireConnection, head: MessageHead, body: Buffer): void {
    const port = this.#port;
    const { requestId } = head;
    const done = (error: Error | null) => {
      if (error) this.#fail(connection, requestId, error);
      else this.#reply(connection, requestId, undefined);
    };
    switch (head.type) {
      case messageType.sync:
        this.#begin();
        // Who was answered for the frames before it need not wait until a sync has been started.
        if (this.#ackDue) {
          this.#acknowledge();
          connection.flush();
        }
        return port.sync(
          head.a,
          (error) => {
            this.#outstanding--;
            done(error);
          },
          true,
        );
      case messageType.confirm:
        return port.confirm(done);
      case messageType.read:
        return this.#read(connection, requestId, body);
      case messageType.segments:
        return this.#answer(connection, requestId, this.#segmentPage(head.a));
      case messageType.frames:
        return this.#answer(connection, requestId, this.#framePage(head.a, head.c, head.b));
      case messageType.cut:
        return this.#answer(connection, requestId, port.cut(head.a));
      case messageType.deleteSegments:
        return this.#answer(connection, requestId, port.deleteSegments(parseSegments(parseJson(body).segments)));
      case messageType.describe:
        return this.#answer(connection, requestId, port.describe(parseDescribe(body)));
      case messageType.clone:
        return this.#answer(connection, requestId, port.clone(parseClone(body)));
      case messageType.usage:
        return this.#answer(connection, requestId, port.usage());
      case messageType.repair:
        return this.#answer(
          connection,
          requestId,
          port.repair({ epoch: head.a, ordinal: head.c }, head.d, Buffer.from(body)),
        );
      default:
        throw protocolError(`message of type ${head.type} is no request`);
    }
  }

  async #segmentPage(fromOrdinal: number): Promise<Page<unknown>> {
    const all = (await this.#port.segments()).filter((segment) => segment.ordinal >= fromOrdinal);
    return { items: all.slice(0, PAGE_ITEMS_MAX), more: all.length > PAGE_ITEMS_MAX };
  }

  async #framePage(epoch: number, ordinal: number, fromSeq: number): Promise<Page<unknown>> {
    const all = (await this.#port.frames({ epoch, ordinal })).filter((frame) => frame.seq >= fromSeq);
    return { items: all.slice(0, PAGE_ITEMS_MAX), more: all.length > PAGE_ITEMS_MAX };
  }

  #read(connection: WireConnection, requestId: number, body: Buffer): void {
    if (body.length === 0 || body.length % READ_RANGE_SIZE !== 0)
      throw protocolError(`a read with ${body.length} bytes of ranges`);
    let total = 0;
    for (let at = 0; at < body.length; at += READ_RANGE_SIZE) {
      if (!isSafe(body, at)) throw protocolError('a read of a segment with an epoch of 2^53 or more');
      total += body.readUInt32LE(at + 16);
    }
    if (total > READ_BYTES_MAX) throw protocolError(`a read of ${total} bytes, at most ${READ_BYTES_MAX}`);
    this.#begin();
    this.#readingBytes += total;
    if (this.#readingBytes > REPLY_BACKLOG_BYTES) connection.hold();
    const { outbox } = connection;
    outbox.reserve(MESSAGE_HEADER_SIZE + total);
    const answer = outbox.bytes;
    const answerAt = outbox.at;
    const ranges: ReadRange[] = [];
    let filled = answerAt + MESSAGE_HEADER_SIZE;
    for (let at = 0; at < body.length; at += READ_RANGE_SIZE) {
      const length = body.readUInt32LE(at + 16);
      const segment = { epoch: readSafe(body, at), ordinal: body.readUInt32LE(at + 8) };
      ranges.push({ segment, offset: body.readUInt32LE(at + 12), into: answer.subarray(filled, filled + length) });
      filled += length;
    }
    this.#port.read(ranges, (error) => {
      this.#outstanding--;
      const held = this.#readingBytes > REPLY_BACKLOG_BYTES;
      this.#readingBytes -= total;
      if (held && this.#readingBytes <= REPLY_BACKLOG_BYTES)
        for (const channel of readingChannels) this.#connections.get(channel)?.goOn();
      if (error) {
        outbox.dropped();
        this.#fail(connection, requestId, error);
      } else connection.sendFilled({ type: messageType.readData, requestId }, answer, answerAt, total);
    });
  }

  /** One more request without an answer. */
  #begin(): void {
    if (this.#outstanding >= REQUESTS_MAX) throw protocolError(`more than ${REQUESTS_MAX} requests without an answer`);
    this.#outstanding++;
  }

  #answer(connection: WireConnection, requestId: number, result: Promise<unknown>): void {
    try {
      this.#begin();
    } catch (error) {
      result.catch(() => {});
      throw error;
    }
    result.then(
      (value) => {
        this.#outstanding--;
        this.#reply(connection, requestId, value);
      },
      (error) => {
        if (error instanceof AssertionError) throw error;
        this.#outstanding--;
        this.#fail(connection, requestId, error);
      },
    );
  }

  #reply(connection: WireConnection, requestId: number, value: unknown): void {
    if (this.#ackDue) this.#acknowledge();
    if (value === undefined) connection.send({ type: messageType.reply, requestId });
    else connection.sendJson({ type: messageType.reply, requestId }, value);
  }
  #fail(connection: WireConnection, requestId: number, error: unknown): void {
    if (this.#ackDue) this.#acknowledge();
    connection.sendJson({ type: messageType.failure, requestId }, errorBody(asHoldfastError(error)));
  }

  /** The local port is lost: the other side is told why before the connections go. */
  #lost(error: HoldfastError): void {
    if (this.#ackDue) this.#acknowledge();
    this.#connections.get('data')?.sendJson({ type: messageType.lost, requestId: 0 }, errorBody(error));
    this.end(error);
  }

  end(error: HoldfastError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#batch = [];
    // The port may still have something to write from what it was given: that memory is left to the collector.
    this.#kept.length = 0;
    if (error.reason === 'Protocol')
      this.#logger.warn({ error: error.message }, 'replica session ended by a bad message');
    else this.#logger.info({ why: error.message }, 'replica session ended');
    this.#onEnd();
    this.#port.close();
    for (const connection of this.#connections.values()) connection.finish(error);
  }
}
