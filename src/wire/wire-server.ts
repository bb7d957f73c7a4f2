// The server end: accepts connections, learns by HELLO which replica they are for, and binds the three connections of a port
// into one session.
//
// Owner: a worker. Invariants: a connection that said nothing valid in time is closed; a session ends as a whole; what is
// malformed ends its session with a line in the log and nothing else.

import {
  asHoldfastError,
  type Clock,
  commonVersion,
  HoldfastError,
  type Logger,
  type NodeId,
  type ReplicaId,
  type VolumeId,
} from '../base/index.js';
import { FORMATS_READ } from '../format/index.js';
import type { ByteStream, ReceiveSlab, StreamListener, StreamNet } from '../transport/index.js';
import { checkRole, partOf } from '../trust/index.js';
import { errorBody, type Hello, parseHello, type Welcome } from './bodies.js';
import { WireConnection } from './connection.js';
import { CONNECTIONS_MAX, HELLO_BYTES_MAX, HELLO_TIMEOUT_MS } from './limits.js';
import { type Channel, type MessageHead, type MessageType, messageType, protocolError } from './message.js';
import type { BatchReplicaPort } from './replica-port.js';
import { ServerSession } from './server-session.js';
import { PROTOCOL } from './versions.js';

/** Where the server gets replicas from; a ReplicaHost has this shape. */
export interface ReplicaSource {
  /** NOT_FOUND/ReplicaLost when that replica is not here. */
  localPort(volumeId: VolumeId, replicaId: ReplicaId, engineElsewhere: boolean): Promise<BatchReplicaPort>;
}

