// A small world in one process: nodes with a pool on a recording disk each, the real replica host on them, a metadata store,
// and the real engine of a volume on one of the nodes, all on virtual time. Every change of a disk, of the store and every
// promise to a client has its moment on one scale, so the whole world can be rebuilt as a crash at any moment would leave it.

import {
  HoldfastError,
  type IncarnationId,
  type LineageId,
  type Logger,
  type NodeId,
  type PoolId,
  type ReignId,
  type ReplicaId,
  type VolumeId,
} from '../../../src/base/index.js';
import {
  type Engine,
  type EngineMember,
  type EngineOptions,
  openEngine,
  type SetOutcome,
} from '../../../src/engine/index.js';
import type { Cipher, Compression, Reign } from '../../../src/format/index.js';
import { KeyRing, PAGE_BYTES, PageCache } from '../../../src/hotpath/index.js';
import { ReplicaHost } from '../../../src/replica/index.js';
import { Pool } from '../../../src/segment/index.js';
import { RecordingDisk, randomChoice } from '../recording-disk.js';
import { type Line, SimPort } from './sim-port.js';
import { Chance, ProcessClock, VirtualTime } from './virtual-time.js';
import { type Floor, VolumeModel, type VolumeState } from './volume-model.js';

/** Map pages in memory, of each volume: so few that nearly every request reads some first. */
const PAGES = 8;

export interface VolumeShape {
  readonly replicas: number;
  readonly sizeBytes: number;
  readonly compression: Compression;
  readonly cipher: Cipher;
  readonly dataKey: Buffer | null;
}

/** What the store keeps of a volume; replaced as a whole at each change. */
export interface StoreRecord {
  readonly volumeId: VolumeId;
  readonly epoch: number;
  readonly reignId: ReignId;
  readonly engineNode: number | null;
  readonly sizeBytes: number;
  readonly setVersion: number;
  readonly inSync: readonly ReplicaId[];
  readonly members: readonly { replicaId: ReplicaId; incarnationId: IncarnationId; node: number; lost: boolean }[];
  readonly flushedPoint: EngineOptions['flushedPoint'];
}

export const poolPath = '/pool';

export class SimNode {
  readonly index: number;
  readonly nodeId: NodeId;
  /** Which disk was in the node from which moment on, and when each of its changes happened. */
  readonly disks: { readonly since: number; readonly disk: RecordingDisk; readonly moments: number[] }[] = [];
  host: ReplicaHost | null = null;
  clock: ProcessClock;
  poolId: PoolId | null = null;
  /** It lost power in this world's life. */
  lostPower = false;

  constructor(index: number, clock: ProcessClock) {
    this.index = index;
    this.nodeId = `n${index}` as NodeId;
    this.clock = clock;
  }
  get disk(): RecordingDisk {
    return this.disks.at(-1)!.disk;
  }
}

export interface Session {
  readonly engine: Engine;
  readonly reign: Reign;
  readonly node: SimNode;
  readonly clock: ProcessClock;
}

export interface LogLine {
  readonly level: 'warn' | 'error';
  readonly fields: object;
  readonly message: string;
}

export class SimWorld {
  readonly time = new VirtualTime();
  readonly chance: Chance;
  readonly shape: VolumeShape;
  readonly nodes: SimNode[] = [];
  readonly volumes = new Map<VolumeId, StoreRecord>();
  readonly models = new Map<VolumeId, VolumeModel>();
  readonly lineageId: LineageId;
  readonly log: LogLine[] = [];
  /** Probability that a store call takes effect but is not answered. */
  storeLoss = 0;
  #moment = 0;
  readonly #history = new Map<VolumeId, { moment: number; record: StoreRecord }[]>();
  readonly #sessions: Session[] = [];
  readonly #ports: { port: SimPort; node: SimNode; engineClock: ProcessClock }[] = [];
  readonly #killed = new WeakSet<ProcessClock>();
  #live = false;
  /** Where its history begins. */
  origin = 0;

  constructor(seed: number, shape: VolumeShape, lineageId: LineageId) {
    this.chance = new Chance(seed);
    this.shape = shape;
    this.lineageId = lineageId;
  }

  /** The next moment. */
  readonly tick = (): number => this.#moment++;
  get moment(): number {
    return this.#moment;
  }

