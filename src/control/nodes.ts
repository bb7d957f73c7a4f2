// Which nodes there are and which of them are alive. Owner: the controller, one object a process.
// Descriptions live in the store (they survive a restart of the controller); when a node was last heard of lives here, on the
// monotonic clock. A silent node loses nothing but new replicas: membership is the engines' business.
// After a restart every node has one silence's time to report before it counts as silent.

import {
  type Clock,
  HoldfastError,
  invalid,
  type Logger,
  type NodeId,
  type PoolId,
  parseNodeId,
  parseUuid,
  printable,
} from '../base/index.js';
import { keyOf, type NodeRecord, type PoolRecord } from '../meta/index.js';
import type { holdfast } from '../rpc/index.js';
import { HEARTBEAT_WRITE_MS, NODE_SILENT_MS } from './limits.js';
import type { PlacementNode } from './placement.js';
import type { Records } from './records.js';

export interface NodeView extends NodeRecord {
  /** Set when it is silent for too long: for how long. */
  readonly silentMs?: number;
  /** Not a word of it since the controller started: whether it is there is not known yet. */
  readonly unheard?: true;
}

interface Sign {
  readonly record: NodeRecord;
  readonly heardMs: number;
  readonly writtenMs: number;
}

const NODES_MAX = 5_000;
const POOLS_MAX = 256;
const LABELS_MAX = 64;

export class Nodes {
  readonly #records: Records;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #startedMs: number;
  readonly #signs = new Map<NodeId, Sign>();

  constructor(records: Records, clock: Clock, logger: Logger) {
    this.#records = records;
    this.#clock = clock;
    this.#logger = logger;
    this.#startedMs = clock.monotonicMs();
  }

