// What a published or staged volume looks like from this node: usage, growth, health.

import { stat } from 'node:fs/promises';
import { HoldfastError, notFound, printable, type VolumeId } from '../base/index.js';
import type { AttachStatus } from '../platform/attach/index.js';
import { type FilesystemStats, fsTypes } from '../platform/mount/index.js';
import { growDevice } from './node-stage.js';
import { isMountOf, isNodeOf, mountAt, type NodeVolumesPorts, volumeRecord } from './node-volumes.js';

export type VolumeUse =
  | ({ readonly kind: 'mount' } & FilesystemStats)
  | { readonly kind: 'block'; readonly totalBytes: number };

/** NOT_FOUND when there is no such volume, or not at `path`. */
export async function volumeUse(ports: NodeVolumesPorts, volumeId: VolumeId, path: string): Promise<VolumeUse> {
  await volumeRecord(ports, volumeId);
  const { status, isBlock } = await locate(ports, volumeId, path);
  if (isBlock) return { kind: 'block', totalBytes: status.sizeBytes };
  return { kind: 'mount', ...(await ports.filesystems.stats(path)) };
}

async function locate(
  ports: NodeVolumesPorts,
  volumeId: VolumeId,
  path: string,
): Promise<{ status: AttachStatus; isBlock: boolean; fsType: string }> {
  const status = await ports.attach.status(volumeId);
  const nowhere = notFound(`volume ${volumeId} is not at ${printable(path)} on node ${ports.nodeId}`);
  if (!status || status.devicePath === '' || !path.startsWith('/')) throw nowhere;
  const present = await mountAt(ports, path);
  if (present && isMountOf(present, status.devicePath)) {
    return { status, isBlock: isNodeOf(present, status.devicePath), fsType: present.fsType };
  }
  // A volume staged as a block device leaves no trace at its staging path; its device is named by nothing else.
  const isDevice = await stat(path).then(
    (info) => info.isBlockDevice(),
    () => false,
  );
  if (isDevice && path === status.devicePath) return { status, isBlock: true, fsType: '' };
  throw nowhere;
}

/**
 * Brings device and filesystem to the size the volume's record has. Resolves to the device's size. Errors: NOT_FOUND not at
 * `path`; OUT_OF_RANGE when the record is smaller than what is required: the controller grows it first;
 * FAILED_PRECONDITION when a mounted ext4 can't grow for lack of a privilege.
 */
export async function expandVolume(
  ports: NodeVolumesPorts,
  order: {
    readonly volumeId: VolumeId;
    readonly path: string;
    /** Of a block volume: known to the caller, or from what is at the path. */
    readonly stagingPath: string;
    readonly requiredBytes: number;
    readonly limitBytes: number;
  },
): Promise<number> {
  const record = await volumeRecord(ports, order.volumeId);
  const place = await locate(ports, order.volumeId, order.path).catch(async (error: unknown) => {
    const blockStaged = await isStagedAsBlock(ports, order.volumeId, order.path, order.stagingPath);
    if (blockStaged) return { status: blockStaged, isBlock: true, fsType: '' };
    throw error;
  });
  if (order.requiredBytes > record.sizeBytes || (order.limitBytes > 0 && record.sizeBytes > order.limitBytes)) {
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `volume ${record.id} has ${record.sizeBytes} bytes, asked are ${order.requiredBytes} to ${order.limitBytes || 'any'}: expand it at the controller first`,
    );
  }
  let sizeBytes = place.status.sizeBytes;
  if (sizeBytes < record.sizeBytes) sizeBytes = (await growDevice(ports, record)).sizeBytes;
  const fsType = fsTypes.find((known) => known === place.fsType);
  if (!place.isBlock && fsType && !place.status.readOnly) {
    await ports.filesystems.growMounted(place.status.devicePath, fsType, order.path);
  }
  return sizeBytes;
}