  readonly logger: Logger = {
    debug: () => {},
    info: () => {},
    warn: (fields, message) => void this.log.push({ level: 'warn', fields, message }),
    error: (fields, message) => void this.log.push({ level: 'error', fields, message }),
    child: () => this.logger,
  };

  // --- Making a world -------------------------------------------------------------------------------------------------

  /** Formatted pools and an empty volume with a replica in each. Its history begins after that. */
  static async fresh(seed: number, shape: VolumeShape): Promise<{ world: SimWorld; volumeId: VolumeId }> {
    const chance = new Chance(seed ^ 0x5eed);
    const world = new SimWorld(seed, shape, chance.uuid() as LineageId);
    const volumeId = chance.uuid() as VolumeId;
    for (let i = 0; i < shape.replicas; i++) {
      const disk = new RecordingDisk();
      disk.prepareDirectory(poolPath);
      const node = world.#addNode(disk);
      await Pool.format(disk, poolPath, { nodeId: node.nodeId, random: chance, clock: node.clock });
      await world.startHost(node);
    }
    const members = world.nodes.map((node) => ({
      replicaId: chance.uuid() as ReplicaId,
      incarnationId: chance.uuid() as IncarnationId,
      node: node.index,
      lost: false,
    }));
    for (const node of world.nodes) {
      const { replicaId, incarnationId } = members[node.index]!;
      await node.host!.create({
        volumeId,
        lineageId: world.lineageId,
        replicaId,
        incarnationId,
        poolId: node.poolId!,
        sizeBytes: shape.sizeBytes,
        parameters: { replicas: String(shape.replicas) },
        members: members.map((member) => ({ replicaId: member.replicaId, incarnationId: member.incarnationId })),
        setVersion: 1,
      });
    }
    world.addVolume(volumeId, members, shape.sizeBytes);
    world.#begin();
    return { world, volumeId };
  }