export interface WireServerOptions {
  readonly source: ReplicaSource;
  readonly nodeId: NodeId;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class WireServer {
  readonly #options: WireServerOptions;
  readonly #listener: { current: StreamListener | null } = { current: null };
  readonly #greeting = new Set<Greeting>();
  readonly #sessions = new Map<string, ServerSession>();
  #connections = 0;
  #closed = false;

  private constructor(options: WireServerOptions) {
    this.#options = options;
  }

  /** Listens on "host:port"; port 0 takes a free one. FAILED_PRECONDITION/AddressInUse when it is taken. */
  static async listen(net: StreamNet, address: string, options: WireServerOptions): Promise<WireServer> {
    const server = new WireServer(options);
    server.#listener.current = await net.listen(address, (stream) => server.#accept(stream));
    return server;
  }

  /** host:port */
  get address(): string {
    return this.#listener.current!.address;
  }

  #accept(stream: ByteStream): void {
    if (this.#closed || this.#connections >= CONNECTIONS_MAX) {
      this.#options.logger.warn({ peer: stream.peer, connections: this.#connections }, 'connection refused');
      stream.destroy();
      return;
    }
    this.#connections++;
    const greeting = new Greeting(stream, this.#options, {
      hello: (hello) => this.#welcome(greeting, hello),
      closed: () => {
        this.#connections--;
        this.#greeting.delete(greeting);
      },
    });
    this.#greeting.add(greeting);
    const { identity } = stream;
    if (identity === undefined) return;
    try {
      // Engines live in storage daemons.
      checkRole(identity, ['storage'], 'write to replicas');
    } catch (error) {
      greeting.refuse(messageType.lost, 0, asHoldfastError(error));
    }
  }

  async #welcome(greeting: Greeting, hello: Hello): Promise<void> {
    const theirs = { min: hello.minVersion, max: hello.maxVersion };
    const version = commonVersion('the replica protocol', `the engine at ${greeting.peer}`, theirs, PROTOCOL);
    const session = hello.channel === 'data' ? await this.#open(greeting, hello) : this.#sessions.get(hello.session);
    if (session === undefined || !session.matches(hello)) throw protocolError('there is no such session');
    this.#greeting.delete(greeting);
    greeting.hand(session, hello.channel, version);
  }

  async #open(greeting: Greeting, hello: Hello): Promise<ServerSession> {
    if (this.#sessions.has(hello.session)) throw protocolError('the session has a data connection already');
    const { source, logger } = this.#options;
    const port = await source.localPort(hello.volumeId, hello.replicaId, true);
    if (greeting.ended || this.#closed || this.#sessions.has(hello.session)) {
      port.close();
      throw new HoldfastError('UNAVAILABLE', 'the connection ended while the replica was opened');
    }
    const from = greeting.identity === undefined ? {} : { from: partOf(greeting.identity) };
    const context = { volume: hello.volumeId, replica: hello.replicaId, peer: greeting.peer, ...from };
    const session = new ServerSession(hello, port, logger.child(context), () => this.#sessions.delete(hello.session));
    this.#sessions.set(hello.session, session);
    return session;
  }

  /** Ends every session and stops listening. */
  async close(): Promise<void> {
    this.#closed = true;
    const error = new HoldfastError('UNAVAILABLE', 'the storage daemon stops', { reason: 'Closed' });
    for (const greeting of [...this.#greeting]) greeting.destroy(error);
    for (const session of [...this.#sessions.values()]) session.end(error);
    await this.#listener.current?.close();
  }
}

/** A connection until its session takes over: waits for HELLO, then passes everything on. */
class Greeting {
  readonly identity: ByteStream['identity'];
  readonly #connection: WireConnection;
  readonly #options: WireServerOptions;
  readonly #events: { hello(hello: Hello): Promise<void>; closed(): void };
  readonly #timer: { cancel(): void };
  #state: 'waiting' | 'opening' | 'handed' = 'waiting';
  #session: ServerSession | null = null;
  #channel: Channel = 'data';
  #helloId = 0;

  constructor(
    stream: ByteStream,
    options: WireServerOptions,
    events: { hello(hello: Hello): Promise<void>; closed(): void },
  ) {
    this.identity = stream.identity;
    this.#options = options;
    this.#events = events;
    this.#connection = new WireConnection(
      stream,
      {
        bodyMax: (head) => this.#bodyMax(head),
        sink: () => null,
        message: (head, body, slab) => this.#message(head, body, slab),
        batchEnd: () => this.#session?.batchEnd(this.#channel),
        malformed: (error) => this.refuse(messageType.lost, 0, error),
        closed: (error) => this.#closed(error),
      },
      options.clock,
    );
    this.#timer = options.clock.after(HELLO_TIMEOUT_MS, () => {
      if (this.#state === 'waiting') this.destroy(protocolError(`no HELLO within ${HELLO_TIMEOUT_MS} ms`));
    });
  }

  get ended(): boolean {
    return this.#connection.isEnded;
  }
  get peer(): string {
    return this.#connection.peer;
  }
  destroy(error: HoldfastError): void {
    this.#connection.destroy(error);
  }

  #bodyMax(head: MessageHead): number {
    if (this.#session !== null) return this.#session.bodyMax(this.#channel, head);
    if (this.#state === 'waiting' && head.type === messageType.hello) return HELLO_BYTES_MAX;
    throw protocolError(`message of type ${head.type} before a HELLO was answered`);
  }

  #message(head: MessageHead, body: Buffer, slab: ReceiveSlab): void {
    if (this.#session !== null) return this.#session.message(this.#channel, head, body, slab);
    const { requestId } = head;
    this.#state = 'opening';
    this.#helloId = requestId;
    this.#events
      .hello(parseHello(body))
      .catch((error) => this.refuse(messageType.failure, requestId, asHoldfastError(error)));
  }

  /** Says why, then ends. */
  refuse(type: MessageType, requestId: number, error: HoldfastError): void {
    this.#connection.sendJson({ type, requestId }, errorBody(error));
    this.#connection.finish(error);
  }

  hand(session: ServerSession, channel: Channel, version: number): void {
    const welcome: Welcome = { version, nodeId: this.#options.nodeId, formats: FORMATS_READ };
    session.attach(channel, this.#connection);
    this.#connection.sendJson({ type: messageType.reply, requestId: this.#helloId }, welcome);
    this.#connection.version = version;
    this.#session = session;
    this.#channel = channel;
    this.#state = 'handed';
    this.#timer.cancel();
  }

  #closed(error: HoldfastError): void {
    this.#timer.cancel();
    this.#events.closed();
    if (this.#session !== null) this.#session.end(error);
    else
      this.#options.logger.warn(
        { peer: this.peer, error: error.message },
        'connection ended before it was bound to a replica',
      );
  }
}
