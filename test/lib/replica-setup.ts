// A pool with one volume's replica on a recording disk, and ports to it.

import {
  type IncarnationId,
  type NodeId,
  type PoolId,
  type ReplicaId,
  realClock,
  realRandom,
  silentLogger,
  type VolumeId,
  zeroUuid,
} from '../../src/base/index.js';
import type { Reign } from '../../src/format/index.js';
import { type CreateReplica, type LocalReplica, ReplicaHost, type RetireReplica } from '../../src/replica/index.js';
import { type Disk, Pool } from '../../src/segment/index.js';
import type { ReplicaPort, ReplicaStatus } from '../../src/wire/index.js';
import { lineageA, volumeA } from './frame-maker.js';
import { RecordingDisk } from './recording-disk.js';

export const nodeA = 'node-a' as NodeId;
export const replicaA = '0b000000-0000-4000-8000-000000000001' as ReplicaId;
export const incarnationA = '0c000000-0000-4000-8000-000000000001' as IncarnationId;

export function createOrder(pool: Pool, changes: Partial<CreateReplica> = {}): CreateReplica {
  return {
    volumeId: volumeA,
    lineageId: lineageA,
    replicaId: replicaA,
    incarnationId: incarnationA,
    poolId: pool.id,
    sizeBytes: 1 << 30,
    parameters: { replicas: '1' },
    members: [{ replicaId: replicaA, incarnationId: incarnationA }],
    setVersion: 1,
    ...changes,
  };
}

/** From a store that knows all that there is. */
export function retireOrder(changes: Partial<RetireReplica> = {}): RetireReplica {
  return {
    volumeId: volumeA,
    replicaId: replicaA,
    poolId: zeroUuid as PoolId,
    epoch: 1_000,
    setVersion: 1_000,
    ...changes,
  };
}

export async function openHost(
  disk: Disk,
  stopEngine: (volumeId: VolumeId, reign: Reign) => Promise<boolean> = async () => false,
): Promise<{ pool: Pool; host: ReplicaHost }> {
  const pool = await Pool.open(disk, '/pool', { nodeId: nodeA, exclusive: true });
  const host = new ReplicaHost({ pools: [pool], stopEngine, clock: realClock, logger: silentLogger });
  return { pool, host };
}

/** A formatted pool with an empty replica of volume A. */
export async function freshHost(
  disk = new RecordingDisk(),
): Promise<{ disk: RecordingDisk; pool: Pool; host: ReplicaHost }> {
  disk.prepareDirectory('/pool');
  await Pool.format(disk, '/pool', { nodeId: nodeA, random: realRandom, clock: realClock });
  const opened = await openHost(disk);
  await opened.host.create(createOrder(opened.pool));
  return { disk, ...opened };
}

export interface Heard {
  appended: number;
  acks: number;
  lost: Error | null;
}

/** Listens at a port and fences it. */
export async function fenced<P extends ReplicaPort>(
  port: P,
  reign: Reign,
): Promise<{ port: P; status: ReplicaStatus; heard: Heard }> {
  const heard = hear(port);
  return { port, status: await port.fence(reign), heard };
}

export function hear(port: ReplicaPort): Heard {
  const heard: Heard = { appended: 0, acks: 0, lost: null };
  port.listen({
    appended: (seq) => {
      heard.appended = seq;
      heard.acks++;
    },
    lost: (error) => {
      if (heard.lost !== null) throw new Error('lost twice');
      heard.lost = error;
    },
  });
  return heard;
}

export async function localPort(
  host: ReplicaHost,
  reign: Reign,
): Promise<{ port: LocalReplica; status: ReplicaStatus; heard: Heard }> {
  return await fenced(await host.localPort(volumeA, replicaA), reign);
}

export function synced(port: ReplicaPort, seq = Number.MAX_SAFE_INTEGER): Promise<void> {
  return new Promise((resolve, reject) => port.sync(seq, (error) => (error ? reject(error) : resolve())));
}

export function readBytes(
  port: ReplicaPort,
  segment: { epoch: number; ordinal: number },
  offset: number,
  length: number,
): Promise<Buffer> {
  const into = Buffer.alloc(length);
  return new Promise((resolve, reject) =>
    port.read([{ segment, offset, into }], (error) => (error ? reject(error) : resolve(into))),
  );
}
