// One volume under test: its model and registers, and what the crashes so far allow to be missing.

import type { LineageId, ReplicaId, SnapshotId, VolumeId } from '../../src/base/index.js';
import { crc32c } from '../../src/base/index.js';
import type { Cipher } from '../../src/format/index.js';
import {
  decodeEntry,
  decodeFrame,
  entryKind,
  FRAME_HEADER_SIZE,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
} from '../../src/format/index.js';
import { KeyRing } from '../../src/hotpath/index.js';
import type { VolumeRecord } from '../../src/meta/index.js';
import { VolumeModel, type VolumeState } from '../lib/crash/volume-model.js';
import { RegisterHistory } from './registers.js';

export interface VolumeParts {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly sizeBytes: number;
  readonly cipher: Cipher;
  readonly dataKey: Buffer | null;
  /** The next point on the scale of all events. */
  readonly tick: () => number;
  /** Of a clone: what it was made from, and what that held then. */
  readonly origin?: { readonly source: SimVolume; readonly frozen: VolumeState };
}

/** Seals that were seen: what may be sealed with a (reign, record number) never changes. Shared by volumes of one lineage. */
export class SealBook {
  readonly #seals = new Map<string, number>();

  note(reignId: string, recordNumber: number, checksum: number): void {
    const name = `${reignId}/${recordNumber}`;
    const before = this.#seals.get(name);
    if (before === undefined) this.#seals.set(name, checksum);
    else if (before !== checksum) throw new Error(`record ${recordNumber} of reign ${reignId} was sealed twice`);
  }
  get size(): number {
    return this.#seals.size;
  }
}

export class SimVolume {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly cipher: Cipher;
  readonly dataKey: Buffer | null;
  readonly model: VolumeModel;
  readonly registers = new RegisterHistory();
  readonly seals: SealBook;
  /** Counts the crashes that took acknowledged writes back. */
  era = 0;
  /** The record as it stands in the store. */
  record!: VolumeRecord;
  /** The highest epoch whose engine has opened. */
  servingEpoch = 0;
  opens = 0;
  /** Members whose machine lost power since they were last known to hold everything on stable storage. */
  readonly #suspects = new Set<ReplicaId>();
  /** Members whose disk was damaged, emptied, rolled back or failed, until they were made whole. */
  readonly #destroyed = new Set<ReplicaId>();
  /** Members that hold rotten bytes which nobody may have found yet. */
  readonly #rotten = new Set<ReplicaId>();
  /** Of the destroyed, members whose disk went back in time without a trace of it. */
  readonly #rolledBack = new Set<ReplicaId>();
  #mayHaveLost = false;
  readonly #reigns = new Map<number, string>();
  readonly #seen = new WeakSet<Uint8Array>();
  checkedFloors = 0;

  constructor(parts: VolumeParts) {
    this.volumeId = parts.volumeId;
    this.lineageId = parts.lineageId;
    this.cipher = parts.cipher;
    this.dataKey = parts.dataKey;
    const { source, frozen } = parts.origin ?? {};
    this.seals = source?.seals ?? new SealBook();
    const base: VolumeState = frozen ?? { sizeBytes: parts.sizeBytes, blocks: new Map(), snapshots: new Map() };
    const keys = new KeyRing(parts.lineageId, parts.dataKey);
    if (source === undefined) {
      this.model = new VolumeModel(keys, base, parts.tick, null);
      return;
    }
    // Requests of both have names of their own: what a block holds tells who wrote it.
    const start = {
      frames: new Map(),
      floors: [],
      touched: new Set(source.model.touched),
      rootDigest: null,
      nextRequest: source.model.nextId() + 1_000_000,
    };
    this.model = new VolumeModel(keys, base, parts.tick, start, source.model);
    for (const [epoch, reignId] of source.#reigns) this.granted(epoch, reignId);
  }

  /** What a snapshot must hold. */
  frozen(snapshotId: SnapshotId): VolumeState {
    const { model } = this;
    for (const frame of model.frames.values()) {
      if (!frame.effects.some((effect) => effect.kind === 'freeze' && effect.snapshotId === snapshotId)) continue;
      const { sizeBytes, blocks } = model.stateAt(frame.digest).snapshots.get(snapshotId)!;
      return { sizeBytes, blocks: new Map(blocks), snapshots: new Map() };
    }
    throw new Error(`no frame freezes ${snapshotId}`);
  }

  granted(epoch: number, reignId: string): void {
    this.#reigns.set(epoch, reignId);
    this.model.keys.addReign({ epoch, reignId: reignId as never });
  }

  changed(record: VolumeRecord): void {
    this.record = record;
    this.#judge();
  }

  /** A machine lost power: its replica may lack what was not synced. */
  powerLost(nodeId: string): void {
    const replica = this.record.replicas.find((one) => one.nodeId === nodeId);
    if (replica === undefined) return;
    this.#suspects.add(replica.id);
    this.#judge();
  }

  /** Whether the replica there can be damaged and a member remains that has everything. */
  mayDestroy(nodeId: string): boolean {
    return this.record.inSync.some((id) => {
      const replica = this.record.replicas.find((one) => one.id === id)!;
      return replica.nodeId !== nodeId && !this.#lacksSome(id) && !this.#suspects.has(id);
    });
  }
  #lacksSome(id: ReplicaId): boolean {
    return this.#destroyed.has(id) || this.#rotten.has(id);
  }

