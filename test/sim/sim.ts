// One simulated run by its seed: a cluster of nodes with the real daemons on virtual time, clients that work and remember, faults;
// then everything is healed, and all of it must serve again, be whole again, and hold what was promised.

import {
  HoldfastError,
  messageOf,
  SECRET_FIELD,
  type SnapshotId,
  unavailable,
  unwrapDataKey,
  type VolumeId,
} from '../../src/base/index.js';
import { anywhere, type Control, parseClass, type SourceRef, type VolumeOrder } from '../../src/control/index.js';
import type { VolumeRecord } from '../../src/meta/index.js';
import { Pool } from '../../src/segment/index.js';
import type { ReplicaStatus } from '../../src/wire/index.js';
import { Chance, VirtualTime } from '../lib/crash/virtual-time.js';
import { RecordingDisk, randomChoice } from '../lib/recording-disk.js';
import { Client } from './client.js';
import { Controller } from './controller.js';
import { Nemesis } from './faults.js';
import { checkAfterwards } from './final-checks.js';
import { SimNet } from './net.js';
import { Daemon, type DaemonHooks, poolPath, SimNode } from './node.js';
import { type Outcome, outcomeOf } from './outcome.js';
import { SimProcess } from './process.js';
import { callProcess } from './process-call.js';
import type { Settings } from './settings.js';
import { SimStore } from './store.js';
import { Trace } from './trace.js';
import { SimVolume, type VolumeParts } from './volume.js';

/** As the sidecars wait. */
const CSI_CALL_MS = 15_000;

export interface RunOptions {
  /** Keeps what happened, line by line. */
  readonly onEvent?: (line: string) => void;
}

export class Sim {
  readonly settings: Settings;
  readonly trace: Trace;
  readonly time = new VirtualTime();
  readonly net: SimNet;
  readonly store: SimStore;
  readonly nodes: SimNode[] = [];
  readonly volumes: SimVolume[] = [];
  readonly clients: Client[] = [];
  readonly wrappingKey: Buffer;
  /** Some disk is or was full; some replica's bytes are not what was written. */
  fullDisks = false;
  damaged = false;
  readonly #chance: Chance;
  readonly #diskChance: Chance;
  /** The clients at work, and when they end. */
  readonly #work: Promise<void>[] = [];
  #ended: () => boolean = () => true;
  controller: Controller | null = null;
  /** A replica is about to be brought up to date. */
  onJoining: (node: SimNode) => void = () => {};
  #tick = 0;
  #fatal: Error | null = null;

  constructor(settings: Settings, options: RunOptions = {}) {
    this.settings = settings;
    this.trace = new Trace(() => this.time.now, options.onEvent);
    this.trace.onLog = (fields, message) => {
      if (message !== 'replica caught up') return;
      const volume = this.volumes.find((one) => one.volumeId === fields.volume);
      volume?.caughtUp(String(fields.node), Number(fields.epoch));
    };
    const { seed } = settings;
    this.#chance = new Chance(seed * 16 + 2);
    this.#diskChance = new Chance(seed * 16 + 3);
    this.wrappingKey = this.#chance.bytes(32);
    this.net = new SimNet({
      time: this.time,
      chance: new Chance(seed * 16 + 4),
      habits: settings.net,
      up: (node) => this.nodes.find((one) => one.nodeId === node)?.up ?? true,
      trace: (what) => this.note(what),
    });
    this.store = new SimStore({
      time: this.time,
      chance: new Chance(seed * 16 + 5),
      net: this.net,
      fatal: (error) => this.fail(error),
    });
    this.store.onVolume = (record) => this.volumes.find((one) => one.volumeId === record.id)?.changed(record);
  }

  readonly tick = (): number => this.#tick++;

