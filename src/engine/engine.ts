// The open volume: composition of its parts, dispatch of block requests, and the orders that the agent gives. Owner of all
// state of one reign; single-threaded; every part is told events by this one.

import { BLOCK_SIZE, HoldfastError, type Logger, messageOf, type SnapshotId } from '../base/index.js';
import type { LogPoint, Reign, SegmentName } from '../format/index.js';
import { type BlockMap, type KeyRing, kernel } from '../hotpath/index.js';
import type { BlockRequest } from './block-device.js';
import { BlockHeat } from './block-heat.js';
import { CatchUp } from './catch-up.js';
import { Checkpointer } from './checkpointer.js';
import { type CopyCounts, copyParameters, leastOf, sameCopies } from './copies.js';
import { emptyCounters, shownCounters } from './counters.js';
import { Dispatch } from './dispatch.js';
import type { Engine, EngineOptions, EngineStatus, QosLimits } from './engine-api.js';
import { EngineOrders } from './engine-orders.js';
import { EntrySource } from './entry-source.js';
import { FrameTail } from './frame-tail.js';
import { CLEAN_CLOSE_BYTES, LEASE_MS } from './limits.js';
import { LogReader } from './log-reader.js';
import { LogWriter } from './log-writer.js';
import { Maintenance } from './maintenance.js';
import type { OpenedLog } from './open.js';
import type { LoadedLog } from './open-engine.js';
import { readPagesFrom } from './page-source.js';
import { Pipeline } from './pipeline.js';
import { ReadPath } from './read-path.js';
import { newLink } from './replica-link.js';
import type { DescribeUpdate } from './replica-port.js';
import { ReplicaSet } from './replica-set.js';
import { ReplyGate } from './reply-gate.js';
import { Scrubber } from './scrubber.js';
import type { SegmentTable } from './segment-table.js';
import { SpaceKeeper } from './space-keeper.js';
import { UnsyncedBound } from './unsynced-bound.js';
import { WritePath } from './write-path.js';

export class VolumeEngine implements Engine {
  readonly reign: Reign;
  opening: LogPoint;
  readonly readOnly: boolean;
  readonly #options: EngineOptions;
  readonly #logger: Logger;
  readonly #map: BlockMap;
  readonly #table: SegmentTable;
  readonly #keys: KeyRing;
  readonly #reigns: readonly Reign[];
  readonly #tail = new FrameTail();
  readonly #set: ReplicaSet;
  readonly #pipeline: Pipeline;
  readonly #writer: LogWriter;
  readonly #reader: LogReader;
  readonly #reads: ReadPath;
  readonly #writes: WritePath;
  readonly #checkpointer: Checkpointer;
  readonly #space: SpaceKeeper;
  readonly #catchUp: CatchUp;
  readonly #gate: ReplyGate;
  readonly #unsynced: UnsyncedBound;
  readonly #orders: EngineOrders;
  readonly #dispatch: Dispatch;
  readonly #maintenance: Maintenance;
  readonly #scrubber: Scrubber;
  readonly #counters = emptyCounters();
  readonly #dropped: readonly SegmentName[];
  #copies: CopyCounts;
  #state: 'serving' | 'paused' | 'failed' | 'closed' = 'paused';
  #message = 'opening';
  #closedListeners: (() => void)[] = [];
  #resizedListeners: (() => void)[] = [];

