// Storage daemons of a small cluster in memory, behaving as the protos say: replicas are kept by incarnation, engines open on
// order and take an epoch in the store, snapshots and clones exist once an id. Faults: a node that is down, a call that fails
// before or after it took effect. Used by the control plane's tests.

import type { Clock } from '../../src/base/index.js';
import {
  HoldfastError,
  type NodeId,
  notFound,
  type PoolId,
  type ReignId,
  unavailable,
  type VolumeId,
  zeroUuid,
} from '../../src/base/index.js';
import type { DaemonAddress, Daemons, ReplicaCalls, VolumeCalls } from '../../src/control/index.js';
import { keyOf, type MetadataStore, update, type VolumeRecord } from '../../src/meta/index.js';
import type { holdfast } from '../../src/rpc/index.js';

export interface FakeReplica {
  readonly volumeId: string;
  readonly replicaId: string;
  readonly incarnationId: string;
  readonly poolId: string;
  /** What it knows of its volume. */
  epoch: number;
  setVersion: number;
}

interface FakeSnapshot {
  readonly wallMs: number;
  readonly sizeBytes: number;
  readonly seq: number;
  readonly blocks: ReadonlyMap<number, number>;
}

interface FakeVolume {
  readonly snapshots: Map<string, FakeSnapshot>;
  /** Which write each written block shows. */
  readonly blocks: Map<number, number>;
  readonly deletedSnapshots: Set<string>;
  readonly holds: Map<string, number>;
  sizeBytes: number;
  qos: Record<string, number>;
}

export interface FakeNode {
  readonly id: NodeId;
  readonly poolId: PoolId;
  readonly replicas: Map<string, FakeReplica>;
  up: boolean;
  /** Pools that it can't read, by id. */
  readonly unread: Map<string, UnreadPool>;
  /** Thrown by Replica.Create while set. */
  refuseCreate?: HoldfastError;
}

export interface UnreadPool {
  readonly problem: string;
  /** Else it may only be unmounted. */
  readonly failed: boolean;
  /** Never opened since the start: its id is not known. */
  readonly unopened?: boolean;
}

/** May throw: before the call took effect, or after (the answer is lost). */
export type CallHook = (call: string, node: NodeId, when: 'before' | 'after') => void | Promise<void>;

export class FakeDaemons implements Daemons {
  readonly nodes = new Map<NodeId, FakeNode>();
  readonly volumes = new Map<string, FakeVolume>();
  readonly calls: string[] = [];
  hook: CallHook = () => {};
  /** Blocks that one answer of Changed looks at, and extents it holds at most. */
  changedLimits = { blocks: 64, extents: 5 };
  /** Replicas that say of themselves that they are not whole, and volumes whose engine is open, with how it finds its replicas. */
  readonly joining = new Set<string>();
  readonly open = new Map<string, 'in-sync' | 'unreachable'>();
  /** What the daemons say why a replica can't be used. */
  readonly problems = new Map<string, string>();
  /** Replicas that do not catch up. */
  readonly behind = new Set<string>();
  readonly #store: MetadataStore;
  readonly #clock: Clock;