/** Expansion may come between stage and publish, when a block volume is nowhere but attached. */
async function isStagedAsBlock(
  ports: NodeVolumesPorts,
  volumeId: VolumeId,
  path: string,
  stagingPath: string,
): Promise<AttachStatus | undefined> {
  const status = await ports.attach.status(volumeId);
  if (!status || status.devicePath === '' || (path !== stagingPath && stagingPath !== '')) return undefined;
  const record = await volumeRecord(ports, volumeId);
  const publication = record.publications.find((one) => one.nodeId === ports.nodeId);
  const exists = await stat(path).then(
    () => true,
    () => false,
  );
  return exists && publication?.accessType === 'block' ? status : undefined;
}

export interface HealthFinding {
  readonly status: 'DEGRADED' | 'INACCESSIBLE' | 'DATA_LOSS';
  /** CamelCase. */
  readonly reason: string;
  readonly message: string;
}

/** Empty when nothing is wrong as seen from here. NOT_FOUND when there is no such volume. */
export async function volumeHealth(ports: NodeVolumesPorts, volumeId: VolumeId): Promise<HealthFinding[]> {
  await volumeRecord(ports, volumeId);
  const findings: HealthFinding[] = [];
  const attached = await ports.attach.status(volumeId);
  if (!attached) return findings;
  if (attached.state === 'failed' || attached.state === 'dead') {
    findings.push({ status: 'INACCESSIBLE', reason: 'DeviceFailed', message: attached.lastError });
  } else if (attached.state === 'orphaned') {
    findings.push({ status: 'DEGRADED', reason: 'HolderMissing', message: attached.lastError });
  } else if (attached.state === 'reconnecting') {
    const message = `I/O waits for the storage daemon: ${attached.lastError}`;
    findings.push({ status: 'INACCESSIBLE', reason: 'Reconnecting', message });
  }
  const open = await ports.daemon.status(volumeId).catch((error: unknown) => {
    if (error instanceof HoldfastError && error.code === 'UNAVAILABLE') return undefined;
    throw error;
  });
  if (!open) return findings;
  if (open.state === 'paused') findings.push({ status: 'INACCESSIBLE', reason: 'WritesPaused', message: open.message });
  if (open.state === 'failed') findings.push({ status: 'INACCESSIBLE', reason: 'EngineFailed', message: open.message });
  for (const replica of open.replicas) {
    if (replica.state === 'in-sync') continue;
    const what = `replica ${replica.replica_id} on node ${replica.node_id} is ${replica.state}`;
    const message = replica.message ? `${what}: ${replica.message}` : what;
    findings.push({
      status: 'DEGRADED',
      reason: replica.state === 'lost' ? 'ReplicaLost' : 'ReplicaNotInSync',
      message,
    });
  }
  return findings;
}

export interface StorageFinding {
  readonly status: 'STORAGE_DEGRADED' | 'STORAGE_UNREACHABLE';
  readonly reason: string;
  readonly message: string;
}

/** Of this node's storage as a whole. `problems`: what the pools report, by path. */
export async function storageHealth(
  ports: NodeVolumesPorts,
  poolProblems: () => Promise<readonly { readonly path: string; readonly problem: string }[]>,
): Promise<StorageFinding[]> {
  try {
    await ports.daemon.ping();
  } catch (error) {
    const message = `the storage daemon of node ${ports.nodeId} does not answer: ${error instanceof Error ? error.message : ''}`;
    return [{ status: 'STORAGE_UNREACHABLE', reason: 'DaemonUnreachable', message }];
  }
  try {
    return (await poolProblems()).map(({ path, problem }) => ({
      status: 'STORAGE_DEGRADED',
      reason: 'PoolProblem',
      message: `pool ${path}: ${problem}`,
    }));
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'UNAVAILABLE') throw error;
    const message = `the metadata store is not reachable: ${error.message}`;
    return [{ status: 'STORAGE_DEGRADED', reason: 'ControllerUnreachable', message }];
  }
}
