// An engine rig whose replicas lie in real pools in a temporary directory: for what reads pools without the processes that made them.

import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type NodeId, realClock, realRandom, silentLogger, wrapDataKey } from '../../src/base/index.js';
import type { Engine, EngineOptions } from '../../src/engine/index.js';
import { ReplicaHost } from '../../src/replica/index.js';
import { NodeDisk, Pool, SuperblockStore } from '../../src/segment/index.js';
import { EngineRig, rigLineage, rigVolume } from './engine-rig.js';

interface PoolNode {
  readonly path: string;
  pool: Pool | null;
  host: ReplicaHost | null;
}

export class PoolRig extends EngineRig {
  readonly root = mkdtempSync(join(tmpdir(), 'hfpools-'));
  readonly nodes: PoolNode[] = [];
  readonly wrappingKey = realRandom.bytes(32);

  static async make(count: number, encrypted = false): Promise<PoolRig> {
    const rig = new PoolRig(count, { encrypted });
    if (rig.dataKey !== null)
      rig.volume = { wrappedKey: wrapDataKey(rig.dataKey, rig.wrappingKey, rigLineage, realRandom) };
    const encryption = encrypted ? 'aes-256-gcm' : 'none';
    for (let i = 0; i < count; i++) {
      const path = join(rig.root, `n${i}`);
      mkdirSync(path);
      const disk = new NodeDisk();
      await Pool.format(disk, path, { nodeId: `n${i}` as NodeId, random: realRandom, clock: realClock });
      rig.nodes.push({ path, pool: null, host: null });
      await rig.start(i);
      const { replicaId, incarnationId } = rig.members()[i]!;
      await rig.nodes[i]!.host!.create({
        ...{ volumeId: rigVolume, lineageId: rigLineage, replicaId, incarnationId, poolId: rig.nodes[i]!.pool!.id },
        sizeBytes: rig.options.sizeBytes,
        parameters: { name: 'pvc-rescue', replicas: String(count), encryption, compression: 'lz4' },
        members: rig.members().map(({ replicaId, incarnationId }) => ({ replicaId, incarnationId })),
        setVersion: 1,
      });
    }
    return rig;
  }

  /** The daemon of a node, as far as replicas need one. */
  async start(i: number): Promise<void> {
    const node = this.nodes[i]!;
    node.pool = await Pool.open(new NodeDisk(), node.path, { nodeId: `n${i}` as NodeId, exclusive: true });
    const stopEngine = async () => false;
    node.host = new ReplicaHost({ pools: [node.pool], stopEngine, clock: realClock, logger: silentLogger });
  }

  async stop(i: number): Promise<void> {
    const node = this.nodes[i]!;
    await node.host?.close();
    node.pool?.close();
    node.host = null;
    node.pool = null;
  }

  async stopAll(): Promise<void> {
    for (let i = 0; i < this.nodes.length; i++) await this.stop(i);
  }

  async remove(): Promise<void> {
    await this.stopAll();
    rmSync(this.root, { recursive: true, force: true });
  }

  override open(overrides: Partial<EngineOptions> = {}): Promise<Engine> {
    return super.open({
      connector: {
        connect: async ({ replicaId, nodeId }) => {
          await new Promise((resolve) => setImmediate(resolve));
          const { host } = this.nodes[Number(nodeId.slice(1))]!;
          if (host === null) throw new Error(`${nodeId} does not answer`);
          return host.localPort(rigVolume, replicaId);
        },
      },
      ...overrides,
    });
  }

  /** As after a power loss: nothing proves that what was not synced is still there. */
  async losePageCache(i: number): Promise<void> {
    const store = SuperblockStore.open(new NodeDisk(), this.directory(i));
    await store.update({ ...store.current, cache: null });
  }

  paths(...indexes: number[]): string[] {
    return indexes.map((i) => this.nodes[i]!.path);
  }
  directory(i: number): string {
    return join(this.nodes[i]!.path, 'replicas', rigVolume);
  }
  /** Oldest first. */
  segments(i: number): string[] {
    const names = readdirSync(this.directory(i)).filter((name) => name.endsWith('.seg'));
    return names.sort((a, b) => (a.slice(13) < b.slice(13) ? -1 : 1)).map((name) => join(this.directory(i), name));
  }

  /** Every name, length, time of change and byte in the pools. */
  digest(): string {
    const hash = createHash('sha256');
    for (const path of readdirSync(this.root, { recursive: true, encoding: 'utf8' }).sort()) {
      const stat = statSync(join(this.root, path));
      hash.update(`${path} ${stat.mode} ${stat.ino} ${stat.size} ${stat.mtimeMs} ${stat.ctimeMs}\n`);
      if (stat.isFile()) hash.update(readFileSync(join(this.root, path)));
    }
    return hash.digest('hex');
  }
}