  #addNode(disk: RecordingDisk): SimNode {
    const node = new SimNode(this.nodes.length, new ProcessClock(this.time, this.time.now));
    this.nodes.push(node);
    this.#insertDisk(node, disk);
    return node;
  }

  #insertDisk(node: SimNode, disk: RecordingDisk): void {
    const moments: number[] = [];
    node.disks.push({ since: this.#moment, disk, moments });
    // Changes from before count as having been there from the start.
    for (let i = 0; i < disk.journal.length; i++) moments.push(-1);
    disk.onChange = () => void moments.push(this.tick());
  }

  /** From now on disks take their time. */
  #begin(): void {
    this.#live = true;
    this.origin = this.#moment;
    for (const node of this.nodes) this.#slow(node);
  }

  #slow(node: SimNode): void {
    const { disk } = node;
    disk.syncDelay = () =>
      new Promise((resolve) =>
        this.time.after(this.chance.hit(0.1) ? this.chance.between(5, 60) : this.chance.between(0, 4), resolve),
      );
  }

  /** Tells store and model of a volume; of a clone also the reign it comes from and what it must hold. */
  addVolume(
    volumeId: VolumeId,
    members: StoreRecord['members'],
    sizeBytes: number,
    clone?: { epoch: number; base: VolumeState; source: VolumeModel },
  ): void {
    this.#store(volumeId, {
      volumeId,
      epoch: clone?.epoch ?? 0,
      reignId: '00000000-0000-0000-0000-000000000000' as ReignId,
      engineNode: null,
      sizeBytes,
      setVersion: 1,
      inSync: members.map((member) => member.replicaId),
      members,
      flushedPoint: null,
    });
    const base = clone?.base ?? { sizeBytes, blocks: new Map(), snapshots: new Map() };
    this.models.set(volumeId, new VolumeModel(this.#newKeys(), base, this.tick, null, clone?.source));
  }

  /** An epoch's key depends on its reign, and in another world another reign may have had the epoch. */
  #newKeys(): KeyRing {
    return new KeyRing(this.lineageId, this.shape.dataKey);
  }

  #store(volumeId: VolumeId, record: StoreRecord): void {
    this.volumes.set(volumeId, record);
    const history = this.#history.get(volumeId) ?? [];
    history.push({ moment: this.#live ? this.tick() : -1, record });
    this.#history.set(volumeId, history);
  }

  change(volumeId: VolumeId, change: Partial<StoreRecord>): void {
    this.#store(volumeId, { ...this.volumes.get(volumeId)!, ...change });
  }

  // --- Nodes ----------------------------------------------------------------------------------------------------------

  /** Starts the storage daemon of a node. */
  async startHost(node: SimNode): Promise<void> {
    const { clock } = node;
    const pool = await Pool.open(node.disk, poolPath, { nodeId: node.nodeId, exclusive: true });
    if (this.#killed.has(clock)) return;
    node.poolId = pool.id;
    node.host = new ReplicaHost({
      pools: [pool],
      stopEngine: async (volumeId, reign) => this.#stopEngine(node, volumeId, reign),
      clock,
      logger: this.logger,
    });
  }

  #stopEngine(node: SimNode, volumeId: VolumeId, reign: Reign): boolean {
    let stopped = false;
    for (const session of this.#sessions) {
      if (session.node !== node || session.clock !== node.clock || session.engine.closed) continue;
      if (session.reign.epoch >= reign.epoch || this.#volumeOf.get(session) !== volumeId) continue;
      session.engine.depose(`reign ${reign.epoch} was promised`);
      stopped = true;
    }
    return stopped;
  }
  readonly #volumeOf = new WeakMap<Session, VolumeId>();

  /** Ends every process of the node; with the power its unsynced bytes may go too. It starts again by itself after `downMs`. */
  crash(node: SimNode, power: boolean, downMs: number): void {
    const { disk } = node;
    node.clock.kill();
    this.#killed.add(node.clock);
    node.host = null;
    for (const one of this.#ports) if (one.node === node || one.engineClock === node.clock) one.port.breakOff();
    disk.onChange = null;
    disk.syncDelay = () => new Promise(() => {});
    const count = disk.journal.length;
    const next = power ? disk.afterPowerCut(count, randomChoice(this.chance.below(1e9))) : disk.afterKill(count);
    this.#insertDisk(node, next);
    if (power) node.lostPower = true;
    node.clock = new ProcessClock(this.time, this.time.now);
    const { clock } = node;
    this.time.after(downMs, () => {
      this.#slow(node);
      if (node.clock === clock) this.startHost(node).catch((error: unknown) => this.#fatal(error));
    });
  }

  /** Cuts the connections between two nodes' processes; new ones can be made at once. */
  disconnect(node: SimNode): void {
    for (const one of this.#ports) if (one.node === node && !one.port.local) one.port.breakOff();
  }

  #fatal(error: unknown): void {
    this.fatal ??= error instanceof Error ? error : new Error(String(error));
  }
  fatal: Error | undefined;
  readonly refused: unknown[] = [];

  // --- Engines --------------------------------------------------------------------------------------------------------

  /** Takes the next reign and opens the volume on `node`. */
  async open(volumeId: VolumeId, node: SimNode, overrides: Partial<EngineOptions> = {}): Promise<Session> {
    const { clock } = node;
    const before = this.volumes.get(volumeId)!;
    const reign = { epoch: before.epoch + 1, reignId: this.chance.uuid() as ReignId };
    this.change(volumeId, { ...reign, engineNode: node.index });
    this.models.get(volumeId)!.keys.addReign(reign);
    const record = this.volumes.get(volumeId)!;
    const engine = await openEngine({
      volume: {
        volumeId,
        lineageId: this.lineageId,
        sizeBytes: record.sizeBytes,
        compression: this.shape.compression,
        cipher: this.shape.cipher,
        minReplicas: 1,
        wrappedKey: null,
        qos: { maxReadIops: 0, maxWriteIops: 0, maxReadBps: 0, maxWriteBps: 0 },
      },
      reign,
      members: this.#members(record),
      setVersion: record.setVersion,
      dataKey: this.shape.dataKey,
      readOnly: false,
      formerEngineGone: before.engineNode === null || before.engineNode === node.index,
      flushedPoint: record.flushedPoint,
      connector: {
        connect: (member, timeoutMs) => this.#connect(volumeId, reign, node, clock, member.replicaId, timeoutMs),
      },
      membership: this.#membership(volumeId, reign, clock),
      pages: new PageCache(PAGES * PAGE_BYTES),
      clock,
      random: this.chance,
      logger: this.logger,
      ...overrides,
    });
    const session = { engine, reign, node, clock };
    this.#sessions.push(session);
    this.#volumeOf.set(session, volumeId);
    this.models.get(volumeId)!.opened(reign.epoch);
    // With the note of the engine, before anything is served.
    const { reignId, flushedPoint } = this.volumes.get(volumeId)!;
    if (reignId === reign.reignId && engine.opening.seq > (flushedPoint?.seq ?? -1))
      this.change(volumeId, { flushedPoint: engine.opening });
    return session;
  }

  #members(record: StoreRecord): EngineMember[] {
    return record.members.map((member) => ({
      replicaId: member.replicaId,
      incarnationId: member.incarnationId,
      nodeId: this.nodes[member.node]!.nodeId,
      inSync: record.inSync.includes(member.replicaId),
      lost: member.lost,
    }));
  }

  async #connect(
    volumeId: VolumeId,
    reign: Reign,
    from: SimNode,
    clock: ProcessClock,
    replicaId: ReplicaId,
    timeoutMs: number,
  ): Promise<SimPort> {
    const member = this.volumes.get(volumeId)!.members.find((one) => one.replicaId === replicaId)!;
    const node = this.nodes[member.node]!;
    const local = node === from;
    const deadline = this.time.now + timeoutMs;
    for (;;) {
      if (!local) await clock.sleep(this.#delay());
      if (node.host !== null) break;
      if (this.time.now >= deadline) throw new HoldfastError('UNAVAILABLE', `${node.nodeId} does not answer`);
      await clock.sleep(Math.min(100, timeoutMs));
    }
    const hostClock = node.clock;
    const replica = await node.host.localPort(volumeId, replicaId);
    const line: Line = {
      time: this.time,
      delay: () => this.#delay(),
      up: () => !this.#killed.has(hostClock) && !this.#killed.has(clock),
      engineLives: () => !this.#killed.has(clock),
    };
    const model = this.models.get(volumeId)!;
    const port = new SimPort({
      replica,
      local,
      line,
      sent: (bytes, offset) => this.#guard(() => model.sent(bytes, offset, reign.epoch)),
    });
    this.#ports.push({ port, node, engineClock: clock });
    return port;
  }

  #delay(): number {
    return this.chance.hit(0.02) ? this.chance.between(5, 30) : 0.1 + this.chance.next() * 0.9;
  }

  /** A contradiction found by the model ends the run, wherever in the product's code it is met. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#fatal(error);
    }
  }

  #membership(volumeId: VolumeId, reign: Reign, clock: ProcessClock): EngineOptions['membership'] {
    const ours = () => this.volumes.get(volumeId)!.reignId === reign.reignId;
    const way = async () => {
      await clock.sleep(this.#delay());
    };
    return {
      changeSet: async ({ expectedSetVersion, inSync }): Promise<SetOutcome> => {
        await way();
        const record = this.volumes.get(volumeId)!;
        let outcome: SetOutcome;
        const same = record.inSync.length === inSync.length && inSync.every((id) => record.inSync.includes(id));
        if (!ours()) outcome = { outcome: 'deposed' };
        else if (same && record.setVersion > expectedSetVersion)
          outcome = { outcome: 'done', setVersion: record.setVersion };
        else if (record.setVersion !== expectedSetVersion)
          outcome = { outcome: 'conflict', setVersion: record.setVersion, inSync: record.inSync };
        else {
          this.change(volumeId, { inSync: [...inSync], setVersion: record.setVersion + 1 });
          outcome = { outcome: 'done', setVersion: record.setVersion + 1 };
        }
        await way();
        if (this.chance.hit(this.storeLoss)) throw new HoldfastError('UNAVAILABLE', 'the store did not answer');
        return outcome;
      },
      markLost: async (replicaId) => {
        await way();
        if (!ours()) return;
        const { members } = this.volumes.get(volumeId)!;
        this.change(volumeId, {
          members: members.map((one) => (one.replicaId === replicaId ? { ...one, lost: true } : one)),
        });
      },
      noteFlushed: async (point) => {
        await way();
        if (ours() && point.seq > (this.volumes.get(volumeId)!.flushedPoint?.seq ?? -1))
          this.change(volumeId, { flushedPoint: point });
        await way();
      },
    };
  }

  // --- Crashes at any moment ------------------------------------------------------------------------------------------

  /**
   * The world as it was at `moment`, every process dead, with the power gone on the nodes that `power` names. All nodes start
   * again. What must still be there is what was promised in one of these ways. `rebuild` makes the disk instead of chance; `meddle`
   * may change one before its node starts: a daemon that then does not start leaves its error in `refused`.
   */
  async crashedAt(
    moment: number,
    seed: number,
    power: (node: SimNode) => 'lost' | 'kept',
    kinds: readonly Floor['kind'][],
    how: { meddle?: (node: SimNode) => void; rebuild?: (disk: RecordingDisk) => RecordingDisk } = {},
  ): Promise<SimWorld> {
    const { meddle, rebuild } = how;
    const next = new SimWorld(seed, this.shape, this.lineageId);
    next.storeLoss = this.storeLoss;
    for (const node of this.nodes) {
      const then = node.disks.findLast((one) => one.since <= moment) ?? node.disks[0]!;
      const count = lowerBound(then.moments, moment);
      const lost = power(node) === 'lost';
      if (rebuild !== undefined) {
        next.#addNode(rebuild(then.disk));
        next.nodes.at(-1)!.lostPower = lost;
        continue;
      }
      // Dying within its own write: the crash may fall into the very change of that moment.
      const torn = then.moments[count] === moment && next.chance.hit(0.5) ? next.chance.below(20_000) : 0;
      next.#addNode(
        lost ? then.disk.afterPowerCut(count, randomChoice(next.chance.below(1e9))) : then.disk.afterKill(count, torn),
      );
      next.nodes.at(-1)!.lostPower = lost;
    }
    for (const [volumeId, history] of this.#history) {
      const then = history.findLast((one) => one.moment < moment);
      if (then === undefined) continue;
      next.#store(volumeId, then.record);
      next.models.set(volumeId, this.models.get(volumeId)!.fork(moment, next.tick, next.#newKeys(), kinds));
    }
    if (meddle !== undefined) for (const node of next.nodes) meddle(node);
    next.#begin();
    for (const node of next.nodes) {
      const starting = next.startHost(node).catch((error: unknown) => {
        if (meddle === undefined) throw error;
        next.refused.push(error);
      });
      await next.time.until(starting, `start of ${node.nodeId}`);
    }
    return next;
  }

  /** Makes what is on the disks now their beginning, so that many copies of this world cost little. Only its end can be forked then. */
  forgetPast(): void {
    for (const node of this.nodes) {
      const disk = node.disk.afterKill(node.disk.journal.length);
      node.disks.splice(0, node.disks.length, { since: -1, disk, moments: [] });
    }
  }

  /** When the store's record of the volume changed. */
  storeMoments(volumeId: VolumeId): number[] {
    return this.#history.get(volumeId)!.map((one) => one.moment);
  }

  recordAt(volumeId: VolumeId, moment: number): StoreRecord {
    return this.#history.get(volumeId)!.findLast((one) => one.moment < moment)!.record;
  }
  /** The records with another in-sync set than that of the moment, next before and next after it. */
  recordsAround(
    volumeId: VolumeId,
    moment: number,
  ): { before: StoreRecord | undefined; after: StoreRecord | undefined } {
    const history = this.#history.get(volumeId)!;
    const { setVersion } = this.recordAt(volumeId, moment);
    return {
      before: history.findLast((one) => one.record.setVersion < setVersion)?.record,
      after: history.find((one) => one.record.setVersion > setVersion)?.record,
    };
  }

  /** Runs virtual time until the promise settles; a contradiction found meanwhile is thrown at once. */
  async until<T>(promise: Promise<T>, what: string, limitMs?: number): Promise<T> {
    promise.catch(() => {});
    const watched = this.time.until(promise, what, limitMs);
    const result = await watched.catch((error: unknown) => {
      throw this.fatal ?? error;
    });
    if (this.fatal !== undefined) throw this.fatal;
    return result;
  }
}

/** How many of the ascending numbers are below the limit. */
function lowerBound(numbers: readonly number[], limit: number): number {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle]! < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
