// Replicas come and go at random under writes, with broken connections, a store that does not answer and engines that die. At any moment
// any one member of the in-sync set is enough: opened alone it shows everything that was acknowledged. What has left is deleted at once.

import { describe, expect, it } from 'vitest';
import { HoldfastError, type IncarnationId, type NodeId, type ReplicaId } from '../../../src/base/index.js';
import type { Engine, EngineMember } from '../../../src/engine/index.js';
import { EngineRig, read, request, rigLineage, rigVolume, seeded } from '../../lib/engine-rig.js';
import { emptySuperblock, MemoryReplica, memoryConnector } from '../../lib/memory-replica.js';

const BLOCKS = 64;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The record of the volume, as control and agent keep it, and the replicas that it names. */
class Cluster {
  readonly rig = new EngineRig(2);
  readonly random: () => number;
  readonly leaving = new Set<ReplicaId>();
  /** What was acknowledged last, and what may have been written after it. */
  readonly acknowledged = new Map<number, number>();
  readonly possible = new Map<number, Set<number>>();
  readonly reached = { joined: 0, left: 0, opened: 0 };
  engine: Engine | undefined;
  #made = 0;
  #value = 0;

  constructor(seed: number) {
    this.random = seeded(seed);
  }

  pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.random() * from.length)]!;
  }

  members(): EngineMember[] {
    return this.rig.replicas
      .map(({ superblock, nodeId }) => ({
        replicaId: superblock.replicaId,
        incarnationId: superblock.incarnationId,
        nodeId,
        inSync: this.rig.inSync.includes(superblock.replicaId),
        lost: false,
        leaving: this.leaving.has(superblock.replicaId),
      }))
      .filter((member) => member.inSync || !member.leaving);
  }

  follow(): void {
    if (this.engine !== undefined && !this.engine.closed)
      this.engine.follow(this.members(), { replicas: 1, minReplicas: 1 });
  }

  add(): void {
    if (this.rig.replicas.length >= 5) return;
    const tail = String(++this.#made).padStart(10, '0');
    const ids = {
      replicaId: `30000000-0000-4000-8000-9${tail}0` as ReplicaId,
      incarnationId: `40000000-0000-4000-8000-9${tail}0` as IncarnationId,
      nodeId: `m${this.#made}` as NodeId,
    };
    const { sizeBytes } = this.rig.options;
    const blank = emptySuperblock({ volumeId: rigVolume, lineageId: rigLineage, sizeBytes, ...ids });
    this.rig.replicas.push(new MemoryReplica({ ...blank, joining: true }));
    this.follow();
  }

  /** As control does: only when another one is in sync and stays. */
  leave(): void {
    const staying = this.rig.inSync.filter((id) => !this.leaving.has(id));
    const { replicaId } = this.pick(this.rig.replicas).superblock;
    if (staying.filter((id) => id !== replicaId).length === 0) return;
    this.leaving.add(replicaId);
    this.follow();
  }

  /** Deletes what has left. */
  retire(): void {
    for (const replica of [...this.rig.replicas]) {
      const { replicaId } = replica.superblock;
      if (!this.leaving.has(replicaId) || this.rig.inSync.includes(replicaId)) continue;
      replica.reachable = false;
      replica.disconnect();
      this.rig.replicas.splice(this.rig.replicas.indexOf(replica), 1);
      this.reached.left++;
      this.follow();
    }
  }

  write(): void {
    const { engine } = this;
    if (engine === undefined || engine.closed) return;
    const block = Math.floor(this.random() * BLOCKS);
    const value = ++this.#value;
    const could = this.possible.get(block) ?? new Set();
    this.possible.set(block, could.add(value));
    const data = Buffer.alloc(4096);
    data.writeUInt32LE(value);
    void request(engine, 'write', block * 4096, 4096, data).then((error) => {
      if (error !== null || (this.acknowledged.get(block) ?? 0) > value) return;
      this.acknowledged.set(block, value);
    });
  }

  /** The engine dies; another one opens from one member of the set alone. */
  async reopen(): Promise<void> {
    this.engine?.depose('the node died');
    this.rig.storeDown = false;
    await sleep(5);
    const survivor = this.pick(this.rig.inSync);
    for (const replica of this.rig.replicas) {
      replica.paused = false;
      replica.disconnect();
      replica.reachable = replica.superblock.replicaId === survivor;
    }
    const connector = memoryConnector(this.rig.replicas, 'n0' as NodeId);
    let opening = true;
    this.engine = await this.rig.open({
      members: this.members(),
      connector: {
        connect: async (member, timeoutMs) => {
          // Not waited for, as one that is only away would be.
          if (opening && member.replicaId !== survivor) throw new HoldfastError('DATA_LOSS', 'kept away');
          return connector.connect(member, timeoutMs);
        },
      },
    });
    opening = false;
    this.reached.opened++;
    for (let block = 0; block < BLOCKS; block++) {
      const found = (await read(this.engine, block * 4096, 4096)).readUInt32LE();
      const least = this.acknowledged.get(block) ?? 0;
      expect(found, `block ${block} opened from ${survivor} alone`).toBeGreaterThanOrEqual(least);
      if (found > 0) expect(this.possible.get(block)!.has(found)).toBe(true);
      this.acknowledged.set(block, found);
    }
    for (const replica of this.rig.replicas) replica.reachable = true;
  }

  async step(): Promise<void> {
    const chance = this.random();
    const before = this.rig.inSync.length;
    if (chance < 0.55) for (let i = 0; i < 8; i++) this.write();
    else if (chance < 0.65) this.add();
    else if (chance < 0.77) this.leave();
    else if (chance < 0.85) this.pick(this.rig.replicas).disconnect();
    else if (chance < 0.92) this.rig.storeDown = !this.rig.storeDown;
    else if (chance < 0.96) await sleep(150);
    else await this.reopen();
    await sleep(this.random() * 12);
    if (this.rig.inSync.length > before) this.reached.joined++;
    this.retire();
  }
}

describe('replicas that come and go at random', () => {
  it.each([1, 2, 3])(
    'never cost what was acknowledged (seed %i)',
    async (seed) => {
      const cluster = new Cluster(seed);
      cluster.engine = await cluster.rig.open({ members: cluster.members() });
      for (let i = 0; i < 100; i++) await cluster.step();
      await cluster.reopen();
      cluster.engine.depose('the end');
      expect(cluster.reached.opened).toBeGreaterThan(1);
      expect(cluster.reached.left).toBeGreaterThan(2);
      expect(cluster.reached.joined).toBeGreaterThan(1);
    },
    60_000,
  );
});
