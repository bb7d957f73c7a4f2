// A TCP proxy before each process: it knows who connected by the process that owns the other end, so that it can hold back what one
// place sends to another. It resets connections and delays bytes; packets it can't lose. Lives in a thread (proxy-thread.ts).

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { realClock } from '../../src/base/index.js';
import { controllerPlace, type Place } from './network.js';

export const hostOf = (place: Place) => `127.213.0.${place + 1}`;
export const proxyOf = (place: Place) => `127.213.1.${place + 1}`;
const slowMs = 40;
/** Bytes that wait in a direction that is held back; more are left to TCP. */
const heldMax = 1 << 20;

/** One direction of one connection. */
class Lane {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #closed: () => boolean;
  readonly #delayMs: () => number;
  #held: Buffer[] = [];
  #heldBytes = 0;

  constructor(from: Socket, to: Socket, closed: () => boolean, delayMs: () => number) {
    this.#from = from;
    this.#to = to;
    this.#closed = closed;
    this.#delayMs = delayMs;
    from.on('data', (bytes) => this.#take(bytes));
    from.on('end', () => to.end());
    to.on('drain', () => from.resume());
  }

  #take(bytes: Buffer): void {
    if (!this.#closed() && this.#held.length === 0 && this.#delayMs() === 0) return this.#send(bytes);
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
    if (this.#heldBytes > heldMax) this.#from.pause();
    if (!this.#closed()) realClock.after(this.#delayMs(), () => this.release());
  }

  #send(bytes: Buffer): void {
    if (!this.#to.destroyed && !this.#to.write(bytes)) this.#from.pause();
  }

  /** Sends what was held back, if the way is open. */
  release(): void {
    if (this.#closed() || this.#held.length === 0) return;
    const bytes = Buffer.concat(this.#held);
    this.#held = [];
    this.#heldBytes = 0;
    this.#from.resume();
    this.#send(bytes);
  }
}

interface Link {
  readonly client: Place;
  readonly server: Place;
  readonly sockets: readonly Socket[];
  readonly lanes: readonly Lane[];
}

export class Proxies {
  /** Of the cluster: its processes name it in their arguments. */
  readonly #dir: string;
  readonly #servers: Server[] = [];
  readonly #links = new Set<Link>();
  readonly #blocked = new Set<string>();
  readonly #slow = new Set<Place>();

  constructor(dir: string) {
    this.#dir = dir;
  }

  async expose(place: Place, port: number): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#accepted(socket, place, port));
    this.#servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, proxyOf(place), resolve);
    });
  }

  #accepted(socket: Socket, server: Place, port: number): void {
    const client = this.#owner(socket.remoteAddress!, socket.remotePort!);
    const onward = dial({ host: hostOf(server), port, allowHalfOpen: true });
    const closed = (from: Place, to: Place) => () => this.#blocked.has(`${from} ${to}`);
    const delay = () => (this.#slow.has(client) || this.#slow.has(server) ? slowMs : 0);
    const lanes = [
      new Lane(socket, onward, closed(client, server), delay),
      new Lane(onward, socket, closed(server, client), delay),
    ];
    const link: Link = { client, server, sockets: [socket, onward], lanes };
    this.#links.add(link);
    for (const one of link.sockets) {
      one.setNoDelay(true);
      one.on('error', () => {});
      one.on('close', () => {
        this.#links.delete(link);
        for (const other of link.sockets) other.resetAndDestroy();
      });
    }
  }

  /** The place whose process holds the socket with that local address. */
  #owner(address: string, port: number): Place {
    const reversed = address.split('.').map((part) => Number(part).toString(16).padStart(2, '0'));
    const local = `${reversed.reverse().join('')}:${port.toString(16).padStart(4, '0')}`.toUpperCase();
    const line = readFileSync('/proc/net/tcp', 'utf8')
      .split('\n')
      .find((one) => one.trim().split(/\s+/)[1] === local);
    const inode = line?.trim().split(/\s+/)[9];
    const owner = processesOf(this.#dir).find(({ pid }) => holds(pid, `socket:[${inode}]`));
    return owner?.place ?? -1;
  }

  block(from: Place, to: Place): void {
    this.#blocked.add(`${from} ${to}`);
  }

  allow(from: Place, to: Place): void {
    this.#blocked.delete(`${from} ${to}`);
    this.#release();
  }

  slow(place: Place, slow: boolean): void {
    if (slow) this.#slow.add(place);
    else this.#slow.delete(place);
    this.#release();
  }

  #release(): void {
    for (const { lanes } of this.#links) for (const lane of lanes) lane.release();
  }

  reset(place: Place): number {
    const links = [...this.#links].filter(({ client, server }) => client === place || server === place);
    for (const { sockets } of links) for (const socket of sockets) socket.resetAndDestroy();
    return links.length;
  }

  heal(): void {
    this.#blocked.clear();
    this.#slow.clear();
    this.#release();
  }
}

function processesOf(dir: string): { readonly pid: number; readonly place: Place }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const words = contentsOf(`/proc/${name}/cmdline`).split('\0');
      if (!words.some((word) => word.includes(`${dir}/`))) return [];
      const node = words[words.indexOf('--node-id') + 1] ?? '';
      return [
        { pid: Number(name), place: words.includes('--node-id') ? Number(node.replace(/\D/g, '')) : controllerPlace },
      ];
    });
}

/** Empty for a process that has just ended. */
function contentsOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function holds(pid: number, name: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`) === name;
      } catch {
        return false;
      }
    });
  } catch {
    return false;
  }
}
