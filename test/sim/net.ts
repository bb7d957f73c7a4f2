// The network between simulated nodes: byte streams that are reliable and in order while they last, each with delays of its
// own; links that are blocked in one direction or both, slow, or healed; connections that break. A process that is killed ends
// its connections, a node without power falls silent and answers old connections with a reset once it is back.
//
// Received bytes that a handler has consumed are overwritten unless it retained them, and what it writes is copied as late as
// the port allows: who keeps or changes memory that is not its own must not get away with it.

import { HoldfastError, unavailable } from '../../src/base/index.js';
import type { ByteStream, ReceiveSlab, StreamHandler, StreamListener, StreamNet } from '../../src/transport/index.js';
import type { Chance, VirtualTime } from '../lib/crash/virtual-time.js';
import type { SimProcess } from './process.js';

/** Bytes on the way and not consumed, beyond which a sender keeps the rest. */
const WINDOW_BYTES = 4 * 1024 * 1024;
/** After which a connection attempt that nobody answers ends, at the latest. */
const CONNECT_MS = 10_000;

export interface LinkHabits {
  readonly leastMs: number;
  readonly meanMs: number;
  /** Share of messages that take ten times as long and more. */
  readonly slowShare: number;
  /** Share of deliveries that come in pieces. */
  readonly splitShare: number;
}

class SimSlab implements ReceiveSlab {
  readonly bytes: Buffer;
  #users = 1;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
  retain(): void {
    this.#users++;
  }
  release(): void {
    if (--this.#users === 0) this.bytes.fill(0xdd);
  }
}

interface Listener {
  readonly process: SimProcess;
  readonly node: string;
  readonly accepted: (stream: ByteStream) => void;
}

export class SimNet {
  readonly #time: VirtualTime;
  readonly #chance: Chance;
  readonly #habits: LinkHabits;
  readonly #up: (node: string) => boolean;
  readonly #listeners = new Map<string, Listener>();
  readonly #blocked = new Set<string>();
  readonly #slow = new Map<string, number>();
  readonly #streams = new Set<SimStream>();
  /** Told of each delivery. */
  readonly #trace: (what: string) => void;
  #nextPort = 7_000;

  constructor(parts: {
    time: VirtualTime;
    chance: Chance;
    habits: LinkHabits;
    up: (node: string) => boolean;
    trace: (what: string) => void;
  }) {
    this.#time = parts.time;
    this.#chance = parts.chance;
    this.#habits = parts.habits;
    this.#up = parts.up;
    this.#trace = parts.trace;
  }

  get time(): VirtualTime {
    return this.#time;
  }
  trace(what: string): void {
    this.#trace(what);
  }

