// What the controller does with volumes that exist: delete, publish, unpublish, expand, modify, list. Intents go into the
// record by compare-and-swap first; then the engine, where one is open, is told. Repeating any of it is harmless.

import {
  type Clock,
  formatBytes,
  HoldfastError,
  isUuid,
  type Logger,
  type NodeId,
  notFound,
  precondition,
  printable,
  type VolumeId,
} from '../base/index.js';
import { keyOf, type Publication, type Qos, type VolumeRecord } from '../meta/index.js';
import type { KeyedLocks } from '../rpc/index.js';
import type { EngineOrders } from './engine-orders.js';
import { ORDER_DEADLINE_MS } from './limits.js';
import { nameHash } from './names.js';
import type { Nodes } from './nodes.js';
import { type Page, type PageRequest, pageOf } from './paging.js';
import { checkCopies, parseMutable } from './parameters.js';
import { roomOf } from './placement.js';
import type { Records } from './records.js';
import type { Repairs } from './repairs.js';
import type { ReplicaSteps } from './replica-steps.js';
import type { SerialQueue } from './serial-queue.js';
import { chooseSize, type SizeRange } from './size.js';
import type { Tombstones } from './tombstones.js';
import { readyVolume, refusePublished, stillReady } from './volume-state.js';

export interface PublishOrder {
  readonly volumeId: string;
  readonly nodeId: string;
  readonly readOnly: boolean;
  readonly accessMode: string;
  readonly accessType: 'mount' | 'block';
}

export interface VolumesOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly orders: EngineOrders;
  readonly tombstones: Tombstones;
  readonly steps: ReplicaSteps;
  readonly repairs: Repairs;
  readonly locks: KeyedLocks;
  readonly intents: SerialQueue;
  readonly clock: Clock;
  readonly logger: Logger;
  /** 0: no limit. */
  readonly maxVolumesPerNode: number;
  readonly overcommit: number;
}

export class Volumes {
  readonly #options: VolumesOptions;

  constructor(options: VolumesOptions) {
    this.#options = options;
  }

  get(id: string): Promise<VolumeRecord> {
    return readyVolume(this.#options.records, id);
  }

  list(request: PageRequest): Promise<Page<VolumeRecord>> {
    const { records } = this.#options;
    const where = { store: records.store, prefix: 'volume/' };
    return pageOf(where, request, (record: VolumeRecord) => record.state === 'ready');
  }

  /** In whatever state. Throws NOT_FOUND. */
  async find(id: string): Promise<VolumeRecord> {
    const record = isUuid(id) ? await this.#options.records.volume(id as VolumeId) : undefined;
    if (record === undefined) throw notFound(`volume ${printable(id)} does not exist`);
    return record;
  }

  /** In whatever state. */
  listAll(request: PageRequest): Promise<Page<VolumeRecord>> {
    return pageOf({ store: this.#options.records.store, prefix: 'volume/' }, request, () => true);
  }

  /** Resolves once the deletion is certain to happen. An id that names nothing is no error. */
  async delete(id: string): Promise<void> {
    if (!isUuid(id)) return;
    const volumeId = id as VolumeId;
    await this.#options.locks.run('DeleteVolume', `volume ${id}`, () => this.#delete(volumeId));
  }

  async #delete(id: VolumeId): Promise<void> {
    const { records, tombstones, intents } = this.#options;
    const marked = await intents.run(() => this.#markDeleted(id));
    if (marked?.state !== 'deleting') return;
    await records.freeName(keyOf.volumeName(nameHash(marked.name)), id);
    await tombstones.tryVolume(id);
  }

  /** From here on nothing new can begin with the volume. */
  async #markDeleted(id: VolumeId): Promise<VolumeRecord | undefined> {
    await this.#refuseSource(id);
    return this.#options.records.change<VolumeRecord>(keyOf.volume(id), (now) => {
      if (now.state === 'snapshots-only' || now.state === 'deleting') return 'unchanged';
      refusePublished(now);
      return { ...now, state: 'deleting' };
    });
  }

