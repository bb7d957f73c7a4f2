// A network namespace per node on a bridge of their own, so that packets can be lost in one direction as a broken switch loses them:
// the sender's neighbour table points to a hardware address that nobody has. Nothing outside the namespaces is touched.

import { spawnSync } from 'node:child_process';
import { run } from '../lib/system-needs.js';
import { controllerPlace, type Network, type Place } from './network.js';

const nowhere = '02:68:66:ff:ff:ff';
const macOf = (place: Place) => `02:68:66:00:00:${(place + 1).toString(16).padStart(2, '0')}`;
const hostOf = (place: Place) => `10.213.0.${place + 1}`;
/** Of a slow link. The queue takes what comes until it is this late. */
const slowLink = ['rate', '12mbit', 'burst', '16kb', 'latency', '150ms'];

function ip(commands: readonly string[], namespace?: string): void {
  const { status, stderr } = spawnSync('ip', [...(namespace ? ['-n', namespace] : []), '-batch', '-'], {
    input: `${commands.join('\n')}\n`,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`ip: ${stderr}`);
}

/** Why namespaces can't be had here; empty when they can. */
export function namespacesMissing(): string {
  if (process.getuid?.() !== 0) return 'not root';
  for (const tool of ['ip', 'nsenter', 'tc', 'ss'])
    if (spawnSync('which', [tool]).status !== 0) return `no ${tool} command`;
  const name = `hff-${process.pid}-try`;
  try {
    ip([`netns add ${name}`]);
    try {
      ip(['link add eth0 type veth peer name eth1', 'link add br0 type bridge'], name);
    } finally {
      ip([`netns del ${name}`]);
    }
    return '';
  } catch (error) {
    return String((error as Error).message).trim();
  }
}

export class NamespaceNetwork implements Network {
  readonly kind = 'network namespaces';
  readonly #places: number;
  readonly #prefix: string;
  readonly #slow = new Set<Place>();
  #blocked = new Set<string>();

  constructor(nodes: number) {
    this.#places = nodes + 1;
    this.#prefix = `hff-${process.pid}`;
    try {
      this.#build();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #name(place: Place | 'hub'): string {
    return `${this.#prefix}-${place === 'hub' ? place : place === controllerPlace ? 'c' : `n${place}`}`;
  }

  get #all(): Place[] {
    return Array.from({ length: this.#places }, (_, place) => place);
  }

  #build(): void {
    const hub = this.#name('hub');
    ip([`netns add ${hub}`, ...this.#all.map((place) => `netns add ${this.#name(place)}`)]);
    ip(['link add br0 type bridge', 'link set br0 up'], hub);
    for (const place of this.#all) {
      ip(
        [
          `link add eth0 netns ${this.#name(place)} address ${macOf(place)} type veth peer name p${place}`,
          `link set p${place} master br0 up`,
        ],
        hub,
      );
      ip([`link set lo up`, `addr add ${hostOf(place)}/24 dev eth0`, 'link set eth0 up'], this.#name(place));
      const others = this.#all.filter((other) => other !== place);
      ip(
        others.map((other) => `neigh replace ${hostOf(other)} lladdr ${macOf(other)} dev eth0 nud permanent`),
        this.#name(place),
      );
    }
  }

  wrap(place: Place): readonly string[] {
    return ['nsenter', `--net=/run/netns/${this.#name(place)}`];
  }

  host(place: Place): string {
    return hostOf(place);
  }

  advertised(place: Place): string {
    return hostOf(place);
  }

  async expose(): Promise<void> {}

  #point(from: Place, to: Place, mac: string): void {
    ip([`neigh replace ${hostOf(to)} lladdr ${mac} dev eth0 nud permanent`], this.#name(from));
  }

  block(from: Place, to: Place): void {
    this.#blocked.add(`${from} ${to}`);
    this.#point(from, to, nowhere);
  }

  allow(from: Place, to: Place): void {
    if (!this.#blocked.delete(`${from} ${to}`)) return;
    this.#point(from, to, macOf(to));
  }

  slow(place: Place, slow: boolean): void {
    if (slow === this.#slow.has(place)) return;
    const inside = ['-n', this.#name(place), 'qdisc', slow ? 'add' : 'del', 'dev', 'eth0', 'root'];
    const outside = ['-n', this.#name('hub'), 'qdisc', slow ? 'add' : 'del', 'dev', `p${place}`, 'root'];
    for (const side of [inside, outside]) run('tc', ...side, ...(slow ? ['tbf', ...slowLink] : []));
    if (slow) this.#slow.add(place);
    else this.#slow.delete(place);
  }

  async reset(place: Place): Promise<number> {
    const out = run('nsenter', `--net=/run/netns/${this.#name(place)}`, 'ss', '-HKtn', 'state', 'established');
    return out.split('\n').filter((line) => line.trim() !== '').length;
  }

  heal(): void {
    for (const pair of this.#blocked) {
      const [from, to] = pair.split(' ').map(Number);
      this.#point(from!, to!, macOf(to!));
    }
    this.#blocked = new Set();
    for (const place of [...this.#slow]) this.slow(place, false);
  }

  close(): void {
    for (const place of ['hub', ...this.#all] as const) spawnSync('ip', ['netns', 'del', this.#name(place)]);
  }
}