  /** A clone begins with the files of its source, and with what is wrong with them. */
  inherit(source: SimVolume): void {
    for (const { id, nodeId } of source.record.replicas) {
      if (source.#rotten.has(id)) this.rotten(nodeId);
      if (source.#destroyed.has(id)) this.destroyed(nodeId);
    }
  }

  rotten(nodeId: string): void {
    const replica = this.#replicaOn(nodeId);
    if (replica !== undefined) this.#rotten.add(replica);
  }

  destroyed(nodeId: string, rolledBack = false): void {
    const replica = this.#replicaOn(nodeId);
    if (replica === undefined) return;
    this.#destroyed.add(replica);
    if (rolledBack) this.#rolledBack.add(replica);
  }

  /** Some member lost bytes. */
  get damaged(): boolean {
    return this.record.inSync.some((id) => this.#lacksSome(id));
  }

  /** No member is left that is known to have everything: then nothing but waiting, or a person, helps. */
  get mayBeOffline(): boolean {
    const { inSync } = this.record;
    const bad = inSync.filter((id) => this.#lacksSome(id));
    return bad.length > 0 && inSync.every((id) => this.#lacksSome(id) || this.#suspects.has(id));
  }

  #replicaOn(nodeId: string): ReplicaId | undefined {
    return this.record.replicas.find((one) => one.nodeId === nodeId)?.id;
  }

  /** The engine of the newest reign says that this replica has everything, synced. */
  caughtUp(nodeId: string, epoch: number): void {
    if (epoch !== this.record.epoch) return;
    const replica = this.record.replicas.find((one) => one.nodeId === nodeId);
    if (replica === undefined) return;
    this.#suspects.delete(replica.id);
    this.#destroyed.delete(replica.id);
    this.#rolledBack.delete(replica.id);
  }

  /** Promise 1: acknowledged, unflushed writes may be gone only when every in-sync replica lost power. */
  #judge(): void {
    if (this.record.inSync.every((id) => this.#suspects.has(id))) this.#mayHaveLost = true;
  }

  /** An engine of `epoch` is about to send these bytes. */
  sending(bytes: Uint8Array, offset: number, epoch: number): void {
    if (this.#seen.has(bytes)) return;
    this.#seen.add(bytes);
    this.model.sent(bytes, offset, epoch);
    if (this.cipher !== 'none') this.#noteSeals(bytes, offset);
  }

  #noteSeals(bytes: Uint8Array, offset: number): void {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = offset === 0 ? SEGMENT_HEADER_SIZE : 0; at < buffer.length; ) {
      const header = decodeFrame(buffer, at, false);
      if (typeof header === 'string') throw new Error(`an engine sent a bad frame (${header})`);
      const end = at + FRAME_HEADER_SIZE + header.bodyLength;
      for (let entry = at + FRAME_HEADER_SIZE; entry < end; ) {
        const head = decodeEntry(buffer, entry, end);
        if (typeof head === 'string') throw new Error(`an engine sent a bad entry (${head})`);
        if (head.kind === entryKind.record) {
          const record = readRecordHeader(buffer, entry)!;
          const reign = this.#reigns.get(record.epoch);
          if (reign === undefined) throw new Error(`a record of epoch ${record.epoch}, which was never granted`);
          this.seals.note(reign, record.recordNumber, crc32c(buffer.subarray(entry + 16, entry + head.length)));
        }
        entry += Math.ceil(head.length / 64) * 64;
      }
      at = end;
    }
  }

  /** The engine of `epoch` serves: everything promised before must be in the log that it took over. */
  opened(epoch: number): void {
    this.opens++;
    const { model } = this;
    const end = model.takenOver.get(epoch);
    if (end === undefined) throw new Error(`reign ${epoch} serves without having sent a frame`);
    const there = new Set(model.chain(end).map((frame) => frame.digest));
    let lost = 0;
    for (const floor of model.floors) {
      this.checkedFloors++;
      if (floor.frame.epoch === epoch || there.has(floor.frame.digest)) continue;
      lost++;
      if (floor.kind === 'acked' && this.#mayHaveLost) continue;
      // Design section 6: a log that went back in time is told by "a point that was flushed on all in-sync replicas", which "is kept
      // in the store at close and at intervals". What came after that point is not promised of such a log.
      if (this.#rolledBack.size > 0 && floor.frame.seq > (this.record.flushedPoint?.seq ?? 0)) continue;
      const { seq, epoch: of } = floor.frame;
      throw new Error(
        `lost: frame ${seq} of epoch ${of} (${floor.kind}: ${floor.why}) is not in the log that reign ${epoch} took over` +
          (this.#mayHaveLost ? ', though it was durable' : ', though not every in-sync replica lost power'),
      );
    }
    const own = model.floors.filter((floor) => floor.frame.epoch === epoch);
    model.floors.splice(0, model.floors.length, ...own);
    model.opened(epoch);
    if (lost > 0) {
      const { blocks } = model.stateAt(end);
      this.registers.newEra((block) => blocks.get(block)?.readUInt32LE(0) ?? 0);
      this.era++;
    }
    this.#suspects.clear();
    for (const id of this.#rolledBack) {
      // Whoever is a member now was brought to the common end.
      if (this.record.inSync.includes(id)) this.#destroyed.delete(id);
    }
    this.#rolledBack.clear();
    this.#mayHaveLost = false;
    this.servingEpoch = Math.max(this.servingEpoch, epoch);
    this.#judge();
  }

  /** What the newest frame of the newest engine leaves. */
  stateNow(): VolumeState {
    return this.model.stateOf(this.servingEpoch)!;
  }
}