  async #refuseSource(id: VolumeId): Promise<void> {
    const clone = (await this.#options.records.unfinishedVolumes()).find(
      (volume) =>
        volume.state === 'creating' && volume.source?.sourceVolumeId === id && volume.source.kind === 'volume',
    );
    if (clone !== undefined)
      throw precondition(`volume ${id} is being cloned into ${clone.id}; delete it when that is done`, 'Busy');
  }

  /** Records that the volume may be used on the node. */
  publish(order: PublishOrder): Promise<VolumeRecord> {
    // Counting a node's volumes and adding one is one step.
    return this.#options.intents.run(() => this.#publish(order));
  }

  async #publish(order: PublishOrder): Promise<VolumeRecord> {
    const { records, clock } = this.#options;
    const present = await readyVolume(records, order.volumeId);
    const nodeId = await this.#knownNode(order.nodeId);
    const before = present.publications.find((publication) => publication.nodeId === nodeId);
    if (before === undefined) await this.#refuseFullNode(nodeId);
    if (
      present.parameters.dataLocality === 'required' &&
      !present.replicas.some((replica) => replica.nodeId === nodeId && replica.state === 'ok')
    ) {
      throw precondition(`volume ${present.id} has dataLocality required and no replica on node ${nodeId}`);
    }
    const publication: Publication = {
      nodeId,
      readOnly: order.readOnly,
      accessMode: order.accessMode,
      accessType: order.accessType,
      publishedMs: clock.wallMs(),
    };
    const done = await records.change<VolumeRecord>(keyOf.volume(present.id), (now) => {
      stillReady(now);
      const elsewhere = now.publications.find((other) => other.nodeId !== nodeId);
      if (elsewhere !== undefined) {
        throw precondition(
          `volume ${now.id} is published on node ${elsewhere.nodeId} already and allows one node at a time`,
          'Busy',
        );
      }
      const same = now.publications.find((other) => other.nodeId === nodeId);
      if (same !== undefined) {
        refuseOther(now.id, same, publication);
        return 'unchanged';
      }
      return { ...now, publications: [publication] };
    });
    if (done === undefined) throw notFound(`volume ${present.id} does not exist any more`);
    return done;
  }

  async #knownNode(id: string): Promise<NodeId> {
    const nodes = await this.#options.nodes.list();
    const node = nodes.find((known) => known.id === id);
    if (node === undefined)
      throw notFound(`node ${printable(id)} does not exist: no storage daemon registered under this name`);
    return node.id;
  }

  async #refuseFullNode(nodeId: NodeId): Promise<void> {
    const { records, maxVolumesPerNode } = this.#options;
    if (maxVolumesPerNode === 0) return;
    const volumes = await records.volumes();
    const used = volumes.filter((volume) =>
      volume.publications.some((publication) => publication.nodeId === nodeId),
    ).length;
    if (used < maxVolumesPerNode) return;
    throw new HoldfastError(
      'RESOURCE_EXHAUSTED',
      `node ${nodeId} has ${used} volumes, at most ${maxVolumesPerNode} are allowed`,
    );
  }

  /** `nodeId` empty: from every node. A volume that does not exist counts as unpublished. */
  async unpublish(id: string, nodeId: string): Promise<void> {
    if (!isUuid(id)) return;
    await this.#options.intents.run(() =>
      this.#options.records.change<VolumeRecord>(keyOf.volume(id as VolumeId), (now) => {
        const left = nodeId === '' ? [] : now.publications.filter((publication) => publication.nodeId !== nodeId);
        return left.length === now.publications.length ? 'unchanged' : { ...now, publications: left };
      }),
    );
  }

  /** Grows the volume; asking for what it has already is no change. Throws OUT_OF_RANGE, RESOURCE_EXHAUSTED. */
  async expand(id: string, range: SizeRange): Promise<VolumeRecord> {
    const { locks } = this.#options;
    return locks.run('ControllerExpandVolume', `volume ${id}`, () => this.#expand(id, range));
  }

  async #expand(id: string, range: SizeRange): Promise<VolumeRecord> {
    const { records, orders } = this.#options;
    const present = await readyVolume(records, id);
    const wanted = chooseSize(range, present.sizeBytes);
    if (range.limitBytes !== 0 && present.sizeBytes > range.limitBytes) {
      throw new HoldfastError(
        'OUT_OF_RANGE',
        `volume ${present.id} has ${present.sizeBytes} bytes already, above limit_bytes ${range.limitBytes}; volumes never shrink`,
        { reason: 'BadField' },
      );
    }
    if (wanted > present.sizeBytes) await this.#refuseNoRoom(present, wanted);
    const done = await records.change<VolumeRecord>(keyOf.volume(present.id), (now) => {
      stillReady(now);
      return wanted > now.sizeBytes ? { ...now, sizeBytes: wanted } : 'unchanged';
    });
    if (done === undefined) throw notFound(`volume ${present.id} does not exist any more`);
    await orders.giveIfOpen(done, `size ${done.sizeBytes} of volume ${done.id}`, (engine) =>
      engine.Resize({ volume_id: done.id, size_bytes: done.sizeBytes }, { deadlineMs: ORDER_DEADLINE_MS }),
    );
    return done;
  }

  async #refuseNoRoom(present: VolumeRecord, wanted: number): Promise<void> {
    const { nodes, overcommit } = this.#options;
    const known = await nodes.forPlacement();
    for (const replica of present.replicas) {
      const pool = known.find((node) => node.id === replica.nodeId)?.pools.find((held) => held.id === replica.poolId);
      if (pool === undefined || replica.state === 'lost') continue;
      const room = roomOf(pool, overcommit);
      if (room >= wanted - present.sizeBytes) continue;
      throw new HoldfastError(
        'RESOURCE_EXHAUSTED',
        `volume ${present.id} can't grow to ${formatBytes(wanted)}: its pool on node ${replica.nodeId} has room for ${formatBytes(room)} more`,
        { reason: 'NoSpace' },
      );
    }
  }

  /** Changes what the keys name and nothing else. Throws INVALID_ARGUMENT before anything was changed. */
  async modify(id: string, parameters: Readonly<Record<string, string>>): Promise<void> {
    await this.#options.locks.run('ControllerModifyVolume', `volume ${id}`, async () => {
      const { records, orders } = this.#options;
      const present = await readyVolume(records, id);
      const change = parseMutable(parameters);
      checkCopies({ ...present.parameters, ...change.copies });
      await this.#refuseNoPlace(present, change.copies.replicas);
      const done = await records.change<VolumeRecord>(keyOf.volume(present.id), (now) => {
        stillReady(now);
        const copies = { ...now.parameters, ...change.copies };
        checkCopies(copies);
        return { ...now, qos: { ...now.qos, ...change.qos }, parameters: copies };
      });
      if (done === undefined) throw notFound(`volume ${present.id} does not exist any more`);
      const what = `the change of volume ${done.id}`;
      const request = { volume_id: done.id, qos: qosMessage(done.qos) };
      await orders.giveIfOpen(done, what, (engine) => engine.SetQos(request, { deadlineMs: ORDER_DEADLINE_MS }));
      // More or fewer copies are made by the repair loop; how many of them writes need counts from now on.
      if (change.copies.minReplicas === undefined) return;
      const members = { volume_id: done.id, if_open: true };
      await orders.giveIfOpen(done, what, (engine) => engine.Members(members, { deadlineMs: ORDER_DEADLINE_MS }));
    });
  }

  /** More copies than there are places for are refused before anything is changed. Throws RESOURCE_EXHAUSTED. */
  async #refuseNoPlace(present: VolumeRecord, wanted = 0): Promise<void> {
    const more = wanted - Math.max(present.parameters.replicas, present.replicas.length);
    if (more <= 0) return;
    const { steps, repairs } = this.#options;
    await steps.findPlaces(present, more, await repairs.facts());
  }
}

function refuseOther(id: VolumeId, have: Publication, wanted: Publication): void {
  const differs = (['readOnly', 'accessMode', 'accessType'] as const).find((field) => have[field] !== wanted[field]);
  if (differs === undefined) return;
  throw new HoldfastError(
    'ALREADY_EXISTS',
    `volume ${id} is published on node ${have.nodeId} with ${differs} ${String(have[differs])}, not ${String(wanted[differs])}; unpublish it first`,
  );
}

function qosMessage(qos: Qos) {
  return {
    max_read_iops: qos.maxReadIops ?? 0,
    max_write_iops: qos.maxWriteIops ?? 0,
    max_read_bps: qos.maxReadBps ?? 0,
    max_write_bps: qos.maxWriteBps ?? 0,
  };
}
