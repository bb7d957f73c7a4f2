// The client of one volume: has it published to a node and opened there, submits requests as a block protocol would, records every
// answer, and goes to another node when nothing happens any more. What it left behind on the former node goes on, and is judged, too.

import { HoldfastError, MiB, type NodeId, type SnapshotId } from '../../src/base/index.js';
import type { Control } from '../../src/control/index.js';
import type { BlockDevice, BlockError, BlockOp, BlockRequest } from '../../src/engine/index.js';
import type { Chance } from '../lib/crash/virtual-time.js';
import type { Request } from '../lib/crash/volume-model.js';
import type { Daemon, SimNode } from './node.js';
import { SimProcess } from './process.js';
import { callProcess } from './process-call.js';
import type { Sim } from './sim.js';
import type { SimVolume } from './volume.js';
import { fill, margin, nextWish, receiveOver } from './wishes.js';

interface Session {
  readonly daemon: Daemon;
  readonly device: BlockDevice;
  readonly epoch: number;
  /** Requests without an answer. */
  readonly open: Set<Issued>;
}

interface Issued {
  readonly request: Request;
  readonly era: number;
  readonly startedAt: number;
  /** Of a register. */
  readonly block: number | null;
  data: Buffer | null;
}

/** Nothing was answered for so long: something else must be tried. */
const STUCK_MS = { least: 2_000, most: 12_000 };
const OPEN_MS = 60_000;
const CSI_ATTEMPTS = 4;
const passingCodes: readonly string[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED'];
/** Clones are made as long as there are fewer. */
const VOLUMES_MOST = 4;

export interface ClientCounts {
  writes: number;
  reads: number;
  flushes: number;
  errors: number;
  opens: number;
  failovers: number;
  lateAnswers: number;
  orders: number;
}

export class Client {
  readonly volume: SimVolume;
  readonly counts: ClientCounts = {
    writes: 0,
    reads: 0,
    flushes: 0,
    errors: 0,
    opens: 0,
    failovers: 0,
    lateAnswers: 0,
    orders: 0,
  };
  readonly #sim: Sim;
  readonly #chance: Chance;
  readonly #process: SimProcess;
  /** Engines that were left while they ran. */
  readonly #former: Session[] = [];
  #session: Session | null = null;
  #node: SimNode;
  #progressMs = 0;
  #stuckMs = 5_000;
  #snapshots: SnapshotId[] = [];

  constructor(sim: Sim, volume: SimVolume, chance: Chance) {
    this.#sim = sim;
    this.volume = volume;
    this.#chance = chance;
    this.#process = new SimProcess(sim.time, 'client');
    this.#node = chance.pick(sim.nodes);
  }

  get session(): Session | null {
    return this.#session;
  }

  /** Goes elsewhere at the next step, though all may be well. */
  leave(): void {
    if (this.#session === null) return;
    this.counts.failovers++;
    this.#former.push(this.#session);
    if (this.#former.length > 4) this.#former.shift();
    this.#session = null;
    this.#node = this.#chance.pick(this.#sim.nodes.filter((node) => node !== this.#node)) ?? this.#node;
  }

  /** Works until `until()` says so. */
  async work(until: () => boolean): Promise<void> {
    while (!until()) {
      if (!(await this.ensureOpen(until))) return;
      await this.#step();
    }
  }

  /** An engine that serves this client; false when `until()` came first. */
  async ensureOpen(until: () => boolean): Promise<boolean> {
    for (let attempt = 0; ; attempt++) {
      this.#dropDead();
      if (this.#session !== null) return true;
      if (until()) return false;
      const others = this.#sim.nodes.filter((node) => node.serving !== null);
      if (attempt > 0 && others.length > 0 && (this.#node.serving === null || this.#chance.hit(0.3)))
        this.#node = this.#chance.pick(others);
      if (!(await this.#open())) await this.pause(this.#chance.between(100, 1_000));
    }
  }

  #dropDead(): void {
    const session = this.#session;
    if (session === null || !(session.daemon.process.dead || session.device.closed)) return;
    this.#session = null;
  }

  pause(ms: number): Promise<void> {
    return this.#process.sleep(ms);
  }

  async #open(): Promise<boolean> {
    const daemon = this.#node.serving;
    if (daemon === null) return false;
    const { volumeId } = this.volume;
    try {
      await this.#publish(this.#node.nodeId);
      const { epoch } = await this.call(daemon, OPEN_MS, () =>
        daemon.volumes.openAttached(volumeId, this.#sim.wrappingKey, false),
      );
      const device = daemon.devices.get(volumeId);
      if (device === undefined || device.closed || daemon.process.dead) return false;
      // It may be the engine that was left before.
      const former = this.#former.findIndex((one) => one.device === device);
      this.#session = this.#former.splice(former, former < 0 ? 0 : 1)[0] ?? { daemon, device, epoch, open: new Set() };
      this.#progressMs = this.#process.monotonicMs();
      this.#stuckMs = this.#chance.between(STUCK_MS.least, STUCK_MS.most);
      this.counts.opens++;
      this.#sim.note(`open ${this.#node.nodeId} ${epoch}`);
      return true;
    } catch (error) {
      this.#sim.note(`open failed ${this.#node.nodeId} ${(error as Error).message}`);
      if (!(error instanceof HoldfastError)) throw error;
      this.#sim.judgeOpenFailure(this.volume, error);
      return false;
    }
  }

  /** ControllerUnpublish elsewhere, as Kubernetes does for a node that is gone, and ControllerPublish here. */
  async #publish(nodeId: NodeId): Promise<void> {
    const { volumeId, record } = this.volume;
    for (const other of record.publications)
      if (other.nodeId !== nodeId) await this.#csi((control) => control.volumes.unpublish(volumeId, other.nodeId));
    const order = { volumeId, nodeId, readOnly: false, accessMode: 'SINGLE_NODE_WRITER', accessType: 'block' } as const;
    await this.#csi((control) => control.volumes.publish(order));
  }

  #csi<T>(work: (control: Control) => Promise<T>): Promise<T> {
    return this.#sim.callController(this.#process, work);
  }

  call<T>(daemon: Daemon, timeoutMs: number, work: () => Promise<T>): Promise<T> {
    return callProcess(this.#sim.time, this.#process, daemon.process, timeoutMs, work);
  }

  // --- Steps ----------------------------------------------------------------------------------------------------------

  async #step(): Promise<void> {
    const { client, volumes } = this.#sim.settings;
    const chance = this.#chance;
    const session = this.#session;
    // Made to leave in the very moment in which it had opened.
    if (session === null) return;
    if (session.open.size >= client.depth) {
      await this.#wait(session);
      return;
    }
    if (chance.hit(client.orderShare)) return this.#order();
    const count = chance.hit(0.3) ? chance.between(1, Math.max(1, client.depth - session.open.size)) : 1;
    this.#submit(session, count);
    const former = this.#former.at(-1);
    if (former !== undefined && chance.hit(0.2)) this.#submit(former, 1);
    if (chance.hit(0.5)) await this.pause(chance.next() * client.pauseMs * volumes);
    if (chance.hit(0.005)) await this.pause(chance.between(1_500, 4_000));
  }

  /** Until something is answered; leaves when that takes too long. */
  async #wait(session: Session): Promise<void> {
    const before = session.open.size;
    while (session.open.size >= before && this.#session === session) {
      if (this.#process.monotonicMs() - this.#progressMs > this.#stuckMs && this.#sim.nodes.length > 1) {
        this.leave();
        return;
      }
      await this.pause(1);
      this.#dropDead();
    }
  }

  /** Resolves when nothing is in flight. False when the engine was lost meanwhile. */
  async drained(): Promise<boolean> {
    const session = this.#session;
    if (session === null) return false;
    while (session.open.size > 0 && this.#session === session) {
      await this.pause(1);
      this.#dropDead();
    }
    return this.#session === session;
  }

  #submit(session: Session, count: number): void {
    const requests = Array.from({ length: count }, () => this.#request(session));
    const payloads = requests.map(({ op, data }) => (op === 'write' ? data : null));
    session.daemon.process.run(() => {
      session.device.submit(requests);
      for (const [i, bytes] of payloads.entries()) if (bytes !== null) receiveOver(requests[i]!, bytes);
    });
  }

  #request(session: Session): BlockRequest {
    const { op, offset, length, block, fua } = nextWish(
      this.#chance,
      this.#sim.settings.client,
      session.device.sizeBytes,
    );
    return this.#issue(session, op, offset, length, block, fua);
  }

  #issue(
    session: Session,
    op: BlockOp,
    offset: number,
    length: number,
    block: number | null,
    fua: boolean,
  ): BlockRequest {
    const { model, registers, era } = this.volume;
    const id = model.nextId();
    const data =
      op === 'write' ? fill(this.#chance, id, offset, length) : op === 'read' ? Buffer.alloc(length, 0xa5) : null;
    const request = model.submitted(op, offset, length, op === 'write' ? data : null, fua);
    const issued: Issued = { request, era, startedAt: this.#sim.tick(), block, data: op === 'read' ? data : null };
    if (block !== null && op === 'write') registers.began(block, id, issued.startedAt);
    session.open.add(issued);
    return {
      op,
      offset,
      length,
      fua,
      data: op === 'write' ? Buffer.concat([margin, data!]) : data,
      dataAt: op === 'write' ? margin.length : 0,
      cancelled: false,
      complete: (error) => {
        if (session.daemon.process.dead) return;
        try {
          this.#completed(session, issued, error);
        } catch (caught) {
          this.#sim.fail(caught as Error);
        }
      },
    };
  }

  #completed(session: Session, issued: Issued, error: BlockError | null): void {
    const { request } = issued;
    const { op } = request;
    session.open.delete(issued);
    if (session === this.#session) this.#progressMs = this.#process.monotonicMs();
    const at = this.#sim.tick();
    const { model, servingEpoch } = this.volume;
    this.#sim.note(`${op} ${request.id} at ${request.offset} of ${request.length} ${error ?? 'done'}`);
    const late = session.epoch < servingEpoch;
    if (error === null && late) {
      this.counts.lateAnswers++;
      this.#sim.lateAnswer(this.volume, session.epoch, op);
    }
    // Of a flush by a former engine nothing follows for what the next one acknowledged.
    model.completed(request, op === 'flush' && late && error === null ? 'ESHUTDOWN' : error);
    if (error !== null) {
      this.counts.errors++;
      this.#judgeError(op, request.id, error);
      return;
    }
    if (op === 'flush') this.counts.flushes++;
    else if (op === 'read') {
      this.counts.reads++;
      model.checkRead(request, session.epoch, issued.data!);
      if (issued.block !== null && issued.era === this.volume.era)
        this.volume.registers.read(issued.block, issued.data!.readUInt32LE(0), issued.startedAt, at);
    } else {
      this.counts.writes++;
      if (issued.block !== null && issued.era === this.volume.era)
        this.volume.registers.acknowledged(issued.block, request.id, at);
    }
  }

  /** Shutting down is always right; a full disk only where one was made; nothing else ever. */
  #judgeError(op: BlockOp, id: number, error: BlockError): void {
    if (error === 'ESHUTDOWN') return;
    if (error === 'ENOSPC' && this.#sim.fullDisks) return;
    if (error === 'EIO' && op === 'read' && this.#sim.damaged) return;
    throw new Error(`${op} ${id} failed with ${error}`);
  }

  /** The process is gone: what it had not answered will never be. */
  processDied(daemon: Daemon): void {
    for (const session of [this.#session, ...this.#former]) {
      if (session === null || session.daemon !== daemon) continue;
      for (const { request } of session.open) this.volume.model.completed(request, 'ESHUTDOWN');
      session.open.clear();
    }
    this.#dropDead();
  }

  // --- Orders ---------------------------------------------------------------------------------------------------------

  async #order(): Promise<void> {
    const chance = this.#chance;
    const dice = chance.next();
    this.counts.orders++;
    try {
      if (dice < 0.45 || (dice < 0.8 && this.#snapshots.length === 0)) await this.#snapshot();
      else if (dice < 0.6 && this.#sim.volumes.length < VOLUMES_MOST) await this.#clone(chance.pick(this.#snapshots));
      else if (dice < 0.8) {
        const [gone] = this.#snapshots.splice(chance.below(this.#snapshots.length), 1);
        await this.#repeated((control) => control.snapshots.delete(gone!));
      } else if (dice < 0.9) {
        const requiredBytes = this.#session!.device.sizeBytes + chance.between(1, 4) * MiB;
        await this.#repeated((control) =>
          control.volumes.expand(this.volume.volumeId, { requiredBytes, limitBytes: 0 }),
        );
      } else await this.close();
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      this.#sim.note(`order failed ${error.message}`);
    }
  }

  /** A CSI call that is repeated as sidecars do, but not for ever. */
  async #repeated<T>(work: (control: Control) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#csi(work);
      } catch (error) {
        const passing = error instanceof HoldfastError && passingCodes.includes(error.code);
        if (!passing || attempt === CSI_ATTEMPTS) throw error;
        await this.pause(500 * attempt);
      }
    }
  }

  async #snapshot(): Promise<void> {
    const { volumeId, model } = this.volume;
    const name = `snapshot ${this.#chance.uuid()}`;
    const { id } = await this.#repeated((control) => control.snapshots.create(name, volumeId));
    this.#snapshots.push(id);
    model.ordered((effect) => effect.kind === 'freeze' && effect.snapshotId === id, 'freeze');
  }

  /** A volume of its own out of a snapshot, on nodes of replicas that are in sync. */
  async #clone(snapshotId: SnapshotId): Promise<void> {
    const order = this.#sim.volumeOrder(`clone ${this.#chance.uuid()}`, { kind: 'snapshot', id: snapshotId });
    const record = await this.#repeated((control) => control.creation.create(order));
    this.#sim.addClone(this.volume, snapshotId, record);
  }

  /** DeleteVolume, after it was closed and unpublished everywhere. */
  async deleteVolume(): Promise<void> {
    const { volumeId } = this.volume;
    await this.#repeated((control) => control.volumes.unpublish(volumeId, ''));
    await this.#repeated((control) => control.volumes.delete(volumeId));
  }

  /** An orderly close, as at unstage. */
  async close(): Promise<void> {
    const { daemon } = this.#session!;
    await this.call(daemon, 60_000, () => daemon.volumes.close(this.volume.volumeId, 0));
    this.#dropDead();
  }

  get snapshots(): readonly SnapshotId[] {
    return this.#snapshots;
  }

  /** A stretch of the volume; null when the engine was lost meanwhile. */
  async readAt(offset: number, length: number): Promise<Buffer | null> {
    const session = this.#session;
    if (session === null) return null;
    const data = Buffer.alloc(length, 0xa5);
    let outcome: BlockError | null | undefined;
    session.daemon.process.run(() =>
      session.device.submit([
        {
          op: 'read',
          offset,
          length,
          fua: false,
          data,
          dataAt: 0,
          cancelled: false,
          complete: (error) => {
            outcome = error;
          },
        },
      ]),
    );
    while (outcome === undefined && !session.daemon.process.dead) await this.pause(1);
    if (outcome === null) return data;
    if (outcome === 'ESHUTDOWN' || outcome === undefined) return null;
    throw new Error(`read at ${offset}: ${outcome}`);
  }

  /** The node to open at next. */
  prefer(node: SimNode): void {
    this.#node = node;
  }
}