  constructor(store: MetadataStore, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  addNode(id: string, poolId: string): FakeNode {
    const node: FakeNode = {
      id: id as NodeId,
      poolId: poolId as PoolId,
      replicas: new Map(),
      unread: new Map(),
      up: true,
    };
    this.nodes.set(node.id, node);
    return node;
  }

  get replicas(): FakeReplica[] {
    return [...this.nodes.values()].flatMap((node) => [...node.replicas.values()]);
  }

  /** As a node's attach would leave the record. */
  async attach(volumeId: VolumeId, nodeId: NodeId): Promise<void> {
    await this.#grant(volumeId, nodeId, false);
  }

  close(): void {}

  replica(address: DaemonAddress): ReplicaCalls {
    const node = this.nodes.get(address.id)!;
    return {
      Create: (request) =>
        this.#call('Create', node, () => {
          if (node.refuseCreate) throw node.refuseCreate;
          const { volume_id = '', replica_id = '', incarnation_id = '', pool_id = '' } = request;
          const present = node.replicas.get(replica_id);
          if (present !== undefined && present.incarnationId !== incarnation_id) {
            throw new HoldfastError('ALREADY_EXISTS', `replica ${replica_id} has another incarnation`);
          }
          node.replicas.set(replica_id, {
            volumeId: volume_id,
            replicaId: replica_id,
            incarnationId: incarnation_id,
            poolId: pool_id,
            epoch: 0,
            setVersion: Number(request.set_version),
          });
          if (request.joining) this.joining.add(replica_id);
          this.#volume(volume_id).sizeBytes = Number(request.size_bytes);
          return {};
        }),
      Retire: (request) =>
        this.#call('Retire', node, () => {
          const replica = node.replicas.get(request.replica_id ?? '');
          const { epoch = 0, set_version: setVersion = 0 } = request;
          const unread = node.unread.get(request.pool_id ?? '');
          if (unread !== undefined)
            throw new HoldfastError('UNAVAILABLE', unread.problem, {
              reason: unread.failed ? 'DiskFailed' : 'PoolMissing',
            });
          if (replica !== undefined && (replica.epoch > Number(epoch) || replica.setVersion > Number(setVersion)))
            throw new HoldfastError('FAILED_PRECONDITION', 'the store went back in time', { reason: 'StoreWentBack' });
          node.replicas.delete(request.replica_id ?? '');
          return {};
        }),
      Status: () =>
        this.#call('Status', node, () => ({
          unread_pools: [...node.unread].map(([id, { problem, failed, unopened }]) => ({
            ...{ pool_id: unopened ? zeroUuid : id, path: `/pools/${node.id}`, problem, failed },
          })),
          replicas: this.#readable(node).map((replica) => ({
            volume_id: replica.volumeId,
            replica_id: replica.replicaId,
            incarnation_id: replica.incarnationId,
            pool_id: replica.poolId,
            stored_bytes: 4096,
            shared_bytes: 0,
            promised_epoch: 1,
            joining: this.joining.has(replica.replicaId),
            problem: this.problems.get(replica.replicaId) ?? '',
            failed: this.problems.has(replica.replicaId),
          })),
        })),
    };
  }

  #readable(node: FakeNode): FakeReplica[] {
    return [...node.replicas.values()].filter(({ poolId }) => !node.unread.has(poolId));
  }

  volume(address: DaemonAddress): VolumeCalls {
    const node = this.nodes.get(address.id)!;
    const order = <T>(
      name: string,
      volumeId: string | undefined,
      work: (volume: FakeVolume) => T | Promise<T>,
    ): Promise<T> =>
      this.#call(name, node, async () => {
        await this.#open((volumeId ?? '') as VolumeId, node);
        return work(this.#volume(volumeId ?? ''));
      });
    return {
      Open: (request) =>
        order('Open', request.volume_id, (volume) => ({
          socket_path: '',
          export_name: '',
          size_bytes: volume.sizeBytes,
          epoch: 1,
        })),
      Close: () => this.#call('Close', node, () => ({})),
      Freeze: (request) =>
        order('Freeze', request.volume_id, (volume) =>
          this.#freeze(volume, request.snapshot_id ?? '', request.hold_token ?? ''),
        ),
      Hold: (request) =>
        order('Hold', request.volume_id, (volume) => {
          volume.holds.set(request.hold_token ?? '', this.#clock.monotonicMs() + Number(request.deadline_ms));
          return {};
        }),
      Release: (request) =>
        order('Release', request.volume_id, (volume) => {
          const held = this.#holds(volume, request.hold_token ?? '');
          volume.holds.delete(request.hold_token ?? '');
          return { held_until_now: held };
        }),
      Clone: (request) =>
        order('Clone', request.volume_id, (volume) => {
          const snapshot = volume.snapshots.get(request.snapshot_id ?? '');
          if (snapshot === undefined) throw notFound(`snapshot ${request.snapshot_id} does not exist`);
          for (const target of request.targets ?? []) this.#link(request.new_volume_id ?? '', target);
          this.#volume(request.new_volume_id ?? '').sizeBytes = snapshot.sizeBytes;
          return {};
        }),
      Resize: (request) =>
        order('Resize', request.volume_id, (volume) => {
          volume.sizeBytes = Math.max(volume.sizeBytes, Number(request.size_bytes));
          return {};
        }),
      SetQos: (request) =>
        order('SetQos', request.volume_id, (volume) => {
          volume.qos = { ...request.qos } as Record<string, number>;
          return {};
        }),
      Members: async (request) => {
        const record = (await this.#store.get<VolumeRecord>(keyOf.volume(request.volume_id as VolumeId)))?.value;
        if (request.if_open && record?.engine?.nodeId !== node.id)
          return this.#call('Members', node, () => ({ replicas: [] }));
        return order('Members', request.volume_id, async () => ({
          replicas: await this.#follow(request.volume_id ?? ''),
        }));
      },
      DeleteSnapshot: (request) =>
        order('DeleteSnapshot', request.volume_id, (volume) => {
          volume.snapshots.delete(request.snapshot_id ?? '');
          volume.deletedSnapshots.add(request.snapshot_id ?? '');
          return {};
        }),
      Changed: (request) => order('Changed', request.volume_id, (volume) => this.#changed(volume, request)),
      Status: () =>
        this.#call('VolumeStatus', node, () => ({
          volumes: [...this.open].map(
            ([volume_id, state]) =>
              ({ volume_id, state: 'serving', replicas: [{ state }] }) as unknown as holdfast.VolumeStatus__Output,
          ),
        })),
    };
  }

  /** What engines write into the superblocks of members. */
  #describe({ id, inSync, epoch, setVersion }: VolumeRecord): void {
    for (const node of this.nodes.values())
      for (const replica of node.up ? node.replicas.values() : [])
        if (replica.volumeId === id && inSync.some((one) => one === replica.replicaId))
          Object.assign(replica, { epoch, setVersion });
  }

  /** As an engine does: takes out what leaves or is away, takes in what is there and has caught up. */
  async #follow(volumeId: string) {
    const isThere = ({ nodeId, id, incarnationId }: VolumeRecord['replicas'][number]) => {
      const node = this.nodes.get(nodeId);
      if (node?.up !== true || this.problems.has(id)) return false;
      return this.#readable(node).some((one) => one.replicaId === id && one.incarnationId === incarnationId);
    };
    let before: VolumeRecord | undefined;
    const { value } = await update<VolumeRecord>(
      this.#store,
      keyOf.volume(volumeId as VolumeId),
      (now) => {
        if (now === undefined) return 'unchanged';
        before = now;
        const present = now.replicas.filter((one) => now.inSync.includes(one.id) && isThere(one));
        const stay = present.filter((one) => one.state === 'ok');
        const join = now.replicas.filter(
          (one) => !now.inSync.includes(one.id) && one.state === 'ok' && isThere(one) && !this.behind.has(one.id),
        );
        const canJoin = present.length > 0 ? join : [];
        const missing = Math.max(0, now.parameters.replicas - stay.length - canJoin.length);
        const kept = present.filter((one) => one.state === 'leaving').slice(0, missing);
        const inSync = [...stay, ...kept, ...canJoin].map(({ id }) => id);
        for (const id of inSync) this.joining.delete(id);
        if (inSync.length === 0 || inSync.join() === now.inSync.join()) return 'unchanged';
        return { ...now, inSync, setVersion: now.setVersion + 1 };
      },
      { clock: this.#clock },
    );
    if (value !== undefined) this.#describe(value);
    // How they were when it was told: who joins is still behind then.
    return (before?.replicas ?? []).map((one) => ({
      replica_id: one.id as string,
      node_id: one.nodeId as string,
      state: !isThere(one) ? 'unreachable' : before!.inSync.includes(one.id) ? 'in-sync' : 'catching-up',
      message: '',
      appended_through: 0,
      behind_bytes: 0,
    }));
  }

  #freeze(volume: FakeVolume, snapshotId: string, token: string) {
    if (token !== '' && !this.#holds(volume, token)) throw new HoldfastError('FAILED_PRECONDITION', 'no longer held');
    if (volume.deletedSnapshots.has(snapshotId))
      throw new HoldfastError('INTERNAL', `snapshot id ${snapshotId} was used before`);
    const wallMs = this.#clock.wallMs();
    const seq = volume.snapshots.size + volume.deletedSnapshots.size + 1;
    const made = { wallMs, sizeBytes: volume.sizeBytes, seq, blocks: new Map(volume.blocks) };
    const snapshot = volume.snapshots.get(snapshotId) ?? made;
    volume.snapshots.set(snapshotId, snapshot);
    return { size_bytes: snapshot.sizeBytes, wall_ms: snapshot.wallMs, seq: snapshot.seq };
  }

  #changed(volume: FakeVolume, request: holdfast.ChangedRequest) {
    const of = (id: string) => {
      const snapshot = volume.snapshots.get(id);
      if (snapshot === undefined) throw notFound(`snapshot ${id} does not exist`);
      return snapshot;
    };
    const target = of(request.target_snapshot_id ?? '');
    const base = request.base_snapshot_id ? of(request.base_snapshot_id) : undefined;
    if (base !== undefined && base.seq >= target.seq) throw new HoldfastError('INVALID_ARGUMENT', 'not older');
    const most = Math.min(this.changedLimits.extents, request.max_results || this.changedLimits.extents);
    const extents: { offset: number; length: number }[] = [];
    const from = Math.floor(Number(request.starting_offset) / 4096);
    const end = target.sizeBytes / 4096;
    for (let block = from; block < end; block++) {
      const next = { volume_size_bytes: target.sizeBytes, extents, next_offset: block * 4096 };
      if (block - from === this.changedLimits.blocks) return next;
      if (target.blocks.get(block) === base?.blocks.get(block)) continue;
      const last = extents.at(-1);
      if (last !== undefined && last.offset + last.length === block * 4096) last.length += 4096;
      else if (extents.length === most) return next;
      else extents.push({ offset: block * 4096, length: 4096 });
    }
    return { volume_size_bytes: target.sizeBytes, extents, next_offset: 0 };
  }

  #holds(volume: FakeVolume, token: string): boolean {
    return (volume.holds.get(token) ?? -1) >= this.#clock.monotonicMs();
  }

  #link(
    newVolumeId: string,
    target: { source_replica_id?: string; replica_id?: string; incarnation_id?: string },
  ): void {
    for (const node of this.nodes.values()) {
      const source = node.replicas.get(target.source_replica_id ?? '');
      if (source === undefined) continue;
      if (!node.up) throw unavailable(`node ${node.id} is down`);
      const made = {
        ...source,
        volumeId: newVolumeId,
        replicaId: target.replica_id!,
        incarnationId: target.incarnation_id!,
        setVersion: 1,
      };
      node.replicas.set(made.replicaId, made);
      return;
    }
    throw notFound(`source replica ${target.source_replica_id} does not exist`);
  }

  async #open(volumeId: VolumeId, node: FakeNode): Promise<void> {
    const record = (await this.#store.get<VolumeRecord>(keyOf.volume(volumeId)))?.value;
    if (record === undefined || record.state === 'deleting' || record.state === 'creating') {
      throw notFound(`volume ${volumeId} does not exist`);
    }
    if (record.engine?.nodeId === node.id) return;
    if (record.engine !== null && !record.engine.maintenance) {
      throw new HoldfastError('FAILED_PRECONDITION', `attached on ${record.engine.nodeId}`, { reason: 'Busy' });
    }
    const holdsReplica = record.replicas.some((replica) => node.replicas.has(replica.id));
    if (!holdsReplica && record.publications[0]?.nodeId !== node.id)
      throw new HoldfastError('FAILED_PRECONDITION', `node ${node.id} holds no replica of ${volumeId}`);
    await this.#grant(volumeId, node.id, true);
  }

  async #grant(volumeId: VolumeId, nodeId: NodeId, maintenance: boolean): Promise<void> {
    const { value } = await update<VolumeRecord>(
      this.#store,
      keyOf.volume(volumeId),
      (now) =>
        now === undefined
          ? 'unchanged'
          : {
              ...now,
              epoch: now.epoch + 1,
              reignId: '11111111-1111-4111-8111-111111111111' as ReignId,
              engine: { nodeId, maintenance, openedMs: 0 },
              publications:
                maintenance || now.publications.some((one) => one.nodeId === nodeId)
                  ? now.publications
                  : [attachedOn(nodeId)],
            },
      { clock: this.#clock },
    );
    if (value !== undefined) this.#describe(value);
  }

  #volume(id: string): FakeVolume {
    let volume = this.volumes.get(id);
    if (volume === undefined) {
      volume = {
        snapshots: new Map(),
        blocks: new Map(),
        deletedSnapshots: new Set(),
        holds: new Map(),
        sizeBytes: 0,
        qos: {},
      };
      this.volumes.set(id, volume);
    }
    return volume;
  }

  async #call<T>(name: string, node: FakeNode, work: () => T | Promise<T>): Promise<T> {
    this.calls.push(`${name}@${node.id}`);
    await this.hook(name, node.id, 'before');
    if (!node.up) throw unavailable(`node ${node.id} is down`);
    const answer = await work();
    await this.hook(name, node.id, 'after');
    return answer;
  }
}

function attachedOn(nodeId: NodeId): VolumeRecord['publications'][number] {
  return { nodeId, readOnly: false, accessMode: 'SINGLE_NODE_WRITER', accessType: 'mount', publishedMs: 0 };
}
