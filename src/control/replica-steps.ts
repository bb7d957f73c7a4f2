// Carries out the steps of membership-plan.ts on one volume: names new replicas, has them made, has the engine follow the record, ends
// those that have left. No state of its own: each step reads the record, changes it by compare-and-swap, and may be repeated or cut short
// anywhere.
//
// Invariant: data is deleted only of a replica that is `leaving`, and not spare, in a record whose in-sync set does not name it. From there
// it can't come back into the set: the agents refuse it (replica-states.ts).

import {
  HoldfastError,
  type IncarnationId,
  type Logger,
  messageOf,
  type PoolId,
  type Random,
  type ReplicaId,
  unavailable,
  type VolumeId,
} from '../base/index.js';
import {
  calledBack,
  condemned,
  hasLeft,
  isAbandoned,
  keyOf,
  type LeaveReason,
  moved,
  type ReplicaRecord,
  toLeave,
  type VolumeRecord,
} from '../meta/index.js';
import type { holdfast, KeyedLocks } from '../rpc/index.js';
import type { Daemons } from './daemons.js';
import { type EngineOrders, isUnreachable } from './engine-orders.js';
import { ORDER_DEADLINE_MS } from './limits.js';
import { doomOf, isKept, type MembershipFacts, nextStep } from './membership-plan.js';
import type { Nodes, NodeView } from './nodes.js';
import { type Place, type PlacementNode, placeMore } from './placement.js';
import type { Records } from './records.js';
import type { SerialQueue } from './serial-queue.js';
import { NODE_LABEL } from './topology.js';
import { knownOf, superblockParameters } from './volume-state.js';

export interface ReplicaStepsOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly daemons: Daemons;
  readonly orders: EngineOrders;
  readonly locks: KeyedLocks;
  readonly intents: SerialQueue;
  readonly random: Random;
  readonly overcommit: number;
  readonly logger: Logger;
}

const sentences: Readonly<Record<LeaveReason, string>> = {
  surplus: 'the volume has more replicas than it should have',
  drained: 'its place is being drained',
  replaced: 'another replica has taken its place',
  'given-up': 'it could not be made',
  empty: 'nothing of it is left on its node',
  failed: 'its disk failed under it',
  abandoned: 'its loss was accepted',
};

/** Pools that lately would not take a replica of the volume, and why. */
export type RefusedPools = ReadonlyMap<PoolId, string>;

export class ReplicaSteps {
  readonly #options: ReplicaStepsOptions;

  constructor(options: ReplicaStepsOptions) {
    this.#options = options;
  }

