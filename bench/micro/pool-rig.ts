// An engine whose replicas are real: each in a pool of its own on disk; the first one local, the others behind the replica
// protocol over loopback TCP, as on other nodes. All in this process, so that one CPU profile shows what a write costs.

import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type NodeId, realClock, realRandom, silentLogger } from '../../src/base/index.js';
import type { Engine, ReplicaConnector } from '../../src/engine/index.js';
import { ReplicaHost } from '../../src/replica/index.js';
import { NodeDisk, Pool } from '../../src/segment/index.js';
import { openNet, type StreamNet } from '../../src/transport/index.js';
import { connectReplica, WireServer } from '../../src/wire/index.js';
import { EngineRig, rigLineage, rigVolume } from '../../test/lib/engine-rig.js';

const CONNECT_MS = 5_000;

export interface PoolEngine {
  readonly engine: Engine;
  close(): Promise<void>;
}

interface Node {
  readonly host: ReplicaHost;
  readonly server: WireServer;
  readonly pool: Pool;
}

async function startNode(net: StreamNet, directory: string, nodeId: NodeId): Promise<Node> {
  const path = join(directory, nodeId);
  const disk = new NodeDisk();
  if (!existsSync(path)) {
    mkdirSync(path, { recursive: true });
    await Pool.format(disk, path, { nodeId, random: realRandom, clock: realClock });
  }
  const pool = await Pool.open(disk, path, { nodeId, exclusive: true });
  const common = { clock: realClock, logger: silentLogger };
  const host = new ReplicaHost({ ...common, pools: [pool], stopEngine: async () => false });
  const server = await WireServer.listen(net, '127.0.0.1:0', { ...common, source: host, nodeId });
  return { host, server, pool };
}

export interface PoolVolume {
  readonly replicas: number;
  readonly sizeBytes: number;
  readonly encrypted: boolean;
  readonly compression: 'lz4' | 'none';
  /** Of the engine; above every one that had this volume before. */
  readonly epoch: number;
}

/** A new, encrypted, compressed volume. */
export function newVolume(replicas: number, sizeBytes: number): PoolVolume {
  return { replicas, sizeBytes, encrypted: true, compression: 'lz4', epoch: 1 };
}

/** Opens a volume over pools below `directory`, which are made, with its replicas, when they are not there. */
export async function openOnPools(directory: string, volume: PoolVolume): Promise<PoolEngine> {
  const { replicas, sizeBytes } = volume;
  const net = openNet(realClock);
  const rig = new EngineRig(replicas, volume);
  rig.epoch = volume.epoch - 1;
  rig.volume = { compression: volume.compression };
  const members = rig.members();
  const nodes: Node[] = [];
  for (const { nodeId, replicaId, incarnationId } of members) {
    const node = await startNode(net, directory, nodeId);
    nodes.push(node);
    await node.host.create({
      volumeId: rigVolume,
      lineageId: rigLineage,
      replicaId,
      incarnationId,
      poolId: node.pool.id,
      sizeBytes,
      parameters: {},
      members: members.map((member) => ({ replicaId: member.replicaId, incarnationId: member.incarnationId })),
      setVersion: 1,
    });
  }
  const connector: ReplicaConnector = {
    connect({ replicaId, nodeId }) {
      const index = members.findIndex((member) => member.replicaId === replicaId);
      const node = nodes[index]!;
      if (index === 0) return node.host.localPort(rigVolume, replicaId);
      const parts = { clock: realClock, random: realRandom, logger: silentLogger };
      const target = { ...parts, volumeId: rigVolume, replicaId, nodeId };
      return connectReplica(net, node.server.address, target, CONNECT_MS);
    },
  };
  const engine = await rig.open({ connector });
  const close = async () => {
    await engine.close();
    for (const node of nodes) {
      await node.server.close();
      await node.host.close();
      node.pool.close();
    }
  };
  return { engine, close };
}
