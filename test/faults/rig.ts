// What faults strike: a cluster, the loads on it, and how to look at both.

import { realpathSync } from 'node:fs';
import { realClock, type VolumeId } from '../../src/base/index.js';
import { askHolder } from '../../src/platform/attach/control-client.js';
import { attachPaths } from '../../src/platform/attach/paths.js';
import type { AttachStatus } from '../../src/platform/index.js';
import type { TestNode, TestVolume } from '../lib/csi-cluster.js';
import type { FaultCluster } from './cluster.js';
import type { Load } from './loads/load.js';

const wholeMs = 120_000;
const pollMs = 60;
const holderMs = 5_000;

export class Rig {
  readonly cluster: FaultCluster;
  readonly loads: readonly Load[];
  readonly say: (text: string) => void;
  /** Makes what lies outside of the loads' own reproducible: names of volumes. */
  volumes = 0;

  constructor(cluster: FaultCluster, loads: readonly Load[], say: (text: string) => void) {
    this.cluster = cluster;
    this.loads = loads;
    this.say = say;
  }

  get nodes(): readonly TestNode[] {
    return this.cluster.nodes;
  }

  node(id: string): TestNode {
    return this.nodes.find((one) => one.id === id)!;
  }

  loadsAt(node: string): Load[] {
    return this.loads.filter((load) => load.node.id === node);
  }

  /** Throws when any load met an error. */
  check(): void {
    for (const load of this.loads) load.check();
  }

  sleep(ms: number): Promise<void> {
    return realClock.sleep(ms);
  }

  /** Until every volume serves with all of its replicas in sync, and the processes answer. Throws with what is missing. */
  async whole(): Promise<number> {
    const startMs = realClock.monotonicMs();
    for (;;) {
      this.check();
      const missing = await this.#missing();
      const tookMs = realClock.monotonicMs() - startMs;
      if (missing === '') return tookMs;
      if (tookMs > wholeMs) throw new Error(`not whole ${wholeMs / 1000} s after everything was healed: ${missing}`);
      await realClock.sleep(pollMs);
    }
  }

  async #missing(): Promise<string> {
    for (const service of this.cluster.services) if (service.pid === 0) return `${service.name} does not run`;
    const notWhole = await Promise.all(this.loads.map((load) => this.notWhole(load.node, load.volume)));
    const volumes = notWhole.map((why, i) => (why === '' ? '' : `${this.loads[i]!.name}: ${why}`)).filter(Boolean);
    if (volumes.length > 0) return volumes.join('; ');
    return (await this.cluster.answers()) ? '' : 'controller or a node plugin does not answer';
  }

  async until(what: string, test: () => Promise<boolean>, withinMs = 60_000): Promise<void> {
    for (const endMs = realClock.monotonicMs() + withinMs; !(await test()); await realClock.sleep(pollMs)) {
      if (realClock.monotonicMs() > endMs) throw new Error(`not within ${withinMs / 1000} s: ${what}`);
    }
  }

  /** Empty when the volume serves with all replicas in sync. */
  async notWhole(node: TestNode, volume: TestVolume): Promise<string> {
    const status = await this.cluster.status(node, volume, 1_000).catch((error: Error) => error);
    if (status instanceof Error) return status.message;
    if (status === undefined) return 'not open';
    if (status.state !== 'serving') return `${status.state} ${status.message}`;
    const absent = status.replicas.filter(({ state }) => state !== 'in-sync');
    return absent.map(({ node_id, state, message }) => `${node_id} ${state} ${message}`.trim()).join(', ');
  }

  /** The holder of a volume that is attached, with its bridge. */
  async holder(node: TestNode, volume: TestVolume): Promise<{ readonly pid: number; readonly bridgePid: number }> {
    const { socket } = attachPaths(realpathSync(node.runDir), volume.id as VolumeId);
    return (await askHolder(socket, { op: 'status' }, holderMs)) as AttachStatus;
  }
}

/** What a strike tells of itself. */
export interface Struck {
  /** For the log. */
  readonly what: string;
  /** Nodes that were hit: engines and replicas there. */
  readonly victims: readonly string[];
  /** Milliseconds from each order to attach elsewhere to the first write acknowledged there. */
  readonly failovers?: readonly number[];
  /** Loads whose time without an answer says nothing: they were stopped on purpose. */
  readonly unjudged?: readonly Load[];
  /** Violations that the load's own checks can't see. */
  readonly checked?: string;
}
