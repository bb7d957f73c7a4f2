// Finishes deletions. A record in state `deleting` is the promise that the thing goes; the steps here may be cut short
// anywhere and are repeated by the reconcile loop until nothing is left:
// - a volume with snapshots is kept for them (snapshots-only); without, every replica ever named is retired, then the record goes;
// - a snapshot is deleted by its volume's engine, then the record goes, and with the last one a volume kept for it;
// - a group goes after its members.
// No step waits for a node that is silent: it fails with a sentence and is tried again.

import { type GroupId, type Logger, messageOf, type SnapshotId, unavailable, type VolumeId } from '../base/index.js';
import { type GroupRecord, keyOf, type ReplicaRecord, type VolumeRecord } from '../meta/index.js';
import type { Daemons } from './daemons.js';
import { type EngineOrders, isUnreachable } from './engine-orders.js';
import { ORDER_DEADLINE_MS } from './limits.js';
import type { Nodes, NodeView } from './nodes.js';
import type { Records, SnapshotEntry } from './records.js';
import { cloneSnapshotId, knownOf, wasReady } from './volume-state.js';

export interface TombstonesOptions {
  readonly records: Records;
  readonly daemons: Daemons;
  readonly nodes: Nodes;
  readonly orders: EngineOrders;
  readonly logger: Logger;
}

export class Tombstones {
  readonly #options: TombstonesOptions;

  constructor(options: TombstonesOptions) {
    this.#options = options;
  }

  /** As volume(), but a failure is only logged: the tombstone stands, the loop goes on. */
  tryVolume(id: VolumeId): Promise<void> {
    return this.#attempt('volume', id, () => this.volume(id));
  }

  trySnapshot(id: SnapshotId): Promise<void> {
    return this.#attempt('snapshot', id, () => this.snapshot(id));
  }

  tryGroup(id: GroupId): Promise<void> {
    return this.#attempt('group snapshot', id, () => this.group(id));
  }

  /** Throws UNAVAILABLE naming the replicas that could not be retired yet. */
  async volume(id: VolumeId): Promise<void> {
    const { records, logger } = this.#options;
    const record = await records.volume(id);
    if (record?.state !== 'deleting') return;
    if (await records.hasSnapshots(id)) {
      await this.#move(id, 'deleting', 'snapshots-only');
      return;
    }
    const nodes = await this.#options.nodes.list();
    await this.dropCloneSnapshot(record);
    await this.#closeEngine(record, nodes);
    const source = record.source === undefined ? undefined : await records.volume(record.source.sourceVolumeId);
    const known = knownOf(record, source);
    const retire = (replica: ReplicaRecord) => this.#retire({ volume_id: id, ...known }, replica, nodes);
    const results = await Promise.allSettled(record.replicas.map(retire));
    const open = results.flatMap((result) => (result.status === 'rejected' ? [messageOf(result.reason)] : []));
    if (open.length > 0)
      throw unavailable(`${open.length} of ${record.replicas.length} replicas are not retired: ${open.join('; ')}`);
    await records.change<VolumeRecord>(keyOf.volume(id), (now) => (now.state === 'deleting' ? undefined : 'unchanged'));
    logger.info({ volume: id }, 'volume deleted');
  }

  async snapshot(id: SnapshotId): Promise<void> {
    const { records, orders, logger } = this.#options;
    const snapshot = await records.snapshot(id);
    if (snapshot?.state !== 'deleting') return;
    // A deletion of the volume that was cut short decides first whether the volume is kept for its snapshots.
    await this.volume(snapshot.volumeId);
    const volume = await records.volume(snapshot.volumeId);
    if (volume !== undefined && wasReady(volume)) {
      const forget = { volume_id: volume.id, snapshot_id: id };
      await orders.give(volume.id, `deleting snapshot ${id}`, (engine) =>
        engine.DeleteSnapshot(forget, { deadlineMs: ORDER_DEADLINE_MS }),
      );
    }
    await records.change<SnapshotEntry>(keyOf.snapshot(id), (now) =>
      now.state === 'deleting' ? undefined : 'unchanged',
    );
    logger.info({ snapshot: id, volume: snapshot.volumeId }, 'snapshot deleted');
    await this.lastSnapshotGone(snapshot.volumeId);
  }

