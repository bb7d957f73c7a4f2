// One replica given up by command, though its node is there: a lost one whose data is still in the way, one on a disk that nobody trusts, one
// that only its node knows of. The order is a state in the volume's record; the engine takes the replica out of the set, its data is deleted,
// and another one is made.

import {
  HoldfastError,
  type Logger,
  notFound,
  type PoolId,
  precondition,
  printable,
  type ReplicaId,
  unavailable,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import { isAbandoned, keyOf, moved, type ReplicaRecord, type VolumeRecord } from '../meta/index.js';
import type { KeyedLocks } from '../rpc/index.js';
import { isUnreachable } from './engine-orders.js';
import { isKept } from './membership-plan.js';
import type { Nodes } from './nodes.js';
import type { Records } from './records.js';
import type { Repairs } from './repairs.js';
import type { ReplicaSteps } from './replica-steps.js';
import type { Volumes } from './volumes.js';

export interface ReplacementOptions {
  readonly records: Records;
  readonly volumes: Pick<Volumes, 'find'>;
  readonly nodes: Nodes;
  readonly steps: ReplicaSteps;
  readonly repairs: Repairs;
  readonly locks: KeyedLocks;
  readonly logger: Logger;
}

export class Replacement {
  readonly #options: ReplacementOptions;

  constructor(options: ReplacementOptions) {
    this.#options = options;
  }

  /**
   * Throws FAILED_PRECONDITION for one that is in sync, for one that an accepted loss may still be gone back to, and when the volume's engine
   * shows no other one in sync.
   */
  order(volumeId: string, nodeId: string, by: string): Promise<void> {
    const { locks } = this.#options;
    return locks.run('replacing a replica', `volume ${volumeId}`, () => this.#order(volumeId, nodeId, by));
  }

  async #order(volumeId: string, nodeId: string, by: string): Promise<void> {
    const { volumes, repairs, logger } = this.#options;
    const record = await volumes.find(volumeId);
    if (!isKept(record)) throw notFound(`volume ${record.id} does not exist any more`);
    const replica = namedAt(record, nodeId);
    if (replica === undefined) await this.#deleteStray(record.id, nodeId);
    else await this.#give(record, replica, by);
    logger.warn({ volume: record.id, node: nodeId, by }, 'replica to be replaced by order');
    repairs.lookSoon(record.id);
  }

  async #give(record: VolumeRecord, replica: ReplicaRecord, by: string): Promise<void> {
    refuseGood(record, replica);
    const others = await this.#othersInSync(record.id, replica);
    await this.#options.records.change<VolumeRecord>(keyOf.volume(record.id), (now) => {
      const current = namedAt(now, replica.nodeId);
      if (!isKept(now) || current?.id !== replica.id || !others.some((id) => isInSync(now, id)))
        throw new HoldfastError('ABORTED', `volume ${record.id} was changed meanwhile; look again`, { reason: 'Busy' });
      refuseGood(now, current);
      const next = moved(current, 'leaving', `replaced by order of ${by}`);
      return { ...now, replicas: now.replicas.map((one) => (one === current ? next : one)) };
    });
  }

  /** One that the record does not name, as a node has it that was forgotten and came back: it only stands in the way of others. */
  async #deleteStray(id: VolumeId, nodeId: string): Promise<void> {
    const { volumes, nodes, steps } = this.#options;
    const node = (await nodes.list()).find((one) => one.id === nodeId);
    if (node === undefined) throw notFound(`node ${printable(nodeId)} does not exist`);
    const held = await steps.heldAt(id, node);
    if (held === null)
      throw unavailable(`node ${node.id} does not answer: it is not known what it has of volume ${id}`);
    // Read after the look: what is named since then is not taken for a stray.
    const record = await volumes.find(id);
    const isNamed = (one: { replica_id: string; pool_id: string }) =>
      record.replicas.some((replica) =>
        one.replica_id === zeroUuid ? replica.poolId === one.pool_id : replica.id === one.replica_id,
      );
    const strays = held.replicas.filter((one) => one.volume_id === id && !isNamed(one));
    if (strays.length === 0) throw notFound(`volume ${id} has no replica on node ${node.id}`);
    await this.#othersInSync(id);
    for (const { replica_id, pool_id } of strays)
      await steps.deleteAt(node, record, { id: replica_id as ReplicaId, poolId: pool_id as PoolId });
  }

  /** By the word of the volume's engine, which is opened for it if need be: record and heartbeats would not know of a disk that has died. */
  async #othersInSync(id: VolumeId, replica?: ReplicaRecord): Promise<ReplicaId[]> {
    const what = replica === undefined ? `what is there of volume ${id}` : `the replica on node ${replica.nodeId}`;
    let others: ReplicaId[];
    try {
      const states = await this.#options.steps.follow(id);
      others = states
        .filter(({ state, replica_id }) => state === 'in-sync' && replica_id !== replica?.id)
        .map(({ replica_id }) => replica_id as ReplicaId);
    } catch (error) {
      if (!isUnreachable(error)) throw error;
      throw precondition(`${what} is kept: ${(error as Error).message}`, 'TooFewReplicas');
    }
    if (others.length === 0)
      throw precondition(
        `${what} is kept: the engine of volume ${id} shows no other replica in sync`,
        'TooFewReplicas',
      );
    return others;
  }
}

function namedAt(record: VolumeRecord, nodeId: string): ReplicaRecord | undefined {
  return record.replicas.find((one) => one.nodeId === nodeId && one.state !== 'leaving');
}

function isInSync({ replicas, inSync }: VolumeRecord, id: ReplicaId): boolean {
  return inSync.includes(id) && replicas.some((one) => one.id === id && one.state === 'ok');
}

function refuseGood(record: VolumeRecord, replica: ReplicaRecord): void {
  if (isInSync(record, replica.id))
    throw precondition(
      `the replica on node ${replica.nodeId} is in sync: drain its pool, which makes another one first`,
    );
  if (replica.givenUpEpoch !== undefined && !isAbandoned(record, replica))
    throw precondition(
      `the replica on node ${replica.nodeId} was given up by an accepted loss: until volume ${record.id} has opened without it, it is all there is to go back to`,
    );
}