  constructor(options: EngineOptions, log: OpenedLog, loaded: LoadedLog) {
    const { table, keys, replayed } = loaded;
    this.#options = options;
    this.reign = options.reign;
    this.opening = log.end;
    this.readOnly = options.readOnly;
    this.#copies = options.volume;
    this.#logger = options.logger;
    this.#map = replayed.map;
    this.#table = table;
    this.#keys = keys;
    this.#dropped = replayed.dropped;
    this.#reigns = loaded.reigns;
    const links = options.members.map(newLink);
    const end = log.end.seq;
    this.#set = new ReplicaSet(
      links,
      {
        inSync: log.members.map((member) => member.member.replicaId),
        setVersion: log.setVersion,
        committed: end,
        synced: end,
      },
      {
        membership: options.membership,
        leaseMs: options.leaseless ? 0 : LEASE_MS,
        clock: options.clock,
        logger: options.logger,
        events: {
          committed: (seq) => this.#committed(seq),
          synced: (seq) => this.#synced(seq),
          setChanged: () => this.#setChanged(),
          lost: (link) => void this.#catchUp.bringBack(link),
          deposed: (why) => this.depose(why),
        },
      },
    );
    for (const member of log.members) this.#set.adopt(member, end);
    this.#gate = new ReplyGate(options.clock, this.#set.lease);
    const heat = new BlockHeat(() => this.#map.sizeBytes / BLOCK_SIZE);
    this.#unsynced = new UnsyncedBound(options.clock);
    this.#pipeline = new Pipeline(this.#map, heat, this.#tail, (requests, error) => this.#gate.reply(requests, error));
    this.#pipeline.connect(this.#set);
    this.#writer = new LogWriter(
      {
        volumeId: options.volume.volumeId,
        lineageId: options.volume.lineageId,
        reign: options.reign,
        nextSeq: end + 1,
        digest: Buffer.from(log.end.digest, 'hex'),
      },
      {
        table,
        kernel,
        wallMs: () => options.clock.wallMs(),
        emit: (frame) => {
          this.#unsynced.wrote(frame.seq, frame.bytes.length);
          this.#pipeline.emit(frame);
        },
        seal: {
          keys,
          epoch: options.reign.epoch,
          cipher: options.dataKey === null ? 'none' : options.volume.cipher,
          compression: options.volume.compression,
        },
      },
    );
    this.#reader = new LogReader(() => this.#set.sources(), options.logger);
    const source = new EntrySource({
      table,
      reader: this.#reader,
      nearest: () => this.#set.sources()[0],
      closed: () => this.closed,
      clock: options.clock,
      logger: options.logger,
    });
    this.#map.connect(readPagesFrom(source));
    this.#reads = new ReadPath({
      map: this.#map,
      table,
      keys,
      reader: this.#reader,
      source: () => this.#set.source(),
      closed: () => this.closed,
      clock: options.clock,
      logger: options.logger,
    });
    this.#writes = new WritePath({
      map: this.#map,
      writer: this.#writer,
      pipeline: this.#pipeline,
      reads: this.#reads,
      unsynced: this.#unsynced,
      set: this.#set,
      clock: options.clock,
      logger: options.logger,
      minReplicas: () => this.#copies.minReplicas,
      clearRange: (block, count) => {
        this.#map.clearRange(block, count);
        this.#space.noteFreed();
      },
      mapFull: () => this.#checkpointer.mapFull(),
    });
    this.#dispatch = new Dispatch({
      reads: this.#reads,
      writes: this.#writes,
      pipeline: this.#pipeline,
      set: this.#set,
      gate: this.#gate,
      counters: this.#counters,
      readOnly: options.readOnly,
      keyless: options.volume.cipher !== 'none' && options.dataKey === null,
      minReplicas: () => this.#copies.minReplicas,
      qos: options.volume.qos,
      clock: options.clock,
      closed: () => this.closed,
    });
    this.#checkpointer = new Checkpointer(
      {
        map: this.#map,
        table,
        writer: this.#writer,
        pipeline: this.#pipeline,
        reigns: this.#reigns,
        committed: () => this.#set.committed,
        durable: (seq) => this.#durable(seq),
        describe: (checkpoint) => this.#describeAll({ checkpoint }),
        roomAgain: () => this.#writes.retry(),
        closed: () => this.closed,
        clock: options.clock,
        logger: options.logger,
      },
      { place: replayed.checkpoint, ...replayed },
    );
    this.#space = new SpaceKeeper({
      map: this.#map,
      table,
      writer: this.#writer,
      pipeline: this.#pipeline,
      reader: this.#reader,
      set: this.#set,
      checkpointer: this.#checkpointer,
      keys,
      heat,
      canReseal: options.volume.cipher === 'none' || options.dataKey !== null,
      mayWrite: () => this.#state === 'serving' && !this.readOnly && this.#set.inSyncCount >= this.#copies.minReplicas,
      durable: (seq) => this.#durable(seq),
      deleteSegments: (segments) => this.#deleteSegments(segments),
      won: () => this.#writes.retry(),
      closed: () => this.closed,
      clock: options.clock,
      logger: options.logger,
    });
    this.#orders = new EngineOrders({
      volume: options.volume,
      reign: options.reign,
      reigns: this.#reigns,
      map: this.#map,
      table,
      writer: this.#writer,
      pipeline: this.#pipeline,
      set: this.#set,
      gate: this.#gate,
      checkpointer: this.#checkpointer,
      isDead: (entry) => this.#space.isDead(entry),
      freed: () => this.#space.noteFreed(),
      mustServe: () => this.#mustServe(),
      durable: (seq) => this.#durable(seq),
      describe: (update) => this.#describeAll(update),
      clock: options.clock,
    });
    this.#scrubber = new Scrubber({
      table,
      references: (slot) => this.#map.references(slot),
      sources: () => this.#set.sources(),
      closed: () => this.closed,
      clock: options.clock,
      logger: options.logger,
    });
    this.#maintenance = new Maintenance({
      reign: options.reign,
      set: this.#set,
      writer: this.#writer,
      checkpointer: this.#checkpointer,
      space: this.#space,
      scrubber: this.#scrubber,
      membership: options.membership,
      describe: (update) => this.#describeAll(update),
      durable: (seq) => this.#durable(seq),
      closed: () => this.closed,
      clock: options.clock,
      logger: options.logger,
    });
    this.#catchUp = new CatchUp({
      reign: options.reign,
      set: this.#set,
      tail: this.#tail,
      reader: this.#reader,
      connector: options.connector,
      membership: options.membership,
      lastSeq: () => this.#writer.lastSeq,
      hasSegment: (segment) => table.has(segment),
      neededSegments: () => table.needed((slot) => this.#map.references(slot)),
      deposed: (why) => this.depose(why),
      description: () => this.#description(),
      clock: options.clock,
      logger: options.logger,
    });
  }

  /** Begins the reign: its id durable on all in-sync replicas before it seals anything. */
  async start(): Promise<void> {
    const { volume, reign } = this.#options;
    await this.#describeAll({ ...this.#description(), addReign: reign });
    const sizeBytes = Math.max(this.#map.sizeBytes, volume.sizeBytes);
    const members = this.#set.members(['in-sync']);
    const frame = this.#writer.writeControl(
      { kind: 'open', epoch: reign.epoch, reignId: reign.reignId, keyed: this.#keys.keyed, sizeBytes },
      { kind: 'members', setVersion: this.#set.setVersion, members },
    );
    this.#pipeline.newest(frame).apply = () => {
      this.#map.sizeBytes = sizeBytes;
    };
    this.opening = { epoch: reign.epoch, seq: frame.seq, digest: this.#writer.digest.toString('hex') };
    this.#pipeline.transmit();
    await this.#durable(frame.seq);
    if (this.#state === 'failed') throw new HoldfastError('ABORTED', this.#message, { reason: 'StaleReign' });
    this.#state = 'serving';
    this.#message = '';
    await this.#space.start(this.#dropped);
    await this.#catchUp.loseIncomplete();
    for (const link of this.#set.links) if (link.state === 'unreachable') void this.#catchUp.bringBack(link);
    this.#set.follow(this.#options.members, leastOf(this.#copies));
    this.#maintenance.start();
    this.#logger.info(
      { epoch: reign.epoch, end: frame.seq, inSync: this.#set.inSync, allocatedBlocks: this.#map.allocatedBlocks },
      'volume open',
    );
  }

  get sizeBytes(): number {
    return this.#map.sizeBytes;
  }
  get closed(): boolean {
    return this.#state === 'failed' || this.#state === 'closed';
  }
  onClosed(listener: () => void): void {
    this.#closedListeners.push(listener);
  }
  onResized(listener: () => void): void {
    this.#resizedListeners.push(listener);
  }

  submit(requests: readonly BlockRequest[]): void {
    this.#dispatch.submit(requests);
  }

  #committed(seq: number): void {
    this.#writer.committedThrough = seq;
    this.#maintenance.noteWork();
    this.#pipeline.committed(seq);
    this.#checkpointer.beginWhenPressing();
    this.#writes.committed(seq);
    this.#space.noteWritten(this.#counters.writeBytes);
    this.#syncWhenDue();
  }

  #synced(seq: number): void {
    this.#writer.flushedThrough = seq;
    this.#maintenance.noteWork();
    this.#unsynced.synced(seq);
    this.#pipeline.synced(seq);
    this.#syncWhenDue();
    this.#writes.retry();
  }

  #syncWhenDue(): void {
    const through = this.#unsynced.due(this.#set.committed);
    if (through > 0 && !this.closed) this.#set.sync(through);
  }

  #setChanged(): void {
    const members = this.#set.members(['in-sync']);
    this.#writer.writeControl({ kind: 'members', setVersion: this.#set.setVersion, members });
    this.#pipeline.transmit();
    this.#describeAll(this.#description()).catch((error: unknown) =>
      this.#logger.warn({ error: messageOf(error) }, 'superblocks do not name the new set yet'),
    );
    this.#writes.retry();
    this.#dispatch.retry();
  }

  #description(): DescribeUpdate {
    const members = this.#set.members(['in-sync', 'counting']);
    const checkpoint = this.#checkpointer.current;
    return {
      sizeBytes: this.sizeBytes,
      wrappedKey: this.#options.volume.wrappedKey,
      parameters: copyParameters(this.#copies),
      setVersion: this.#set.setVersion,
      members,
      addReign: this.reign,
      ...(checkpoint === null ? {} : { checkpoint }),
    };
  }

  /** Updates the superblock of every connected counting replica; resolves with the nodes that did not take it. */
  async #describeAll(update: DescribeUpdate): Promise<string[]> {
    const refused = await this.#set.describe(update);
    if (this.closed)
      throw new HoldfastError('UNAVAILABLE', this.#message || 'the volume is closed', { reason: 'Closed' });
    return refused;
  }

  #durable(seq: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pipeline.durable(seq, (error) =>
        error === null
          ? resolve()
          : reject(new HoldfastError('UNAVAILABLE', this.#message || 'the volume is closed', { reason: 'Closed' })),
      );
    });
  }

  async #deleteSegments(segments: readonly SegmentName[]): Promise<void> {
    await Promise.all([this.#reads.settled(), this.#orders.clonesSettled()]);
    await Promise.all(
      this.#set
        .countingLinks()
        .map((link) =>
          link
            .port!.deleteSegments(segments)
            .catch((error: unknown) =>
              this.#logger.warn({ node: link.member.nodeId, error: messageOf(error) }, 'segments not deleted yet'),
            ),
        ),
    );
  }

  freeze(order: Parameters<Engine['freeze']>[0]): ReturnType<Engine['freeze']> {
    return this.#orders.freeze(order);
  }
  async hold(token: string, deadlineMs: number): Promise<void> {
    this.#mustServe();
    this.#gate.hold(token, deadlineMs);
  }
  release(token: string): boolean {
    return this.#gate.release(token);
  }
  clone(order: Parameters<Engine['clone']>[0]): Promise<void> {
    return this.#orders.clone(order);
  }
  async resize(sizeBytes: number): Promise<void> {
    if (await this.#orders.resize(sizeBytes)) for (const listener of this.#resizedListeners) listener();
  }
  setQos(qos: QosLimits): void {
    this.#dispatch.setQos(qos);
  }
  follow(...[members, copies]: Parameters<Engine['follow']>): ReturnType<Engine['follow']> {
    this.#mustServe();
    const same = sameCopies(copies, this.#copies);
    this.#copies = copies;
    this.#set.follow(members, leastOf(copies));
    // Superblocks say how many there are to be, too, and who waits for fewer may go on.
    if (!same) this.#setChanged();
    return this.#set.states((seq) => this.#table.bytesAfter(seq));
  }

  deleteSnapshot(snapshotId: SnapshotId): Promise<void> {
    return this.#orders.deleteSnapshot(snapshotId);
  }
  changed(order: Parameters<Engine['changed']>[0]): ReturnType<Engine['changed']> {
    return this.#orders.changed(order);
  }

  async scrub(): ReturnType<Engine['scrub']> {
    this.#mustServe();
    return this.#scrubber.pass();
  }

  status(): EngineStatus {
    const paused = this.#state === 'serving' && this.#set.inSyncCount < this.#copies.minReplicas;
    return {
      state: paused ? 'paused' : this.#state,
      message: paused
        ? `${this.#set.inSyncCount} replicas in sync, ${this.#copies.minReplicas} needed to accept writes`
        : this.#message,
      sizeBytes: this.sizeBytes,
      allocatedBytes: this.#map.allocatedBlocks * BLOCK_SIZE,
      storedBytes: this.#table.storedBytes,
      replicas: this.#set.states((seq) => this.#table.bytesAfter(seq)),
      snapshotIds: [...this.#map.snapshots].map((snapshot) => snapshot.snapshotId),
      counters: shownCounters(this.#counters, this.#writer, this.#space, this.#checkpointer, this.#reader),
    };
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.#space.stop();
    try {
      this.#gate.end();
      await this.#durable(this.#writer.lastSeq);
      // A volume that was only looked at leaves nothing to replay but its own opening frames.
      if (this.#writer.bytesWritten > CLEAN_CLOSE_BYTES) {
        await this.#checkpointer.write();
        // Sealed, so that the next open replays an index instead of walking frames.
        this.#writer.sealSegment();
        this.#pipeline.transmit();
        await this.#durable(this.#writer.lastSeq);
      }
      await this.#maintenance.noteFlushed();
    } catch (error) {
      this.#logger.warn({ error: messageOf(error) }, 'volume closed without a clean end; the next open recovers it');
    }
    this.#shutDown('closed', 'the volume was closed');
  }

  depose(why: string): void {
    if (this.closed) return;
    this.#logger.warn({ epoch: this.reign.epoch, why }, 'engine deposed');
    this.#shutDown('failed', why);
  }

  #shutDown(state: 'failed' | 'closed', message: string): void {
    this.#state = state;
    this.#message = message;
    this.#maintenance.stop();
    this.#space.stop();
    this.#catchUp.close();
    this.#set.close();
    this.#dispatch.close();
    this.#writes.close();
    this.#pipeline.close('ESHUTDOWN');
    this.#gate.end();
    this.#map.close();
    this.#keys.destroy();
    for (const listener of this.#closedListeners) listener();
  }

  #mustServe(): void {
    if (this.closed)
      throw new HoldfastError('UNAVAILABLE', this.#message || 'the volume is closed', { reason: 'Closed' });
  }
}