  /** Lets a volume that was kept for its snapshots go with the last of them. */
  async lastSnapshotGone(id: VolumeId): Promise<void> {
    const { records } = this.#options;
    const volume = await records.volume(id);
    if (volume?.state !== 'snapshots-only' || (await records.hasSnapshots(id))) return;
    await this.#move(id, 'snapshots-only', 'deleting');
    await this.tryVolume(id);
  }

  async group(id: GroupId): Promise<void> {
    const { records, logger } = this.#options;
    const group = await records.group(id);
    if (group?.state !== 'deleting') return;
    for (const member of group.members) {
      await records.change<SnapshotEntry>(keyOf.snapshot(member.snapshotId), (now) =>
        now.state === 'deleting' ? 'unchanged' : { ...now, state: 'deleting' },
      );
    }
    const results = await Promise.allSettled(group.members.map((member) => this.snapshot(member.snapshotId)));
    const open = results.flatMap((result) => (result.status === 'rejected' ? [messageOf(result.reason)] : []));
    if (open.length > 0)
      throw unavailable(`${open.length} of ${group.members.length} members are not deleted: ${open.join('; ')}`);
    await records.change<GroupRecord>(keyOf.group(id), (now) => (now.state === 'deleting' ? undefined : 'unchanged'));
    logger.info({ group: id }, 'group snapshot deleted');
  }

  async #attempt(what: string, id: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.logger.warn(
        { [what.split(' ')[0]!]: id, error: messageOf(error) },
        `deletion of a ${what} is not finished`,
      );
    }
  }

  async #move(id: VolumeId, from: VolumeRecord['state'], to: VolumeRecord['state']): Promise<void> {
    await this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) =>
      now.state === from ? { ...now, state: to } : 'unchanged',
    );
  }

  /** Best effort: an engine whose replicas are gone stops by itself, but a closed one stops without errors. */
  async #closeEngine(record: VolumeRecord, nodes: readonly NodeView[]): Promise<void> {
    const node = nodes.find((known) => known.id === record.engine?.nodeId);
    if (node === undefined || node.silentMs !== undefined) return;
    try {
      const request = { volume_id: record.id, epoch: 0 };
      await this.#options.daemons.volume(node).Close(request, { deadlineMs: ORDER_DEADLINE_MS });
    } catch (error) {
      if (!isUnreachable(error)) throw error;
    }
  }

  async #retire(
    known: { volume_id: VolumeId; epoch: number; set_version: number },
    replica: ReplicaRecord,
    nodes: readonly NodeView[],
  ): Promise<void> {
    const node = nodes.find((known) => known.id === replica.nodeId);
    if (node === undefined) throw unavailable(`node ${replica.nodeId} is not registered`);
    if (node.silentMs !== undefined)
      throw unavailable(`node ${node.id} has been silent for ${Math.round(node.silentMs / 1000)} s`);
    const request = { ...known, replica_id: replica.id, pool_id: replica.poolId };
    await this.#options.daemons.replica(node).Retire(request, { deadlineMs: ORDER_DEADLINE_MS });
  }

  /** The snapshot that a clone of a volume started from, once the clone is made or given up. */
  async dropCloneSnapshot(clone: VolumeRecord): Promise<void> {
    if (clone.source?.kind !== 'volume') return;
    const id = cloneSnapshotId(clone.id);
    const dropped = await this.#options.records.change<SnapshotEntry>(keyOf.snapshot(id), (now) =>
      now.state === 'deleting' ? 'unchanged' : { ...now, state: 'deleting' },
    );
    if (dropped !== undefined) await this.trySnapshot(id);
  }
}
