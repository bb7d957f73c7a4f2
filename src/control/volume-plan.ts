// Plans a new volume: everything about it is decided, and everything that can be refused is refused, before the first trace
// of it is written.

import {
  HoldfastError,
  type IncarnationId,
  invalid,
  isUuid,
  type LineageId,
  notFound,
  precondition,
  printable,
  type Random,
  type ReplicaId,
  type SnapshotId,
  type VolumeId,
  wrapDataKey,
  wrappingKeyFromSecret,
} from '../base/index.js';
import type { ReplicaRecord, VolumeRecord } from '../meta/index.js';
import { ZONE_LABEL } from './class-keys.js';
import type { Nodes } from './nodes.js';
import { type ClusterFacts, hasWrappingKey, resolveClass, type VolumeClass } from './parameters.js';
import { type Place, type PlacementNode, type PlacementRules, place, placeMore } from './placement.js';
import type { Records } from './records.js';
import { chooseSize, type SizeRange } from './size.js';
import { labelOf, type TopologyWish } from './topology.js';

export interface SourceRef {
  readonly kind: 'snapshot' | 'volume';
  readonly id: string;
}

/** A checked request for a volume. */
export interface VolumeOrder {
  readonly name: string;
  readonly range: SizeRange | null;
  readonly volumeClass: VolumeClass;
  readonly secrets: Readonly<Record<string, string>>;
  readonly wish: TopologyWish;
  readonly source: SourceRef | null;
}

/** What a new volume starts from. */
export interface Origin {
  readonly volume: VolumeRecord;
  readonly sizeBytes: number;
  readonly formatted: VolumeRecord['formatted'];
}

export interface PlannerOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly random: Random;
  readonly wallMs: () => number;
  readonly overcommit: number;
}

export function rulesFor(
  volumeClass: VolumeClass,
  parameters: VolumeRecord['parameters'],
  wish: TopologyWish,
  overcommit: number,
): PlacementRules {
  return {
    replicas: parameters.replicas,
    failureDomain: parameters.failureDomain,
    dataLocality: parameters.dataLocality,
    nodeSelector: volumeClass.nodeSelector,
    diskSelector: volumeClass.diskSelector,
    wish,
    overcommit,
  };
}

export function clusterFacts(nodes: readonly PlacementNode[]): ClusterFacts {
  const usable = nodes.filter((node) => node.silentMs === undefined && node.pools.some((pool) => !pool.problem));
  const zones = usable.map((node) => labelOf(node, ZONE_LABEL));
  return { usableNodes: usable.length, zones: zones.includes(undefined) ? 0 : new Set(zones).size };
}

export class VolumePlanner {
  readonly #options: PlannerOptions;

  constructor(options: PlannerOptions) {
    this.#options = options;
  }

  /** The record of the volume to make, state creating. Throws what CreateVolume shall answer. */
  async plan(order: VolumeOrder, id: VolumeId): Promise<VolumeRecord> {
    const nodes = await this.#options.nodes.forPlacement();
    const origin = order.source === null ? null : await this.findOrigin(order.source);
    if (origin === null) return this.#planEmpty(order, id, nodes);
    try {
      return this.#planClone(order, id, nodes, origin);
    } catch (error) {
      if (!(error instanceof HoldfastError && error.code === 'RESOURCE_EXHAUSTED')) throw error;
      // It begins where its source lies, also when that is being drained: the drain moves both.
      return this.#planClone(order, id, await this.#options.nodes.forPlacement({ alsoDrained: true }), origin);
    }
  }

  /** Throws NOT_FOUND when the source is gone, FAILED_PRECONDITION when it is not ready yet. */
  async findOrigin(source: SourceRef): Promise<Origin> {
    const { records } = this.#options;
    const none = () => notFound(`source ${source.kind} ${printable(source.id)} does not exist`);
    if (!isUuid(source.id)) throw none();
    if (source.kind === 'volume') {
      const volume = await records.volume(source.id as VolumeId);
      if (volume?.state !== 'ready') throw none();
      return { volume, sizeBytes: volume.sizeBytes, formatted: volume.formatted };
    }
    const snapshot = await records.snapshot(source.id as SnapshotId);
    if (snapshot === undefined || snapshot.state === 'deleting') throw none();
    if (snapshot.state === 'creating')
      throw precondition(`source snapshot ${source.id} is not finished yet; retry`, 'Busy');
    const volume = await records.volume(snapshot.volumeId);
    if (volume === undefined || volume.state === 'deleting') throw none();
    return { volume, sizeBytes: snapshot.sizeBytes, formatted: snapshot.formatted ?? volume.formatted };
  }

