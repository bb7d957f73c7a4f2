// One simulated run by its seed: a cluster of nodes with the real daemons on virtual time, clients that work and remember, faults;
// then everything is healed, and all of it must serve again, be whole again, and hold what was promised.

import { createHash } from 'node:crypto';
import {
  HoldfastError,
  type IncarnationId,
  type LineageId,
  type Logger,
  messageOf,
  type ReplicaId,
  type SnapshotId,
  type VolumeId,
  wrapDataKey,
} from '../../src/base/index.js';
import { keyOf, type VolumeRecord } from '../../src/meta/index.js';
import { Pool } from '../../src/segment/index.js';
import type { ReplicaStatus } from '../../src/wire/index.js';
import { Chance, VirtualTime } from '../lib/crash/virtual-time.js';
import { RecordingDisk, randomChoice } from '../lib/recording-disk.js';
import { Client } from './client.js';
import { Nemesis } from './faults.js';
import { checkAfterwards } from './final-checks.js';
import { SimNet } from './net.js';
import { Daemon, type DaemonHooks, poolPath, SimNode } from './node.js';
import { SimProcess } from './process.js';
import type { Settings } from './settings.js';
import { SimStore } from './store.js';
import { SimVolume } from './volume.js';

export interface Outcome {
  readonly seed: number;
  readonly hash: string;
  readonly simulatedMs: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly cases: Readonly<Record<string, number>>;
  readonly counts: Readonly<Record<string, number>>;
}

export interface RunOptions {
  /** Keeps what happened, line by line. */
  readonly onEvent?: (line: string) => void;
}

export class Sim {
  readonly settings: Settings;
  readonly time = new VirtualTime();
  readonly net: SimNet;
  readonly store: SimStore;
  readonly nodes: SimNode[] = [];
  readonly volumes: SimVolume[] = [];
  readonly clients: Client[] = [];
  readonly wrappingKey: Buffer;
  /** Recovery cases and the like that were reached. */
  readonly cases: Record<string, number> = {};
  readonly faults: Record<string, number> = {};
  /** Some disk is or was full; some replica's bytes are not what was written. */
  fullDisks = false;
  damaged = false;
  readonly #hash = createHash('sha256');
  readonly #onEvent: ((line: string) => void) | undefined;
  readonly #chance: Chance;
  readonly #diskChance: Chance;
  /** The clients at work, and when they end. */
  readonly #work: Promise<void>[] = [];
  #ended: () => boolean = () => true;
  #tick = 0;
  #over = false;
  #fatal: Error | null = null;
  readonly #log: string[] = [];

