// The agent's part of a volume's record, as pure steps: each takes the record as it stands and answers what it must become
// (for a compare-and-swap), or throws why not. See meta/records.ts for who owns which field.
//
// Opening takes two steps, so that a crash or a failure between them never loses the proof whether a former engine is
// gone: `grantReign` raises the epoch but leaves `engine` as it was; only an engine that has opened (fenced its replicas,
// waited out the former one) is written there, by `noteEngine`, before it serves anything.

import {
  assert,
  HoldfastError,
  type NodeId,
  precondition,
  type ReignId,
  type ReplicaId,
  type VolumeId,
} from '../base/index.js';
import type { Copies, EngineMember, EngineVolume, QosLimits } from '../engine/index.js';
import type { LogPoint, Reign } from '../format/index.js';
import { mayBeInSync, type Publication, type Qos, type VolumeRecord, type WrappedKeyRecord } from '../meta/index.js';

/** What an engine is opened for. */
export type Purpose = 'attached' | 'maintenance';

/** For good on this node: a holder stops trying and fails its I/O. */
export function notOurs(volumeId: VolumeId, why: string): HoldfastError {
  return new HoldfastError('FAILED_PRECONDITION', `volume ${volumeId} ${why}`, { reason: 'StaleReign' });
}

export function deposed(volumeId: VolumeId, reign: Reign): HoldfastError {
  return new HoldfastError('ABORTED', `volume ${volumeId}: reign ${reign.epoch} has been followed by another`, {
    reason: 'StaleReign',
  });
}

export function isOurs(record: VolumeRecord, reign: Reign): boolean {
  return record.epoch === reign.epoch && record.reignId === reign.reignId;
}

/** The publication that allows an attached engine here. FAILED_PRECONDITION/StaleReign when there is none. */
export function checkAttachable(record: VolumeRecord, nodeId: NodeId): Publication {
  if (record.state !== 'ready') throw notOurs(record.id, `is ${record.state}: it can't be attached`);
  const publication = record.publications.find((one) => one.nodeId === nodeId);
  if (!publication) {
    const where = record.publications.map((one) => one.nodeId).join(', ') || 'no node';
    throw notOurs(record.id, `is not published to node ${nodeId} but to ${where}: publish it here first`);
  }
  const { engine } = record;
  const attachedElsewhere = engine && !engine.maintenance && engine.nodeId !== nodeId;
  if (attachedElsewhere && record.publications.some((one) => one.nodeId === engine.nodeId)) {
    throw precondition(
      `volume ${record.id} is attached on node ${engine.nodeId} and still published there: unpublish it there first`,
      'Busy',
    );
  }
  return publication;
}

/** FAILED_PRECONDITION/Busy naming the node that has it attached: orders go there. */
export function checkMaintainable(record: VolumeRecord, nodeId: NodeId): void {
  if (record.state === 'deleting') throw precondition(`volume ${record.id} is being deleted`);
  const { engine } = record;
  // A node that is gone leaves its engine in the record; once the volume is no longer published to it, another may take over.
  const published = engine && record.publications.some((one) => one.nodeId === engine.nodeId);
  if (engine && !engine.maintenance && engine.nodeId !== nodeId && published) {
    throw precondition(`volume ${record.id} is attached on node ${engine.nodeId}: order it there`, 'Busy');
  }
}

/**
 * Whether an attach on this node, which was granted the epoch after `before`, has lost it to a maintenance engine, open or about to be: one
 * that is attached elsewhere has ended that node's turn.
 */
export function lostToMaintenance(before: VolumeRecord, now: VolumeRecord, nodeId: NodeId): boolean {
  const elsewhere = now.publications.some((one) => one.nodeId !== nodeId);
  const attached = now.engine !== null && !now.engine.maintenance && now.engine.openedMs !== before.engine?.openedMs;
  return now.epoch > before.epoch + 1 && !elsewhere && !attached;
}

/** Whether the record proves that no engine of an earlier reign runs: then no lease has to be waited out. */
export function formerEngineGone(record: VolumeRecord, nodeId: NodeId): boolean {
  // Written null only by a reign that closed its engine. On this node: the caller has no engine, and the daemon before it
  // is dead, else it would still hold this node's socket and pool locks.
  return record.engine === null || record.engine.nodeId === nodeId;
}

export function grantReign(record: VolumeRecord, reignId: ReignId, wrappedKey: WrappedKeyRecord | null): VolumeRecord {
  assert(record.inSync.length > 0, `volume ${record.id} has no in-sync replica in its record`);
  return { ...record, epoch: record.epoch + 1, reignId, wrappedKey: record.wrappedKey ?? wrappedKey };
}

/**
 * Throws ABORTED/StaleReign when another reign was granted meanwhile. With the engine goes the point at which it begins, before
 * anything is acknowledged beyond it: a log that has lost the reign's first file is told by that.
 */