  /** Milliseconds that the next message takes. */
  delay(from: string, to: string): number {
    if (from === to) return 0.02;
    const { leastMs, meanMs, slowShare } = this.#habits;
    const usual = leastMs - Math.log(1 - this.#chance.next()) * meanMs;
    const factor = this.#slow.get(`${from}>${to}`) ?? 1;
    return usual * factor * (this.#chance.hit(slowShare) ? this.#chance.between(10, 50) : 1);
  }
  pieces(length: number): number {
    return length > 1 && this.#chance.hit(this.#habits.splitShare) ? this.#chance.between(1, length - 1) : length;
  }

  blocked(from: string, to: string): boolean {
    return this.#blocked.has(`${from}>${to}`);
  }
  block(from: string, to: string): void {
    if (from !== to) this.#blocked.add(`${from}>${to}`);
  }
  up(node: string): boolean {
    return this.#up(node);
  }
  unblock(from: string, to: string): void {
    if (!this.#blocked.delete(`${from}>${to}`)) return;
    for (const stream of [...this.#streams]) if (stream.from === from && stream.to === to) stream.pump();
  }
  slow(from: string, to: string, factor: number): void {
    if (factor === 1) this.#slow.delete(`${from}>${to}`);
    else this.#slow.set(`${from}>${to}`, factor);
  }
  healAll(): void {
    this.#slow.clear();
    for (const link of [...this.#blocked]) {
      const [from, to] = link.split('>') as [string, string];
      this.unblock(from, to);
    }
  }

  /** Breaks a share of the connections between two nodes; both ends hear of it soon. Returns how many. */
  breakConnections(a: string, b: string, share: number): number {
    let broken = 0;
    for (const stream of [...this.#streams]) {
      const between = (stream.from === a && stream.to === b) || (stream.from === b && stream.to === a);
      if (!between || stream.destroyed || !this.#chance.hit(share)) continue;
      broken++;
      stream.reset('the connection was reset');
      stream.other.reset('the connection was reset');
    }
    return broken;
  }

  /** The process is gone; `silent`: with its machine, so nobody is told. */
  processEnded(process: SimProcess, silent: boolean): void {
    for (const [address, listener] of this.#listeners)
      if (listener.process === process) this.#listeners.delete(address);
    for (const stream of [...this.#streams]) if (stream.process === process) stream.abandoned(silent);
  }

  forget(stream: SimStream): void {
    this.#streams.delete(stream);
  }

  forProcess(process: SimProcess, node: string): StreamNet {
    return {
      connect: (address, timeoutMs) => this.#connect(process, node, address, timeoutMs),
      listen: async (_address, accepted): Promise<StreamListener> => {
        const address = `${node}:${this.#nextPort++}`;
        this.#listeners.set(address, { process, node, accepted });
        return {
          address,
          close: async () => {
            this.#listeners.delete(address);
          },
        };
      },
    };
  }

  #connect(process: SimProcess, node: string, address: string, timeoutMs: number): Promise<ByteStream> {
    const target = address.slice(0, address.lastIndexOf(':'));
    return new Promise((resolve, reject) => {
      let over = false;
      const timeout = process.after(Math.min(timeoutMs, CONNECT_MS), () => {
        over = true;
        reject(unavailable(`${address} can't be reached in time`));
      });
      const answer = (then: () => void) =>
        this.#time.after(this.delay(target, node), () =>
          process.run(() => {
            if (over || this.blocked(target, node)) return;
            over = true;
            timeout.cancel();
            then();
          }),
        );
      this.#time.after(this.delay(node, target), () => {
        if (process.dead || this.blocked(node, target) || !this.#up(target)) return;
        const listener = this.#listeners.get(address);
        if (listener === undefined) return answer(() => reject(unavailable(`${address} refuses connections`)));
        const client = new SimStream(this, process, node, target, address);
        const server = new SimStream(this, listener.process, target, node, `${node}:client`);
        client.other = server;
        server.other = client;
        this.#streams.add(client).add(server);
        listener.process.run(() => listener.accepted(server));
        answer(() => resolve(client));
      });
    });
  }
}

export class SimStream implements ByteStream {
  readonly peer: string;
  readonly process: SimProcess;
  readonly from: string;
  readonly to: string;
  other!: SimStream;
  readonly #net: SimNet;
  #handler: StreamHandler | null = null;
  /** Written and not yet taken by the system. */
  #queue: Uint8Array[] = [];
  #queued = 0;
  /** On the way to the other end; null is the end of this side. */
  #wire: { at: number; readonly bytes: Buffer | null }[] = [];
  #wireBytes = 0;
  #lastAt = 0;
  #timed = false;
  #turnEnd = false;
  #left = false;
  /** Arrived here. */
  #inbox: Buffer = Buffer.alloc(0);
  #paused = false;
  #offering = false;
  #ending = false;
  #endSent = false;
  #peerEnded = false;
  #destroyed = false;
  #closedTold = false;
  /** Its process is gone and nobody was told: the machine answers with a reset once it is up again. */
  #silent = false;

  constructor(net: SimNet, process: SimProcess, from: string, to: string, peer: string) {
    this.#net = net;
    this.process = process;
    this.from = from;
    this.to = to;
    this.peer = peer;
  }

  get unsentBytes(): number {
    return this.#queued;
  }
  get destroyed(): boolean {
    return this.#destroyed;
  }

  start(handler: StreamHandler): void {
    this.#handler = handler;
    this.#later(() => this.#offer());
  }

  write(bytes: Uint8Array, from = 0, to: number = bytes.length): void {
    if (this.#destroyed || this.#ending || to === from) return;
    this.#queue.push(bytes.subarray(from, to));
    this.#queued += to - from;
    if (this.#turnEnd) return;
    this.#turnEnd = true;
    this.#net.time.after(0, () =>
      this.process.run(() => {
        this.#turnEnd = false;
        this.flush();
      }),
    );
  }

  flush(): void {
    if (this.#destroyed || this.process.dead || this.#queued === 0) return;
    if (this.#wireBytes + this.other.#inbox.length > WINDOW_BYTES) {
      this.#left = true;
      return;
    }
    const bytes = Buffer.concat(this.#queue);
    this.#queue = [];
    this.#queued = 0;
    for (let at = 0; at < bytes.length; ) {
      const length = this.#net.pieces(bytes.length - at);
      this.#send(bytes.subarray(at, at + length));
      at += length;
    }
    if (this.#left) {
      this.#left = false;
      this.#later(() => this.#handler?.drained());
    }
    if (this.#ending) this.#sendEnd();
  }

  #send(bytes: Buffer | null): void {
    const { time } = this.#net;
    this.#lastAt = Math.max(this.#lastAt, time.now + this.#net.delay(this.from, this.to));
    this.#wire.push({ at: this.#lastAt, bytes });
    this.#wireBytes += bytes?.length ?? 0;
    this.pump();
  }

  /** Delivers what is due. Called when time has come, and when the link is whole again. */
  pump(): void {
    const { time } = this.#net;
    while (this.#wire.length > 0) {
      if (this.#net.blocked(this.from, this.to)) return;
      const head = this.#wire[0]!;
      if (head.at > time.now) {
        if (this.#timed) return;
        this.#timed = true;
        time.after(head.at - time.now, () => {
          this.#timed = false;
          this.pump();
        });
        return;
      }
      this.#wire.shift();
      this.#wireBytes -= head.bytes?.length ?? 0;
      this.other.#arrived(head.bytes);
    }
    if (this.#left) this.#later(() => this.flush());
  }

  #arrived(bytes: Buffer | null): void {
    if (this.#silent || this.#destroyed) {
      // Nobody is there for this connection (any more): the machine says so, if it is up.
      if (bytes === null || this.other.#destroyed || !this.#net.up(this.from)) return;
      this.#net.time.after(this.#net.delay(this.from, this.to), () => {
        if (!this.#net.blocked(this.from, this.to)) this.other.reset('the peer knows nothing of this connection');
      });
      return;
    }
    this.process.run(() => {
      if (this.#destroyed) return;
      if (bytes === null) {
        this.#peerEnded = true;
      } else {
        this.#net.trace(`${this.from}<${this.to} ${bytes.length}`);
        this.#inbox = this.#inbox.length === 0 ? bytes : Buffer.concat([this.#inbox, bytes]);
      }
      this.#offer();
    });
  }

  #offer(): void {
    if (this.#destroyed || this.#paused || this.#handler === null || this.#offering) return;
    if (this.#inbox.length > 0) {
      const slab = new SimSlab(Buffer.concat([Buffer.alloc(3, 0xee), this.#inbox]));
      this.#offering = true;
      const consumed = this.#handler.received(slab, 3, slab.bytes.length);
      this.#offering = false;
      this.#inbox = Buffer.from(slab.bytes.subarray(3 + consumed));
      slab.release();
      this.other.pump();
    }
    if (this.#destroyed || this.#paused || !this.#peerEnded) return;
    this.#peerEnded = false;
    this.#handler.ended();
    if (this.#endSent) this.#close(null);
  }

  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#later(() => this.#offer());
  }

  end(): void {
    if (this.#ending || this.#destroyed) return;
    this.#ending = true;
    this.#later(() => {
      if (this.#destroyed) return;
      if (this.#queued > 0) this.flush();
      else this.#sendEnd();
    });
  }
  #sendEnd(): void {
    if (this.#endSent) return;
    this.#endSent = true;
    this.#send(null);
  }

  destroy(error?: Error): void {
    if (this.#destroyed) return;
    if (!this.#endSent) this.#sendEnd();
    this.#close(error ?? null);
  }

  /** The system ends it: with what was not delivered. */
  reset(why: string): void {
    if (this.#destroyed) return;
    this.#wire = [];
    this.#wireBytes = 0;
    this.process.run(() => this.#close(new HoldfastError('UNAVAILABLE', why)));
  }

  /** Its process is gone. */
  abandoned(silent: boolean): void {
    if (this.#destroyed) return;
    this.#silent = silent;
    this.#destroyed = true;
    this.#queue = [];
    this.#queued = 0;
    if (silent) {
      this.#wire = [];
      this.#wireBytes = 0;
    } else if (!this.#endSent) this.#sendEnd();
    this.#net.forget(this);
  }

  #close(error: Error | null): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#queue = [];
    this.#queued = 0;
    this.#inbox = Buffer.alloc(0);
    this.#net.forget(this);
    this.#later(() => {
      if (this.#closedTold) return;
      this.#closedTold = true;
      this.#handler?.closed(error);
    });
  }

  #later(fn: () => void): void {
    this.#net.time.after(0, () => this.process.run(fn));
  }
}