  /** Finds places for `count` more and names them in the record. Throws RESOURCE_EXHAUSTED when there are none. */
  grow(id: VolumeId, count: number, facts: MembershipFacts, refused: RefusedPools = new Map()): Promise<void> {
    // Room is counted and promised in one step.
    return this.#options.intents.run(async () => {
      const record = await this.#options.records.volume(id);
      if (record === undefined) return;
      const places = await this.findPlaces(record, count, facts, refused);
      await this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) => {
        const step = isKept(now) ? nextStep(now, facts) : undefined;
        if (step?.kind !== 'grow' || step.count < count) return 'unchanged';
        if (places.some((at) => now.replicas.some((replica) => replica.nodeId === at.nodeId))) return 'unchanged';
        return { ...now, replicas: [...now.replicas, ...places.map((at) => this.#named(at))] };
      });
      const nodes = places.map((at) => at.nodeId);
      this.#options.logger.info({ volume: id, nodes }, 'places for new replicas found');
    });
  }

  /** Where `count` more could go now; throws RESOURCE_EXHAUSTED that says why not. `refused`: when they are to be made at once. */
  async findPlaces(
    record: VolumeRecord,
    count: number,
    facts: MembershipFacts,
    refused?: RefusedPools,
  ): Promise<Place[]> {
    const { nodes, overcommit } = this.#options;
    const { parameters, selectors, topology = [], publications, pinnedTo = [] } = record;
    const staying = record.replicas.filter(
      (replica) => replica.state !== 'leaving' && doomOf(record, replica, facts) === null,
    );
    const rules = {
      replicas: count,
      failureDomain: parameters.failureDomain,
      dataLocality: parameters.dataLocality,
      nodeSelector: selectors?.nodes ?? [],
      diskSelector: selectors?.disks ?? [],
      // Where the volume is used a copy serves reads without the network.
      wish: {
        requisite: topology,
        preferred: [...publications.map(({ nodeId }) => nodeId), ...pinnedTo].map((nodeId) => ({
          [NODE_LABEL]: nodeId,
        })),
      },
      overcommit,
    };
    const known = (await nodes.forPlacement()).map((node) =>
      refused === undefined ? node : withoutRefused(node, refused),
    );
    return placeMore(known, rules, record.sizeBytes, {
      beside: staying.map(({ nodeId }) => nodeId),
      closed: new Map(record.replicas.map((replica) => [replica.nodeId, whyClosed(record, replica)])),
    });
  }

  #named(at: Place): ReplicaRecord {
    const { random } = this.#options;
    return {
      id: random.uuid() as ReplicaId,
      nodeId: at.nodeId,
      poolId: at.poolId,
      incarnationId: random.uuid() as IncarnationId,
      state: 'creating',
    };
  }

  /** Has a named replica formatted. What no repetition mends, or what `impatient` does not wait for any longer, gives the place up. */
  async create(id: VolumeId, replicaId: ReplicaId, impatient: boolean): Promise<void> {
    try {
      // Nothing may begin to delete the volume between the look at its record and the end of the call.
      await this.#options.locks.run('a new replica', `volume ${id}`, () => this.#create(id, replicaId));
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'ABORTED') throw error;
      if (isUnreachable(error) && !impatient) throw error;
      await this.#change(id, replicaId, (replica) =>
        replica.state === 'creating'
          ? moved(replica, 'leaving', `${sentences['given-up']}: ${messageOf(error)}`)
          : null,
      );
      throw error;
    }
  }

  async #create(id: VolumeId, replicaId: ReplicaId): Promise<void> {
    const { records, nodes, daemons, logger } = this.#options;
    const record = await records.volume(id);
    const replica = record?.replicas.find((one) => one.id === replicaId);
    if (record === undefined || !isKept(record) || replica?.state !== 'creating') return;
    const node = await nodes.get(replica.nodeId);
    if (node === undefined) throw unavailable(`node ${replica.nodeId} is not registered`);
    const members = record.replicas.filter((one) => record.inSync.includes(one.id));
    const request = {
      volume_id: id,
      lineage_id: record.lineageId,
      replica_id: replicaId,
      incarnation_id: replica.incarnationId,
      pool_id: replica.poolId,
      size_bytes: record.sizeBytes,
      parameters: superblockParameters(record),
      members: members.map((one) => ({ replica_id: one.id, incarnation_id: one.incarnationId })),
      set_version: record.setVersion,
      joining: true,
    };
    await daemons.replica(node).Create(request, { deadlineMs: ORDER_DEADLINE_MS });
    await this.#change(id, replicaId, (now) => (now.state === 'creating' ? moved(now, 'ok') : null));
    logger.info({ volume: id, node: node.id, replica: replicaId }, 'new replica made, to be brought up to date');
  }

  /** Tells a replica to leave, if that is still what the record asks for. */
  async leave(id: VolumeId, replicaId: ReplicaId, facts: MembershipFacts): Promise<void> {
    await this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) => {
      const step = isKept(now) ? nextStep(now, facts) : undefined;
      if (step?.kind !== 'leave' || step.replica.id !== replicaId) return 'unchanged';
      return withReplica(now, toLeave(step.replica, sentences[step.reason]));
    });
    this.#options.logger.info({ volume: id, replica: replicaId }, 'replica is to leave');
  }

  /** Takes one that was let go back, if that is still what the record asks for. */
  async callBack(id: VolumeId, replicaId: ReplicaId, facts: MembershipFacts): Promise<void> {
    await this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) => {
      const step = isKept(now) ? nextStep(now, facts) : undefined;
      if (step?.kind !== 'call-back' || step.replica.id !== replicaId) return 'unchanged';
      return withReplica(now, calledBack(step.replica));
    });
    this.#options.logger.warn({ volume: id, replica: replicaId }, 'copies are missing: replica is called back');
  }

  /**
   * Lets replicas go that are of no use to anybody, so that their places can be used again: lost ones of which the node says that nothing is
   * there, and those that failed for good. True when one went.
   */
  async dropUseless(record: VolumeRecord, facts: MembershipFacts): Promise<boolean> {
    let dropped = false;
    for (const replica of record.replicas.filter(({ state }) => state !== 'leaving')) {
      const doom = doomOf(record, replica, facts);
      if ((doom !== 'lost' && doom !== 'gone') || record.inSync.includes(replica.id)) continue;
      const reason = await this.#whyUseless(record, replica);
      if (reason === null) continue;
      await this.#change(record.id, replica.id, (now, inSync) =>
        now.state === replica.state && !inSync ? moved(now, 'leaving', sentences[reason]) : null,
      );
      dropped = true;
    }
    return dropped;
  }

  async #whyUseless(record: VolumeRecord, replica: ReplicaRecord): Promise<LeaveReason | null> {
    // What was given up may still be gone back to, until the volume has opened without it.
    if (replica.givenUpEpoch !== undefined) return isAbandoned(record, replica) ? 'abandoned' : null;
    if (replica.state !== 'lost') return (await this.hasFailed(record, replica)) ? 'failed' : null;
    return (await this.#isEmpty(record, replica)) ? 'empty' : null;
  }

  /** Whether its node certainly has no replica of the volume. A pool that can't be read may hold one. */
  async #isEmpty(record: VolumeRecord, { nodeId }: ReplicaRecord): Promise<boolean> {
    const node = await this.#options.nodes.get(nodeId);
    if (node === undefined || node.pools.some(({ problem }) => problem !== undefined)) return false;
    const held = await this.heldAt(record.id, node);
    return held?.unread_pools.length === 0 && held.replicas.every(({ volume_id }) => volume_id !== record.id);
  }

  /** Whether its own daemon says that the disk failed under a replica. */
  async hasFailed(record: VolumeRecord, { id, nodeId, poolId }: ReplicaRecord): Promise<boolean> {
    const node = await this.#options.nodes.get(nodeId);
    const held = node === undefined ? null : await this.heldAt(record.id, node);
    const pool = held?.unread_pools.find(({ pool_id }) => pool_id === poolId);
    return held?.replicas.find(({ replica_id }) => replica_id === id)?.failed ?? pool?.failed ?? false;
  }

  /** What a node says that it has of the volume; null when it does not answer. */
  async heldAt(id: VolumeId, node: NodeView): Promise<holdfast.ReplicaStatusResponse__Output | null> {
    if (node.silentMs !== undefined) return null;
    try {
      const calls = this.#options.daemons.replica(node);
      return await calls.Status({ volume_id: id }, { deadlineMs: ORDER_DEADLINE_MS });
    } catch (error) {
      if (isUnreachable(error)) return null;
      throw error;
    }
  }

  /** Has the engine, a maintenance engine if need be, follow the record. Resolves with how the replicas are. */
  async follow(id: VolumeId): Promise<readonly holdfast.ReplicaState__Output[]> {
    const answer = await this.#options.orders.give(id, 'the change of replicas', (engine) =>
      engine.Members({ volume_id: id }, { deadlineMs: ORDER_DEADLINE_MS }),
    );
    return answer.replicas;
  }

  /**
   * Deletes a replica that has left, then its name. Throws UNAVAILABLE when its node does not answer, and while too few others are in sync to
   * do without one that is good.
   */
  async retire(record: VolumeRecord, replica: ReplicaRecord): Promise<void> {
    const { nodes, orders, logger } = this.#options;
    const node = await nodes.get(replica.nodeId);
    const members = { volume_id: record.id, if_open: true };
    // An engine that still looks for it would find it gone and call it lost.
    await orders.giveIfOpen(record, 'the change of replicas', (engine) =>
      engine.Members(members, { deadlineMs: ORDER_DEADLINE_MS }),
    );
    if (node === undefined)
      throw unavailable(`node ${replica.nodeId}, where a replica is to be deleted, is not registered`);
    if (node.silentMs !== undefined)
      throw unavailable(
        `node ${node.id}, where a replica is to be deleted, is silent; if it never returns, "holdfast forget ${node.id}"`,
      );
    if (replica.spare === true && !(await this.#condemn(record, replica))) return;
    await this.deleteAt(node, record, replica);
    await this.#options.records.change<VolumeRecord>(keyOf.volume(record.id), (now) => {
      const current = now.replicas.find((one) => one.id === replica.id);
      if (current === undefined || !hasLeft(now, current)) return 'unchanged';
      return { ...now, replicas: now.replicas.filter((one) => one !== current) };
    });
    logger.info({ volume: record.id, node: replica.nodeId, replica: replica.id }, 'replica deleted');
  }

  /** Throws UNAVAILABLE when the node or the pool can't do it. */
  async deleteAt(node: NodeView, record: VolumeRecord, { id, poolId }: Pick<ReplicaRecord, 'id' | 'poolId'>) {
    const request = { volume_id: record.id, replica_id: id, pool_id: poolId, ...knownOf(record) };
    try {
      await this.#options.daemons.replica(node).Retire(request, { deadlineMs: ORDER_DEADLINE_MS });
    } catch (error) {
      if (!(error instanceof HoldfastError && (error.reason === 'DiskFailed' || error.reason === 'PoolMissing')))
        throw error;
      throw unavailable(
        `${error.message}; if that disk never comes back, "holdfast forget ${node.id}/${poolId}"`,
        error,
      );
    }
  }

  /** By the word of the engine: what the record and heartbeats say may be old. False when it is not to be deleted any more. */
  async #condemn({ id, replicas, parameters }: VolumeRecord, replica: ReplicaRecord): Promise<boolean> {
    const staying = new Set<string>(replicas.filter(({ state }) => state === 'ok').map((one) => one.id));
    const states = await this.follow(id);
    const whole = states.filter((one) => one.state === 'in-sync' && staying.has(one.replica_id)).length;
    if (whole < parameters.replicas) {
      throw unavailable(
        `the replica on node ${replica.nodeId} is kept until ${parameters.replicas} others are in sync, ${whole} are`,
      );
    }
    let done = false;
    await this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) => {
      const current = now.replicas.find((one) => one.id === replica.id);
      done = current !== undefined && isKept(now) && hasLeft(now, current);
      return done && current?.spare === true ? withReplica(now, condemned(current)) : 'unchanged';
    });
    return done;
  }

  async #change(
    id: VolumeId,
    replicaId: ReplicaId,
    step: (replica: ReplicaRecord, isInSync: boolean) => ReplicaRecord | null,
  ): Promise<void> {
    await this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) => {
      const replica = now.replicas.find((one) => one.id === replicaId);
      const isInSync = now.inSync.includes(replicaId);
      const next = replica === undefined || !isKept(now) ? null : step(replica, isInSync);
      return next === null ? 'unchanged' : withReplica(now, next);
    });
  }
}