  /** Part of the run's trace. */
  note(what: string): void {
    this.trace.note(what);
  }
  reached(name: string): void {
    this.trace.reached(name);
  }
  fault(kind: string, what: string): void {
    this.trace.fault(kind, what);
  }
  /** A promise was broken: the run ends. */
  fail(error: Error): void {
    if (this.#fatal !== null) return;
    this.#fatal = error;
    this.note(`FAILED ${error.message}`);
  }

  // --- The run --------------------------------------------------------------------------------------------------------

  async run(): Promise<Outcome> {
    const onRejection = (error: unknown) => this.fail(error instanceof Error ? error : new Error(String(error)));
    process.on('unhandledRejection', onRejection);
    try {
      await this.#drive(this.#life(), 3_600_000);
    } catch (error) {
      if (error instanceof Error)
        error.message = `seed ${this.settings.seed}, ${Math.round(this.time.now)} ms: ${error.message}${this.trace.warnings}`;
      throw error;
    } finally {
      process.off('unhandledRejection', onRejection);
    }
    return outcomeOf(this);
  }

  /** Lets the world go on until the promise settles. */
  async #drive(work: Promise<void>, limitMs: number): Promise<void> {
    let over = false;
    let failure: unknown;
    work.then(
      () => {
        over = true;
      },
      (error: unknown) => {
        over = true;
        failure = error;
      },
    );
    while (!over) {
      if (this.#fatal !== null) throw this.#fatal;
      if (this.time.now > limitMs) throw new Error('hangs: the run takes an hour of virtual time');
      if (!(await this.time.step()) && !over) throw new Error('hangs: nothing is left to happen');
    }
    if (this.#fatal !== null) throw this.#fatal;
    if (failure !== undefined) throw failure;
  }

  async #life(): Promise<void> {
    const { settings } = this;
    this.startController();
    for (let i = 0; i < settings.nodes; i++) await this.#addNode(i);
    while (!this.nodes.every((node) => node.daemon?.registered)) await this.pause(10);
    for (let i = 0; i < settings.volumes; i++) await this.#addVolume();
    for (const node of this.nodes) node.setupChanges = node.disk.journal.length;
    if (settings.drift > 0) this.reached('clocks drift');
    if (settings.leaseless) this.reached('without a lease');
    const nemesis = new Nemesis(this, new Chance(settings.seed * 16 + 7));
    const endMs = this.time.now + settings.safetyMs;
    const written = () => this.clients.reduce((sum, { counts }) => sum + counts.writes, 0);
    const ended = () => this.time.now >= endMs || written() >= settings.writesMost;
    this.#ended = ended;
    const faulting = nemesis.run(ended);
    for (const client of this.clients) this.#work.push(client.work(ended));
    // Clones that are made meanwhile get clients, too.
    for (let i = 0; i < this.#work.length; i++) await this.#work[i];
    await faulting;
    this.note('faults end');
    await nemesis.heal();
    await checkAfterwards(this, new Chance(settings.seed * 16 + 8));
  }

  // --- Making the cluster ---------------------------------------------------------------------------------------------

  async #addNode(index: number): Promise<void> {
    const disk = new RecordingDisk();
    disk.prepareDirectory(poolPath);
    disk.capacityBytes = this.settings.poolBytes;
    if (disk.capacityBytes < Number.MAX_SAFE_INTEGER) this.fullDisks = true;
    const node = new SimNode(index, disk);
    this.nodes.push(node);
    const setup = new SimProcess(this.time, 'setup');
    await Pool.format(disk, poolPath, { nodeId: node.nodeId, random: this.#chance, clock: setup });
    await this.startDaemon(node);
  }

  /** A volume as CreateVolume makes it. */
  volumeOrder(name: string, source: SourceRef | null): VolumeOrder {
    const { replicas, minReplicas, compression, cipher, sizeBytes } = this.settings;
    const parameters = { minReplicas: `${minReplicas}`, compression, encryption: cipher };
    return {
      name,
      range: source === null ? { requiredBytes: sizeBytes, limitBytes: 0 } : null,
      volumeClass: parseClass({
        // A clone has as many replicas as are in sync then.
        parameters: source === null ? { ...parameters, replicas: `${replicas}` } : { compression },
        mutableParameters: {},
        fsType: '',
      }),
      secrets: cipher === 'none' ? {} : { [SECRET_FIELD]: this.wrappingKey.toString('hex') },
      wish: anywhere,
      source,
    };
  }

  async #addVolume(): Promise<void> {
    const caller = new SimProcess(this.time, 'setup');
    const order = this.volumeOrder(`volume ${this.volumes.length}`, null);
    const record = await this.callController(caller, (control) => control.creation.create(order));
    const { lineageId, wrappedKey } = record;
    const dataKey = wrappedKey === null ? null : unwrapDataKey(wrappedKey, this.wrappingKey, lineageId);
    this.#adopt(record, { dataKey });
  }

  #adopt(record: VolumeRecord, parts: Pick<VolumeParts, 'dataKey' | 'origin'>): Client {
    const { id: volumeId, lineageId, sizeBytes } = record;
    const { cipher } = this.settings;
    const volume = new SimVolume({ volumeId, lineageId, sizeBytes, cipher, tick: this.tick, ...parts });
    volume.changed(record);
    if (parts.origin !== undefined) volume.inherit(parts.origin.source);
    this.volumes.push(volume);
    const client = new Client(this, volume, new Chance(this.settings.seed * 16 + 9 + this.clients.length * 4096));
    this.clients.push(client);
    return client;
  }

  /** A clone was answered: it is a volume with a client of its own from now on. */
  addClone(source: SimVolume, snapshotId: SnapshotId, record: VolumeRecord): void {
    const origin = { source, frozen: source.frozen(snapshotId) };
    const client = this.#adopt(record, { dataKey: source.dataKey, origin });
    this.reached('clone');
    this.#work.push(client.work(this.#ended));
  }

  pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.time.after(ms, resolve));
  }

  async createReplica(record: VolumeRecord, replica: VolumeRecord['replicas'][number]): Promise<void> {
    const node = this.nodes.find((one) => one.nodeId === replica.nodeId)!;
    await node.daemon!.host.create({
      volumeId: record.id,
      lineageId: record.lineageId,
      replicaId: replica.id,
      incarnationId: replica.incarnationId,
      poolId: replica.poolId,
      sizeBytes: record.sizeBytes,
      parameters: {},
      members: record.replicas.map(({ id, incarnationId }) => ({ replicaId: id, incarnationId })),
      setVersion: record.setVersion,
    });
  }

  // --- The controller -------------------------------------------------------------------------------------------------

  startController(): void {
    this.store.ownerAway = false;
    this.controller = new Controller({
      net: this.net,
      store: this.store,
      random: new Chance(this.#chance.below(2 ** 32)),
      logger: this.trace.logger({ at: 'controller' }),
      daemonOf: (nodeId) => {
        const daemon = this.nodes.find((one) => one.nodeId === nodeId)?.daemon;
        return daemon?.started ? daemon : null;
      },
      failed: (error) => this.fail(error as Error),
    });
  }

  /** The store goes with it: nobody else owns the file. */
  killController(downMs: number): void {
    const { controller } = this;
    if (controller === null) return;
    controller.process.kill();
    this.controller = null;
    this.store.ownerAway = true;
    this.time.after(downMs, () => {
      if (this.controller === null) this.startController();
    });
  }

  /** A CSI call. UNAVAILABLE while there is no controller. */
  async callController<T>(caller: SimProcess, work: (control: Control) => Promise<T>): Promise<T> {
    const { controller } = this;
    if (controller === null) {
      await caller.sleep(100);
      throw unavailable('the controller is not reachable');
    }
    return callProcess(this.time, caller, controller.process, CSI_CALL_MS, () => work(controller.control));
  }

  // --- Nodes and processes --------------------------------------------------------------------------------------------

  async startDaemon(node: SimNode): Promise<void> {
    const life = ++node.lives;
    const { drift } = this.settings;
    const process = new SimProcess(this.time, node.nodeId, 1 - drift + 2 * drift * this.#chance.next());
    const { disk } = node;
    const { meanMs } = this.settings.sync;
    const chance = this.#diskChance;
    disk.syncDelay = () => process.sleep(-Math.log(1 - chance.next()) * meanMs * node.slowness + node.stuckMs);
    disk.readDelay = chance.hit(0.5) ? () => process.sleep(chance.next() * node.slowness) : null;
    const daemon = new Daemon({
      nodeId: node.nodeId,
      disk,
      process,
      net: this.net,
      store: this.store,
      random: new Chance(this.#chance.below(2 ** 32)),
      logger: this.trace.logger({ at: node.nodeId }),
      pages: this.settings.pages,
      leaseless: this.settings.leaseless,
      hooks: this.#hooks(),
      controller: () => this.controller,
    });
    node.daemon = daemon;
    try {
      await daemon.start();
    } catch (error) {
      this.note(`daemon of ${node.nodeId} does not start: ${messageOf(error)}`);
      if (!(error instanceof HoldfastError)) throw error;
      if (node.lives !== life || process.dead) return;
      this.endProcess(node, false);
      this.startLater(node, 1_000);
    }
  }

  #hooks(): DaemonHooks {
    const volumeOf = (volumeId: VolumeId) => this.volumes.find((one) => one.volumeId === volumeId)!;
    const guard = (work: () => void) => {
      try {
        work();
      } catch (error) {
        this.fail(error as Error);
      }
    };
    return {
      opening: (volumeId, { reign }) => {
        this.note(`opening ${reign.epoch}`);
        volumeOf(volumeId).granted(reign.epoch, reign.reignId);
      },
      opened: (volumeId, engine, daemon) => {
        if (!daemon.process.dead) guard(() => volumeOf(volumeId).opened(engine.reign.epoch));
      },
      sending: (volumeId, epoch, bytes, offset) => guard(() => volumeOf(volumeId).sending(bytes, offset, epoch)),
      joining: (nodeId) => this.onJoining(this.nodes.find((one) => one.nodeId === nodeId)!),
      fenced: (volumeId, status, error) => this.#fenced(volumeOf(volumeId), status, error),
    };
  }

  /** The lettered cases of engine/open.ts, by what a fence found. */
  #fenced(volume: SimVolume, status: ReplicaStatus | null, error: unknown): void {
    if (status === null) {
      const lost = error instanceof HoldfastError && error.reason === 'ReplicaLost';
      return this.reached(lost ? 'open d' : 'open e');
    }
    const { replicaId, incarnationId, joining } = status.superblock;
    const member = volume.record.replicas.find((one) => one.id === replicaId);
    if (member?.incarnationId !== incarnationId) this.reached('open d');
    else if (status.damage !== null || joining) this.reached('open c');
    else this.reached(status.cacheSurvived ? 'open a' : 'open b');
  }

  /** Ends the process of a node at once. */
  endProcess(node: SimNode, silent: boolean): void {
    const { daemon } = node;
    if (daemon === null) return;
    node.daemon = null;
    node.lives++;
    daemon.process.kill();
    node.disk.onChange = null;
    this.net.processEnded(daemon.process, silent);
    for (const client of this.clients) client.processDied(daemon);
  }

  /** kill -9; the page cache stays. `meddle` may change what is on the disk before the next start. */
  kill(node: SimNode, downMs: number, meddle: (disk: RecordingDisk) => RecordingDisk = (disk) => disk): void {
    this.endProcess(node, false);
    const { disk } = node;
    node.disk = carryOver(disk, meddle(disk.afterKill(disk.journal.length)));
    this.startLater(node, downMs);
  }

  /** The machine loses power, and what was not synced goes, stays, or is torn. It comes back with that disk or another one. */
  cutPower(node: SimNode, downMs: number, next: (disk: RecordingDisk) => RecordingDisk = (disk) => disk): void {
    this.endProcess(node, true);
    node.up = false;
    const { disk } = node;
    const choice = randomChoice(this.#diskChance.below(2 ** 31));
    node.disk = carryOver(disk, next(disk.afterPowerCut(disk.journal.length, choice)));
    for (const volume of this.volumes) volume.powerLost(node.nodeId);
    this.startLater(node, downMs);
  }

  startLater(node: SimNode, downMs: number): void {
    const life = ++node.lives;
    this.time.after(downMs, () => {
      if (node.lives !== life) return;
      node.up = true;
      this.startDaemon(node).catch((error: unknown) => this.fail(error as Error));
    });
  }

  // --- Judgements that depend on the faults ---------------------------------------------------------------------------

  /** Design section 2, promise 2: nothing of a lower reign is acknowledged or visible after a higher one opened. */
  lateAnswer(volume: SimVolume, epoch: number, op: string): void {
    this.fail(
      new Error(
        `reign ${epoch} answered a ${op} of volume ${volume.volumeId} while reign ${volume.servingEpoch} serves`,
      ),
    );
  }

  /**
   * Some failures to open are answers that no fault may bring about: a log is refused as damaged, cut or rolled back only where one
   * was ("an in-sync log that does not contain it was rolled back or cut, and is refused", design section 6).
   */
  judgeOpenFailure(volume: SimVolume, error: HoldfastError): void {
    if (error.code === 'DATA_LOSS' && !volume.damaged)
      this.fail(new Error(`volume ${volume.volumeId} does not open though nothing was damaged: ${error.message}`));
  }
}

/** What is true of the device, whatever is on it. */
function carryOver(from: RecordingDisk, to: RecordingDisk): RecordingDisk {
  to.capacityBytes = from.capacityBytes;
  return to;
}