  #planEmpty(order: VolumeOrder, id: VolumeId, nodes: readonly PlacementNode[]): VolumeRecord {
    const hasKey = hasWrappingKey(order.secrets);
    const parameters = resolveClass(order.volumeClass, clusterFacts(nodes), hasKey);
    const sizeBytes = chooseSize(order.range);
    const lineageId = this.#options.random.uuid() as LineageId;
    // Without a key here the node that stages the volume first makes the data key.
    const keyHere = hasKey && parameters.encryption !== 'none' && parameters.keyProvider === 'secret';
    const wrappedKey = keyHere ? this.#newKey(order.secrets, lineageId) : null;
    const places = place(
      nodes,
      rulesFor(order.volumeClass, parameters, order.wish, this.#options.overcommit),
      sizeBytes,
    );
    const blank = { lineageId, wrappedKey, formatted: { state: 'never' } as const };
    return { ...this.#common(order, id, sizeBytes, parameters, places), ...blank };
  }

  #planClone(order: VolumeOrder, id: VolumeId, nodes: readonly PlacementNode[], origin: Origin): VolumeRecord {
    const { volume } = origin;
    const asked = order.volumeClass.explicit.encryption;
    if (asked !== undefined && asked !== volume.parameters.encryption) {
      throw invalid(
        `a clone shares its source's sealed bytes and so its encryption (${volume.parameters.encryption}); the class asks for ${asked}`,
      );
    }
    const sizeBytes = cloneSize(order.range, origin.sizeBytes);
    const holders = volume.replicas.filter((replica) => volume.inSync.includes(replica.id) && replica.state === 'ok');
    const { failureDomain, keyProvider, encryption } = volume.parameters;
    const explicit = { failureDomain, keyProvider, ...order.volumeClass.explicit, encryption };
    const replicas = explicit.replicas ?? volume.parameters.replicas;
    const inherited: VolumeClass = { ...order.volumeClass, explicit: { ...explicit, replicas } };
    const parameters = resolveClass(inherited, clusterFacts(nodes), false);
    const candidates = nodes.map((node) => {
      const pools = node.pools.filter((pool) => holders.some((at) => at.nodeId === node.id && at.poolId === pool.id));
      return pools.length > 0 ? { ...node, pools } : { ...node, unfit: 'holds no in-sync replica of the source' };
    });
    // It starts where its source lies; copies beyond those are made when it exists, as for any volume that lacks some.
    const rules = rulesFor(inherited, parameters, order.wish, this.#options.overcommit);
    const first = { ...rules, replicas: Math.max(1, Math.min(replicas, holders.length)) };
    const places = place(candidates, first, sizeBytes);
    const held = places.map(({ nodeId }) => nodeId);
    const more = (order.volumeClass.explicit.replicas ?? 0) - places.length;
    if (more > 0) placeMore(nodes, { ...rules, replicas: more }, sizeBytes, { beside: held, closed: new Map() });
    return {
      ...this.#common(order, id, sizeBytes, parameters, places),
      lineageId: volume.lineageId,
      wrappedKey: volume.wrappedKey,
      formatted: origin.formatted,
      source: { ...order.source!, sourceVolumeId: volume.id },
    };
  }

  #newKey(secrets: Readonly<Record<string, string>>, lineageId: LineageId) {
    const wrappingKey = wrappingKeyFromSecret(secrets);
    const dataKey = this.#options.random.bytes(32);
    try {
      return wrapDataKey(dataKey, wrappingKey, lineageId, this.#options.random);
    } finally {
      dataKey.fill(0);
      wrappingKey.fill(0);
    }
  }

  #common(
    order: VolumeOrder,
    id: VolumeId,
    sizeBytes: number,
    parameters: VolumeRecord['parameters'],
    places: readonly Place[],
  ): Omit<VolumeRecord, 'lineageId' | 'wrappedKey' | 'formatted'> {
    const { random } = this.#options;
    const replicas = places.map(
      (at): ReplicaRecord => ({
        id: random.uuid() as ReplicaId,
        nodeId: at.nodeId,
        poolId: at.poolId,
        incarnationId: random.uuid() as IncarnationId,
        state: 'creating',
      }),
    );
    const { requisite } = order.wish;
    const { nodeSelector, diskSelector } = order.volumeClass;
    return {
      id,
      name: order.name,
      state: 'creating',
      createdMs: this.#options.wallMs(),
      sizeBytes,
      parameters,
      qos: order.volumeClass.qos,
      ...(requisite.length === 0 ? {} : { topology: [...requisite] }),
      ...(nodeSelector.length + diskSelector.length === 0
        ? {}
        : { selectors: { nodes: nodeSelector, disks: diskSelector } }),
      replicas,
      inSync: [],
      setVersion: 0,
      epoch: 0,
      reignId: null,
      engine: null,
      publications: [],
      flushedPoint: null,
    };
  }
}

/** A clone is never smaller than its source. */
function cloneSize(range: SizeRange | null, sourceBytes: number): number {
  const sizeBytes = chooseSize(range, sourceBytes);
  if (sizeBytes >= sourceBytes) return sizeBytes;
  throw new HoldfastError(
    'OUT_OF_RANGE',
    `the source holds ${sourceBytes} bytes, a volume of ${sizeBytes} can't be made from it`,
    {
      reason: 'BadField',
    },
  );
}
