// Kills one process after the other under verified loads, and tells of each kill what it did to the loads and to the in-sync
// sets. Between two kills everything becomes whole again: the death of two at once is another promise.

import { realClock } from '../../src/base/index.js';
import { type Client, createClient, type csi, csiServices } from '../../src/rpc/index.js';
import type { DevCluster, TestNode, TestVolume } from './dev-cluster.js';
import type { VerifiedLoad } from './load/verified-load.js';

export interface LoadedVolume {
  readonly volume: TestVolume;
  /** Where it is attached. */
  readonly node: TestNode;
  readonly load: VerifiedLoad;
}

export interface Victim {
  readonly role: 'controller' | 'node' | 'storage';
  /** Empty for the controller. */
  readonly node: string;
  readonly weight: number;
}

export interface KillReport {
  readonly victim: string;
  /** By load: the longest time without an answer, ms. */
  readonly pauses: ReadonlyMap<string, number>;
  readonly wholeMs: number;
  readonly line: string;
}

const wholeTimeoutMs = 90_000;
const pollMs = 40;
/** So often a process is killed once more within this time of its restart: in the middle of its recovery. */
const twiceShare = 0.15;
const twiceWithinMs = 1_000;
const twiceMark = ', and again while it starts';

/** In-sync members of one volume over time, as its engine tells them: "123", or "-" while no engine answers. */
class SetTrace {
  readonly #cluster: DevCluster;
  readonly #loaded: LoadedVolume;
  readonly #changes: string[] = [];
  #last = '';
  #asked = 0;

  constructor(cluster: DevCluster, loaded: LoadedVolume) {
    this.#cluster = cluster;
    this.#loaded = loaded;
  }

  async look(sinceMs: number): Promise<void> {
    const asked = ++this.#asked;
    const status = await this.#cluster.status(this.#loaded.node, this.#loaded.volume, 300).catch(() => undefined);
    if (asked !== this.#asked) return;
    const inSync = (status?.replicas ?? []).filter(({ state }) => state === 'in-sync').map(({ node_id }) => node_id);
    const now =
      status?.state === 'serving'
        ? inSync
            .map((id) => id.replace(/\D/g, ''))
            .sort()
            .join('')
        : '-';
    if (now !== this.#last) this.#changes.push(`${now}@${seconds(realClock.monotonicMs() - sinceMs)}`);
    this.#last = now;
  }

  get whole(): boolean {
    return this.#last.length === this.#cluster.nodes.length;
  }

  toString(): string {
    return this.#changes.join(' ');
  }
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(2)}s`;

export class KillRun {
  readonly #cluster: DevCluster;
  readonly #loaded: readonly LoadedVolume[];
  readonly #random: () => number;
  readonly #probes = new Map<string, Client<csi.IdentityDefinition, csi.IdentityHandlers>>();
  readonly reports: KillReport[] = [];

  constructor(cluster: DevCluster, loaded: readonly LoadedVolume[], random: () => number) {
    this.#cluster = cluster;
    this.#loaded = loaded;
    this.#random = random;
    const sockets = new Map([['', `unix://${cluster.dir}/controller/csi.sock`]]);
    for (const node of cluster.nodes) sockets.set(node.id, node.csi);
    for (const [name, address] of sockets) {
      this.#probes.set(name, createClient(address, csiServices.identity(), { clock: realClock, deadlineMs: 2_000 }));
    }
  }