  constructor(settings: Settings, options: RunOptions = {}) {
    this.settings = settings;
    this.#onEvent = options.onEvent;
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
    // What was under way when the run ended is no part of it.
    if (this.#over) return;
    const line = `${this.time.now.toFixed(3)} ${what}`;
    this.#hash.update(line);
    this.#onEvent?.(line);
  }
  reached(name: string): void {
    this.cases[name] = (this.cases[name] ?? 0) + 1;
  }
  fault(kind: string, what: string): void {
    this.faults[kind] = (this.faults[kind] ?? 0) + 1;
    this.note(`fault ${kind} ${what}`);
  }
  /** A promise was broken: the run ends. */
  fail(error: Error): void {
    if (this.#fatal !== null) return;
    this.#fatal = error;
    this.note(`FAILED ${error.message}`);
  }

  readonly #logger = (fields: object): Logger => {
    const line = (level: string) => (more: object, message: string) => {
      const all = { ...fields, ...more } as Record<string, unknown>;
      this.#logged(all, message);
      const text = `${level} ${message} ${JSON.stringify(all)}`;
      this.note(text);
      if (level === 'debug' || level === 'info') return;
      this.#log.push(`${this.time.now.toFixed(1)} ${text}`);
      if (this.#log.length > 60) this.#log.shift();
    };
    return {
      debug: line('debug'),
      info: line('info'),
      warn: line('warn'),
      error: line('error'),
      child: (more) => this.#logger({ ...fields, ...more }),
    };
  };

  #logged(fields: Record<string, unknown>, message: string): void {
    if (message.startsWith('replica opened')) {
      const found = /case ([A-Z])/.exec(String(fields.found ?? ''));
      this.reached(`recovery ${found?.[1] ?? 'A'}`);
      for (const row of String(fields.passed ?? '')) this.reached(`recovery ${row}`);
    } else if (message === 'replica caught up') {
      const volume = this.volumes.find((one) => one.volumeId === fields.volume);
      volume?.caughtUp(String(fields.node), Number(fields.epoch));
      this.reached('caught up');
    } else if (message === 'damaged bytes repaired') this.reached('repaired');
    else if (message === 'replica failed') this.reached('replica failed');
  }

  // --- The run --------------------------------------------------------------------------------------------------------

  async run(): Promise<Outcome> {
    const onRejection = (error: unknown) => this.fail(error instanceof Error ? error : new Error(String(error)));
    process.on('unhandledRejection', onRejection);
    try {
      await this.#drive(this.#life(), 3_600_000);
    } catch (error) {
      if (error instanceof Error)
        error.message = `seed ${this.settings.seed}, ${Math.round(this.time.now)} ms: ${error.message}\n  ${this.#log.slice(-25).join('\n  ')}`;
      throw error;
    } finally {
      this.#over = true;
      process.off('unhandledRejection', onRejection);
    }
    return this.#outcome();
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
    for (let i = 0; i < settings.nodes; i++) await this.#addNode(i);
    for (let i = 0; i < settings.volumes; i++) await this.#addVolume();
    for (const node of this.nodes) node.setupChanges = node.disk.journal.length;
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

  #outcome(): Outcome {
    const counts: Record<string, number> = {
      writes: 0,
      reads: 0,
      flushes: 0,
      opens: 0,
      errors: 0,
      lateAnswers: 0,
      orders: 0,
      failovers: 0,
      floors: 0,
      registerReads: 0,
      registerWrites: 0,
      seals: 0,
      eras: 0,
    };
    const add = (name: string, count: number) => {
      counts[name] = (counts[name] ?? 0) + count;
    };
    for (const client of this.clients) for (const [name, count] of Object.entries(client.counts)) add(name, count);
    for (const volume of this.volumes) {
      add('floors', volume.checkedFloors);
      add('registerReads', volume.registers.checkedReads);
      add('registerWrites', volume.registers.checkedWrites);
      add('seals', volume.seals.size);
      add('eras', volume.era);
    }
    return {
      seed: this.settings.seed,
      hash: this.#hash.digest('hex').slice(0, 16),
      simulatedMs: this.time.now,
      faults: this.faults,
      cases: this.cases,
      counts,
    };
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

  async #addVolume(): Promise<void> {
    const { settings } = this;
    const volumeId = this.#chance.uuid() as VolumeId;
    const lineageId = this.#chance.uuid() as LineageId;
    const dataKey = settings.cipher === 'none' ? null : this.#chance.bytes(32);
    const volume = new SimVolume({
      volumeId,
      lineageId,
      sizeBytes: settings.sizeBytes,
      cipher: settings.cipher,
      dataKey,
      tick: this.tick,
    });
    const start = this.#chance.below(settings.nodes);
    const places: readonly SimNode[] = Array.from(
      { length: settings.replicas },
      (_, i) => this.nodes[(start + i) % settings.nodes]!,
    );
    const replicas: VolumeRecord['replicas'][number][] = [];
    for (const node of places) {
      replicas.push({
        id: this.#chance.uuid() as ReplicaId,
        nodeId: node.nodeId,
        poolId: (await Pool.open(node.disk, poolPath, { nodeId: node.nodeId, exclusive: false })).id,
        incarnationId: this.#chance.uuid() as IncarnationId,
        state: 'ok',
      });
    }
    const record = newRecord(settings, volumeId, lineageId, replicas);
    const wrappedKey = dataKey === null ? null : wrapDataKey(dataKey, this.wrappingKey, lineageId, this.#chance);
    for (const replica of replicas) await this.createReplica({ ...record, wrappedKey }, replica);
    volume.changed({ ...record, wrappedKey });
    this.volumes.push(volume);
    await this.store.direct.compareAndSwap(keyOf.volume(volumeId), 0, { ...record, wrappedKey });
    this.clients.push(new Client(this, volume, new Chance(settings.seed * 16 + 9 + this.clients.length * 4096)));
  }

  /** A clone was answered: it is a volume with a client of its own from now on. */
  async addClone(
    source: SimVolume,
    clone: {
      readonly snapshotId: SnapshotId;
      readonly newVolumeId: VolumeId;
      readonly replicas: VolumeRecord['replicas'];
    },
  ): Promise<void> {
    const frozen = source.frozen(clone.snapshotId);
    const volume = new SimVolume({
      ...source,
      volumeId: clone.newVolumeId,
      sizeBytes: frozen.sizeBytes,
      tick: this.tick,
      origin: { source, frozen },
    });
    const record: VolumeRecord = {
      ...newRecord(this.settings, clone.newVolumeId, source.lineageId, clone.replicas),
      sizeBytes: frozen.sizeBytes,
      epoch: source.record.epoch,
      wrappedKey: source.record.wrappedKey,
    };
    volume.changed(record);
    this.volumes.push(volume);
    await this.store.direct.compareAndSwap(keyOf.volume(clone.newVolumeId), 0, record);
    const client = new Client(this, volume, new Chance(this.settings.seed * 16 + 9 + this.clients.length * 4096));
    this.clients.push(client);
    this.reached('clone');
    this.#work.push(client.work(this.#ended));
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
      logger: this.#logger({ at: node.nodeId }),
      pages: this.settings.pages,
      hooks: this.#hooks(),
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

function newRecord(
  settings: Settings,
  id: VolumeId,
  lineageId: LineageId,
  replicas: VolumeRecord['replicas'],
): VolumeRecord {
  return {
    id,
    name: id,
    state: 'ready',
    createdMs: 0,
    sizeBytes: settings.sizeBytes,
    lineageId,
    parameters: {
      replicas: replicas.length,
      minReplicas: settings.minReplicas,
      failureDomain: 'node',
      dataLocality: 'disabled',
      compression: settings.compression,
      encryption: settings.cipher,
      keyProvider: '',
      fsType: '',
      mkfsOptions: '',
      mountOptions: '',
    },
    qos: {},
    replicas,
    inSync: replicas.map((replica) => replica.id),
    setVersion: 1,
    epoch: 0,
    reignId: null,
    engine: null,
    publications: [],
    wrappedKey: null,
    formatted: { state: 'raw' },
    flushedPoint: null,
  };
}
