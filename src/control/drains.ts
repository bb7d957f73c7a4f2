// Emptying a node or a pool by command. The order is a field of the node's record and nothing else: placement keeps away from the place, and
// the repair loop moves what lies there, one volume at a time, a new replica in sync before the old one leaves. Taken back, the loop goes on
// from what it finds.

import {
  HoldfastError,
  type Logger,
  type NodeId,
  notFound,
  type PoolId,
  precondition,
  printable,
  zeroUuid,
} from '../base/index.js';
import {
  type DrainRecord,
  hasLeft,
  keyOf,
  type NodeRecord,
  type ReplicaRecord,
  type VolumeRecord,
} from '../meta/index.js';
import type { Daemons } from './daemons.js';
import { isUnreachable } from './engine-orders.js';
import { ORDER_DEADLINE_MS, RECONCILE_BACKOFF_MAX_MS } from './limits.js';
import { isBound, isKept, type MembershipFacts, nextStep } from './membership-plan.js';
import type { Nodes, NodeView } from './nodes.js';
import type { Records } from './records.js';
import type { Repairs } from './repairs.js';
import type { ReplicaSteps } from './replica-steps.js';
import type { SerialQueue } from './serial-queue.js';

export interface DrainsOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly daemons: Daemons;
  readonly repairs: Repairs;
  readonly steps: ReplicaSteps;
  readonly intents: SerialQueue;
  readonly wallMs: () => number;
  readonly logger: Logger;
}

export interface DrainPlace {
  readonly nodeId: string;
  /** Id or path; empty: the whole node. */
  readonly pool: string;
}

export interface DrainMove {
  readonly volume: VolumeRecord;
  readonly storedBytes: number;
  /** Why it can't be moved now; empty when it can. */
  readonly blocked: string;
  readonly attached: boolean;
}

export class Drains {
  readonly #options: DrainsOptions;

  constructor(options: DrainsOptions) {
    this.#options = options;
  }

  /** What lies on the place and has to go elsewhere, whether that is ordered or not. Throws NOT_FOUND for a place that does not exist. */
  async plan(place: DrainPlace): Promise<{ moves: DrainMove[]; ordered: boolean }> {
    const { node, poolId } = await this.#find(place);
    const ordered = node.drains?.some((drain) => drain.poolId === poolId) ?? false;
    const drain: DrainRecord = { poolId, sinceMs: 0, by: '' };
    const facts = await this.#options.repairs.facts();
    const nodes = facts.nodes.map((one) =>
      one.id === node.id ? { ...one, drains: [...(one.drains ?? []), drain] } : one,
    );
    const drained = { ...facts, nodes };
    const stored = await this.#storedBytes(node);
    const moves: DrainMove[] = [];
    for (const volume of await this.#options.records.volumes()) {
      const held = volume.replicas.find((one) => one.nodeId === node.id && (poolId === null || one.poolId === poolId));
      if (held === undefined) continue;
      if (!isKept(volume)) {
        // Being made or deleted there: that ends by itself, and the place is not empty before.
        moves.push({ volume, storedBytes: stored.get(volume.id) ?? 0, blocked: '', attached: false });
        continue;
      }
      // Replaced already: what is left of it goes when the node is back, or is forgotten.
      if (hasLeft(volume, held) && node.silentMs !== undefined) continue;
      moves.push({
        volume,
        storedBytes: stored.get(volume.id) ?? 0,
        blocked: held.state === 'leaving' ? '' : await this.#obstacle(volume, held, drained),
        attached: volume.publications.some(({ nodeId }) => nodeId === node.id),
      });
    }
    return { moves, ordered };
  }

  async order(place: DrainPlace, by: string): Promise<void> {
    const { node, poolId } = await this.#find(place);
    const drain: DrainRecord = { poolId, sinceMs: this.#options.wallMs(), by };
    await this.#change(node.id, (drains) =>
      drains.some((one) => one.poolId === poolId) ? drains : [...drains, drain],
    );
    this.#options.logger.warn({ node: node.id, pool: poolId, by }, 'to be drained by order');
  }

  async undo(place: DrainPlace, by: string): Promise<void> {
    const { node, poolId } = await this.#find(place);
    await this.#change(node.id, (drains) => drains.filter((one) => one.poolId !== poolId));
    this.#options.logger.warn({ node: node.id, pool: poolId, by }, 'no longer to be drained, by order');
  }