  close(): void {
    for (const probe of this.#probes.values()) probe.close();
  }

  pick(victims: readonly Victim[]): Victim {
    let at = this.#random() * victims.reduce((sum, { weight }) => sum + weight, 0);
    for (const victim of victims) {
      at -= victim.weight;
      if (at < 0) return victim;
    }
    return victims[0]!;
  }

  /** At a random moment: kills, waits until all is whole and every load goes on. Throws on any error of a load. */
  async kill(victim: Victim): Promise<KillReport> {
    await realClock.sleep(100 + this.#random() * 700);
    const sinceMs = realClock.wallMs();
    const twice = this.#random() < twiceShare;
    const { restartedMs, wholeMs, traces } = await this.#killAndHeal(
      victim,
      twice ? this.#random() * twiceWithinMs : null,
    );
    const healedMs = realClock.wallMs();
    for (const { load } of this.#loaded) await load.progress(healedMs);
    const pauses = new Map(this.#loaded.map(({ load }) => [load.options.name, load.longestGap(sinceMs)]));
    const title = `${this.#title(victim)}${twice ? twiceMark : ''}`;
    const pauseText = [...pauses].map(([name, ms]) => `${name} ${seconds(ms)}`).join(', ');
    const sets = this.#loaded.map(({ load }, i) => `${load.options.name} ${traces[i]}`).join('; ');
    const line = `${title}: pause ${pauseText}; started again after ${seconds(restartedMs)}, whole after ${seconds(wholeMs)}; in sync: ${sets}`;
    const report = { victim: title, pauses, wholeMs, line };
    this.reports.push(report);
    return report;
  }

  /** While the loads are paused. */
  async killIdle(victim: Victim): Promise<void> {
    await this.#killAndHeal(victim, null);
  }

  /** `againMs`: how long after its restart the process is killed once more; null: not. */
  async #killAndHeal(
    victim: Victim,
    againMs: number | null,
  ): Promise<{ restartedMs: number; wholeMs: number; traces: readonly SetTrace[] }> {
    const startMs = realClock.monotonicMs();
    const { role, node } = victim;
    let before = this.#cluster.pid(role, node);
    let again = againMs;
    const traces = this.#loaded.map((loaded) => new SetTrace(this.#cluster, loaded));
    const look = () => Promise.all(traces.map((trace) => trace.look(startMs)));
    await look();
    this.#cluster.kill(role, node);
    let restartedMs = 0;
    for (;;) {
      for (const { load } of this.#loaded) load.check();
      await look();
      const nowMs = realClock.monotonicMs() - startMs;
      if (restartedMs === 0 && this.#cluster.pid(role, node) !== before) {
        restartedMs = nowMs;
        if (again !== null) {
          await realClock.sleep(again);
          again = null;
          restartedMs = 0;
          before = this.#cluster.pid(role, node);
          this.#cluster.kill(role, node);
        }
      }
      if (restartedMs > 0 && traces.every((trace) => trace.whole) && (await this.#isUp(victim))) break;
      if (nowMs > wholeTimeoutMs) {
        throw new Error(`not whole ${seconds(nowMs)} after the kill of ${nameOf(victim)}: ${traces.join('; ')}`);
      }
      await realClock.sleep(pollMs);
    }
    return { restartedMs, wholeMs: realClock.monotonicMs() - startMs, traces };
  }

  async #isUp({ role, node }: Victim): Promise<boolean> {
    if (role === 'storage') return true;
    return this.#probes
      .get(node)!
      .Probe({})
      .then((answer) => answer.ready?.value !== false)
      .catch(() => false);
  }

  #title(victim: Victim): string {
    if (victim.role !== 'storage') return nameOf(victim);
    const attached = this.#loaded.filter(({ node }) => node.id === victim.node).map(({ load }) => load.options.name);
    return `${nameOf(victim)} (${attached.length > 0 ? `engine of ${attached.join(', ')}` : 'replicas only'})`;
  }

  /** Median and longest pause for each kind of victim, as seen by each load. */
  summary(): string {
    const kinds = new Map<string, number[]>();
    for (const { victim, pauses } of this.reports) {
      for (const [load, ms] of pauses) {
        const role = victim.split(' ')[0]!;
        const part = role !== 'storage' ? role : victim.includes(`engine of ${load}`) ? 'engine' : 'replica';
        const kind = victim.endsWith(twiceMark) ? `${part} twice` : part;
        kinds.set(kind, [...(kinds.get(kind) ?? []), ms]);
      }
    }
    return [...kinds]
      .sort()
      .map(([kind, list]) => {
        const sorted = list.toSorted((a, b) => a - b);
        return `${kind}: ${list.length} pauses, median ${seconds(sorted[Math.floor(sorted.length / 2)]!)}, longest ${seconds(sorted.at(-1)!)}`;
      })
      .join('; ');
  }
}

function nameOf({ role, node }: Victim): string {
  return node === '' ? role : `${role} ${node}`;
}