export function noteEngine(
  record: VolumeRecord,
  reign: Reign,
  engine: NonNullable<VolumeRecord['engine']>,
  opening: LogPoint,
): VolumeRecord {
  if (!isOurs(record, reign)) throw deposed(record.id, reign);
  return { ...record, engine, flushedPoint: later(record.flushedPoint, opening) };
}

/** After a clean close. Undefined: nothing to change. */
export function clearEngine(record: VolumeRecord, reign: Reign): VolumeRecord | undefined {
  if (!isOurs(record, reign) || record.engine === null) return undefined;
  return { ...record, engine: null };
}

export interface SetChange {
  readonly expectedSetVersion: number;
  readonly inSync: readonly ReplicaId[];
}

/**
 * The record with the new set; undefined when that set stands already; 'deposed'; or 'conflict' when an earlier change of the
 * same reign, whose outcome its engine never learnt, has moved the version on.
 */
export function changeSet(
  record: VolumeRecord,
  reign: Reign,
  change: SetChange,
): VolumeRecord | 'deposed' | 'conflict' | undefined {
  if (!isOurs(record, reign)) return 'deposed';
  assert(change.inSync.length > 0, `an engine asked to empty the in-sync set of volume ${record.id}`);
  if (sameSet(record.inSync, change.inSync) && record.setVersion > change.expectedSetVersion) return undefined;
  if (record.setVersion !== change.expectedSetVersion) return 'conflict';
  for (const id of change.inSync) {
    const replica = record.replicas.find((one) => one.id === id);
    if (replica === undefined || !mayBeInSync(replica, record.inSync.includes(id))) {
      throw precondition(`replica ${id} of volume ${record.id} is ${replica?.state ?? 'unknown'}: it can't be in sync`);
    }
  }
  return { ...record, inSync: [...change.inSync], setVersion: record.setVersion + 1 };
}

/** Undefined: no longer ours, or marked already. */
export function markLost(
  record: VolumeRecord,
  reign: Reign,
  replicaId: ReplicaId,
  message: string,
): VolumeRecord | undefined {
  if (!isOurs(record, reign)) return undefined;
  const replica = record.replicas.find((one) => one.id === replicaId);
  if (!replica || replica.state === 'lost' || replica.state === 'leaving') return undefined;
  const lost = { ...replica, state: 'lost' as const, message: message.slice(0, 500) };
  return { ...record, replicas: record.replicas.map((one) => (one === replica ? lost : one)) };
}

export function noteFlushed(record: VolumeRecord, reign: Reign, point: LogPoint): VolumeRecord | undefined {
  if (!isOurs(record, reign)) return undefined;
  const flushedPoint = later(record.flushedPoint, point);
  return flushedPoint === record.flushedPoint ? undefined : { ...record, flushedPoint };
}

function later(known: VolumeRecord['flushedPoint'], { epoch, seq, digest }: LogPoint): VolumeRecord['flushedPoint'] {
  return known !== null && known.seq >= seq ? known : { epoch, seq, digest };
}

export function engineVolume(record: VolumeRecord): EngineVolume {
  return {
    volumeId: record.id,
    lineageId: record.lineageId,
    sizeBytes: record.sizeBytes,
    compression: record.parameters.compression,
    cipher: record.parameters.encryption,
    minReplicas: record.parameters.minReplicas,
    replicas: record.parameters.replicas,
    qos: qosLimits(record.qos),
    wrappedKey: record.wrappedKey,
  };
}

/** What an engine is told of the replicas of its volume. */
export function followOrder(record: VolumeRecord): { readonly members: EngineMember[]; readonly copies: Copies } {
  const { replicas, minReplicas } = record.parameters;
  return { members: engineMembers(record), copies: { replicas, minReplicas } };
}

export function qosLimits(qos: Qos): QosLimits {
  return {
    maxReadIops: qos.maxReadIops ?? 0,
    maxWriteIops: qos.maxWriteIops ?? 0,
    maxReadBps: qos.maxReadBps ?? 0,
    maxWriteBps: qos.maxWriteBps ?? 0,
  };
}

/** Replicas that are still being made are no members, nor are those that have left already. */
export function engineMembers(record: VolumeRecord): EngineMember[] {
  return record.replicas
    .filter(({ id, state }) => record.inSync.includes(id) || (state !== 'creating' && state !== 'leaving'))
    .map((replica) => ({
      replicaId: replica.id,
      incarnationId: replica.incarnationId,
      nodeId: replica.nodeId,
      inSync: record.inSync.includes(replica.id),
      lost: replica.state === 'lost',
      leaving: replica.state === 'leaving',
    }));
}

function sameSet(a: readonly ReplicaId[], b: readonly ReplicaId[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id));
}