  /**
   * Gives up a node that never returns, or a pool of one: what was to be deleted there counts as deleted, and the node's record goes. Refused
   * while the node answers, or the pool can be used, and while a volume still counts on a replica there. Should it come back after all, what
   * it holds is left alone.
   */
  async forget(place: DrainPlace, by: string): Promise<void> {
    const { records, nodes, repairs, logger } = this.#options;
    const { node, poolId } = await this.#find(place);
    const where = poolId === null ? node.id : `${node.id}/${poolId}`;
    const pool = node.pools.find(({ id }) => id === poolId);
    if (poolId === null && node.silentMs === undefined)
      throw precondition(`node ${node.id} answers: drain it, and stop its storage daemon`);
    if (pool !== undefined && pool.problem === undefined)
      throw precondition(
        `pool ${where} can be used, as far as is known: drain it, and take it out of the daemon's configuration`,
      );
    const isThere = (one: ReplicaRecord) => one.nodeId === node.id && (poolId === null || one.poolId === poolId);
    const counts = (volume: VolumeRecord, one: ReplicaRecord) =>
      isThere(one) && volume.state !== 'deleting' && !hasLeft(volume, one);
    const holding = (await records.volumes()).filter(({ replicas }) => replicas.some(isThere));
    const counting = holding.filter((volume) => volume.replicas.some((one) => counts(volume, one)));
    if (counting.length > 0) {
      throw precondition(
        `${counting.length} volumes still have a replica on ${where} (${counting[0]!.id}, ...): "holdfast drain ${where}" first`,
        'Busy',
      );
    }
    for (const { id } of holding) {
      await records.change<VolumeRecord>(keyOf.volume(id), (now) => ({
        ...now,
        replicas: now.replicas.filter((one) => !isThere(one) || counts(now, one)),
      }));
    }
    if (poolId === null) {
      await records.change<NodeRecord>(keyOf.node(node.id), (now) => {
        if (now.instance !== node.instance)
          throw precondition(`node ${node.id} is back: it has registered again, and is not forgotten`);
        return undefined;
      });
      nodes.forget(node.id);
    }
    logger.warn({ node: node.id, pool: poolId, by, volumes: holding.length }, 'forgotten by order');
    for (const { id } of holding) repairs.lookSoon(id);
    repairs.lookSoon();
  }

  #change(id: NodeId, step: (drains: readonly DrainRecord[]) => readonly DrainRecord[]): Promise<void> {
    // Who has chosen the place before has named it when this is done, and nobody chooses it afterwards.
    return this.#options.intents.run(async () => {
      await this.#options.records.change<NodeRecord>(keyOf.node(id), ({ drains = [], ...node }) => {
        const next = step(drains);
        return next.length === 0 ? node : { ...node, drains: next };
      });
      this.#options.repairs.lookSoon();
    });
  }

  async #find(place: DrainPlace): Promise<{ node: NodeView; poolId: PoolId | null }> {
    const node = (await this.#options.nodes.list()).find(({ id }) => id === place.nodeId);
    if (node === undefined) throw notFound(`node ${printable(place.nodeId)} does not exist`);
    if (place.pool === '') return { node, poolId: null };
    const pool = node.pools.find(({ id, path }) => id !== zeroUuid && (id === place.pool || path === place.pool));
    if (pool !== undefined) return { node, poolId: pool.id };
    // One that could not be opened is known by the id that records name.
    const held = (await this.#options.records.volumes()).flatMap(({ replicas }) => replicas);
    const poolId = held.find((one) => one.nodeId === node.id && one.poolId === place.pool)?.poolId;
    if (poolId !== undefined) return { node, poolId };
    const closed = node.pools.find(({ path }) => path === place.pool);
    if (closed !== undefined) {
      throw precondition(
        `pool ${closed.path} of node ${node.id} is not open, so it is not known which one it is: ${closed.problem}; name it by its id, if you know that`,
        'PoolMissing',
      );
    }
    throw notFound(`node ${node.id} has no pool ${printable(place.pool)}`);
  }

  async #obstacle(volume: VolumeRecord, held: ReplicaRecord, drained: MembershipFacts): Promise<string> {
    if (isBound(volume, held)) {
      if (volume.publications.length > 0) return 'it is attached there and has dataLocality required: detach it first';
      return `it has dataLocality required, and this is its only good replica where its users may run (${volume.pinnedTo?.join(', ')})`;
    }
    const step = nextStep(volume, drained);
    if (step.kind === 'wait') return step.message;
    if (step.kind !== 'grow') return this.#failure(volume);
    try {
      await this.#options.steps.findPlaces(volume, step.count, drained);
      return '';
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'RESOURCE_EXHAUSTED') return error.message;
      throw error;
    }
  }

  /** Why it does not go on, when it has not for so long that it won't by itself. */
  #failure({ id }: VolumeRecord): string {
    const { repairs, wallMs } = this.#options;
    const note = repairs.noteOf(id);
    return note?.reason === 'Failed' && wallMs() - note.sinceMs > RECONCILE_BACKOFF_MAX_MS ? note.message : '';
  }

  async #storedBytes(node: NodeView): Promise<Map<string, number>> {
    try {
      const all = { volume_id: '' };
      const { replicas } = await this.#options.daemons.replica(node).Status(all, { deadlineMs: ORDER_DEADLINE_MS });
      return new Map(replicas.map((one) => [one.volume_id, one.stored_bytes]));
    } catch (error) {
      if (isUnreachable(error)) return new Map();
      throw error;
    }
  }
}