  async register(description: holdfast.NodeDescription__Output | null): Promise<void> {
    const record = this.#recordOf(description);
    const before = this.#signs.get(record.id)?.record ?? (await this.#records.node(record.id));
    if (before === undefined && this.#signs.size >= NODES_MAX) {
      throw new HoldfastError('RESOURCE_EXHAUSTED', `there are ${NODES_MAX} nodes already, no more can register`);
    }
    await this.#write(record);
    this.#logger.info(
      { node: record.id, address: record.controlAddress, pools: record.pools.length, again: before !== undefined },
      'a storage daemon registered',
    );
  }

  /** False when this instance has to register first. */
  async heartbeat(description: holdfast.NodeDescription__Output | null): Promise<boolean> {
    const record = this.#recordOf(description);
    const known = this.#signs.get(record.id);
    const instance = known?.record.instance ?? (await this.#records.node(record.id))?.instance;
    if (instance !== record.instance) return false;
    const now = this.#clock.monotonicMs();
    if (known !== undefined && now - known.writtenMs < HEARTBEAT_WRITE_MS && sameDescription(known.record, record)) {
      this.#signs.set(record.id, { record, heardMs: now, writtenMs: known.writtenMs });
    } else await this.#write(record);
    return true;
  }

  /** Its record is gone. */
  forget(id: NodeId): void {
    this.#signs.delete(id);
  }

  async list(): Promise<NodeView[]> {
    return (await this.#records.nodes()).map((record) => this.#view(record));
  }

  async get(id: NodeId): Promise<NodeView | undefined> {
    const record = await this.#records.node(id);
    return record && this.#view(record);
  }

  /** The nodes with what is already promised of their pools. */
  async forPlacement(options: { readonly alsoDrained?: boolean } = {}): Promise<PlacementNode[]> {
    const [nodes, volumes] = await Promise.all([this.list(), this.#records.volumes()]);
    const promised = new Map<string, number>();
    for (const volume of volumes) {
      for (const replica of volume.replicas) {
        const key = `${replica.nodeId} ${replica.poolId}`;
        promised.set(key, (promised.get(key) ?? 0) + volume.sizeBytes);
      }
    }
    const isClosed = (node: NodeView, pool: PoolId | null) => !options.alsoDrained && isDrained(node, pool);
    return nodes.map((node) => ({
      ...node,
      ...(isClosed(node, null) ? { unfit: 'is being drained' } : {}),
      pools: node.pools
        .filter((pool) => !isClosed(node, pool.id))
        .map((pool) => ({ ...pool, promisedBytes: promised.get(`${node.id} ${pool.id}`) ?? 0 })),
    }));
  }

  async #write(record: NodeRecord): Promise<void> {
    const key = keyOf.node(record.id);
    if (!(await this.#records.create(key, record)))
      await this.#records.change<NodeRecord>(key, (before) => renewed(before, record));
    const now = this.#clock.monotonicMs();
    this.#signs.set(record.id, { record, heardMs: now, writtenMs: now });
  }

  #view(stored: NodeRecord): NodeView {
    const sign = this.#signs.get(stored.id);
    const silentMs = this.#clock.monotonicMs() - (sign?.heardMs ?? this.#startedMs);
    const { drains: _, ...described } = sign?.record ?? stored;
    const record = stored.drains === undefined ? described : { ...described, drains: stored.drains };
    if (silentMs > NODE_SILENT_MS) return { ...record, silentMs };
    return sign === undefined ? { ...record, unheard: true } : record;
  }

  #recordOf(description: holdfast.NodeDescription__Output | null): NodeRecord {
    if (description === null) throw invalid('the node description is missing');
    const id = parseNodeId(description.node_id);
    if (description.control_address === '') throw invalid(`node ${id} names no control address`);
    if (description.instance === '') throw invalid(`node ${id} names no instance`);
    if (description.pools.length > POOLS_MAX) throw invalid(`node ${id} names more than ${POOLS_MAX} pools`);
    if (Object.keys(description.topology).length > LABELS_MAX) {
      throw invalid(`node ${id} carries more than ${LABELS_MAX} topology labels`);
    }
    return {
      id,
      controlAddress: description.control_address,
      topology: description.topology,
      tags: description.tags,
      pools: description.pools.map((pool) => poolOf(pool, id)),
      replicaAddresses: description.replica_addresses,
      instance: description.instance,
      heartbeatMs: this.#clock.wallMs(),
      storeVersionSeen: description.store_version_seen,
    };
  }
}

/** Whether the pool, or with null the whole node, is to be left. */
export function isDrained(node: Pick<NodeRecord, 'drains'>, poolId: PoolId | null): boolean {
  return node.drains?.some((drain) => drain.poolId === null || drain.poolId === poolId) ?? false;
}

/** What a newer controller has noted beside it stays. */
function renewed(before: NodeRecord, record: NodeRecord): NodeRecord {
  const pools = record.pools.map((pool) => ({
    ...before.pools.find(({ id }) => id === pool.id),
    problem: undefined,
    ...pool,
  }));
  return { ...before, ...record, pools };
}

function poolOf(pool: holdfast.Pool__Output, node: NodeId): PoolRecord {
  const id = parseUuid<PoolId>(pool.pool_id, `pool id of node ${node}`);
  if (pool.capacity_bytes < 0 || pool.free_bytes < 0) {
    throw invalid(`pool ${printable(pool.path)} of node ${node} reports a negative size`);
  }
  return {
    id,
    path: pool.path,
    capacityBytes: pool.capacity_bytes,
    freeBytes: pool.free_bytes,
    tags: pool.tags,
    ...(pool.problem === '' ? {} : { problem: pool.problem }),
  };
}

/** Whether nothing but the time and the filling of the pools is new. */
function sameDescription(a: NodeRecord, b: NodeRecord): boolean {
  const essence = (record: NodeRecord) =>
    JSON.stringify({
      ...record,
      heartbeatMs: 0,
      storeVersionSeen: 0,
      topology: Object.entries(record.topology).sort(),
      pools: record.pools.map((pool) => ({ ...pool, freeBytes: 0 })),
    });
  return essence(a) === essence(b);
}