/** Why no other replica can be made where this one is; for people. */
function whyClosed(record: VolumeRecord, replica: ReplicaRecord): string {
  const { id } = record;
  const { state, nodeId, givenUpEpoch } = replica;
  switch (state) {
    case 'lost':
      if (givenUpEpoch !== undefined && !isAbandoned(record, replica))
        return 'has a replica that was given up by an accepted loss; it is kept until the volume has opened without it';
      return `still has data of a lost replica: "holdfast replace ${id} ${nodeId}" deletes it`;
    case 'leaving':
      return 'has a replica of the volume that is being deleted';
    case 'creating':
    case 'ok':
      return 'has a replica of the volume that is to go when another one is in sync';
  }
}

function withoutRefused(node: PlacementNode, refused: RefusedPools): PlacementNode {
  if (node.unheard) return { ...node, unfit: 'has not been heard of since the controller started' };
  const pools = node.pools.filter(({ id }) => !refused.has(id));
  if (pools.length === node.pools.length) return node;
  const why = node.pools.map(({ id }) => refused.get(id)).find((message) => message !== undefined);
  return { ...node, pools, ...(pools.length === 0 ? { unfit: `did not take a replica lately: ${why}` } : {}) };
}

function withReplica(record: VolumeRecord, replica: ReplicaRecord): VolumeRecord {
  return { ...record, replicas: record.replicas.map((one) => (one.id === replica.id ? replica : one)) };
}
