// Which volumes are open on this node, and the way to open, order and close them. Owner: the daemon's main thread.
//
// Invariants
// - Opening and closing of one volume happen one after the other (#serially); orders run beside each other between them.
// - An attached engine is here only while the volume's record published it to this node when it was opened; a maintenance
//   engine never takes over from an attached one elsewhere.
// - A failed open leaves no engine, no export and no key behind; only the epoch has risen.
// - The key's plain bytes live in one buffer here, wiped as soon as the worker has its copy.
// What may fail: every call of the metadata store and of a worker; all may be repeated.

import {
  HoldfastError,
  messageOf,
  notFound,
  type Random,
  type ReignId,
  SerialQueues,
  type TimerHandle,
  type VolumeId,
} from '../base/index.js';
import type { EngineReplicaState } from '../engine/index.js';
import type { Reign } from '../format/index.js';
import type { VolumeRecord } from '../meta/index.js';
import { closeTimeoutMs, type EngineStartParts, startEngine } from './engine-start.js';
import {
  checkAttachable,
  checkMaintainable,
  clearEngine,
  deposed,
  followOrder,
  formerEngineGone,
  grantReign,
  isOurs,
  lostToMaintenance,
  type Purpose,
} from './reigns.js';
import { openVolumeKey } from './volume-key.js';
import type { Addressed, OpenEngineStatus, WorkerMethods } from './worker-api.js';

export interface VolumesOptions extends EngineStartParts {
  readonly random: Random;
  /** Throws when the metadata store must not be believed. */
  readonly checkStore: () => Promise<void>;
  /** A maintenance engine closes itself after this long without an order. */
  readonly idleMs?: number;
}

export interface OpenAnswer {
  /** Empty for a maintenance engine. */
  readonly socketPath: string;
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly epoch: number;
}

export interface OpenVolumeStatus {
  readonly volumeId: VolumeId;
  readonly epoch: number;
  readonly exported: boolean;
  readonly socketPath: string;
  /** Null while it opens. */
  readonly engine: OpenEngineStatus | null;
}

interface OpenVolume {
  readonly volumeId: VolumeId;
  readonly reign: Reign;
  readonly purpose: Purpose;
  readonly readOnly: boolean;
  readonly socketPath: string;
  sizeBytes: number;
  /** Orders under way. */
  users: number;
  /** Not closed for idleness before this time (monotonic): a hold stands. */
  busyUntilMs: number;
  idleTimer: TimerHandle | null;
  ended: boolean;
}

const idleMsDefault = 30_000;
/** Orders to a maintenance engine get this long to end before an attach takes the volume. */
const drainMs = 10_000;
const drainStepMs = 50;
const attachAttemptsMax = 4;

export class Volumes {
  readonly #options: VolumesOptions;
  readonly #open = new Map<VolumeId, OpenVolume>();
  readonly #opening = new Map<VolumeId, { readonly epoch: number; readonly purpose: Purpose; ended: boolean }>();
  readonly #queues = new SerialQueues();
  readonly #following = new SerialQueues();
  readonly #idleMs: number;
  #stopping = false;

  constructor(options: VolumesOptions) {
    this.#options = options;
    this.#idleMs = options.idleMs ?? idleMsDefault;
  }

  /**
   * Opens the volume for I/O on this node, or answers the engine that serves it already. Errors: FAILED_PRECONDITION with
   * StaleReign (not this node's volume), WrongKey, MissingKey, Busy; NOT_FOUND; ABORTED/StaleReign when another attach won
   * the epoch meanwhile; those of the engine's open.
   */
  openAttached(volumeId: VolumeId, wrappingKey: Buffer, readOnly: boolean): Promise<OpenAnswer> {
    return this.#serially(volumeId, async () => {
      const record = await this.#record(volumeId);
      const publication = checkAttachable(record, this.#options.nodeId);
      const wanted = readOnly || publication.readOnly;
      const key = openVolumeKey(record, wrappingKey, this.#options.random);
      try {
        const present = await this.#present(record);
        if (present?.purpose === 'attached') {
          if (present.readOnly !== wanted) throw modeConflict(present);
          return answer(present);
        }
        if (present) await this.#closeForAttach(present);
        return answer(await this.#attach(record, wrappingKey, readOnly));
      } finally {
        key.dataKey?.fill(0);
      }
    });
  }

  /** The engine that is open here, for whatever purpose, else a maintenance engine. */
  openForOrders(volumeId: VolumeId): Promise<OpenAnswer> {
    return this.#serially(volumeId, async () => {
      const open = await this.#openOrMaintain(volumeId);
      this.#armIdle(open);
      return { ...answer(open), socketPath: '', exportName: '' };
    });
  }

  /** Runs one order on the volume's engine, opening a maintenance engine when none is here. */
  async order<Method extends OrderMethod>(
    volumeId: VolumeId,
    method: Method,
    params: Omit<WorkerMethods[Method]['params'], keyof Addressed>,
    options: { readonly timeoutMs: number; readonly keepOpenMs?: number },
  ): Promise<WorkerMethods[Method]['result']> {
    const open = await this.#take(volumeId);
    try {
      const full = { ...params, ...this.#address(open) } as WorkerMethods[Method]['params'];
      return await this.#options.workerFor(volumeId).call(method, full, options.timeoutMs);
    } catch (error) {
      this.#forgetIfGone(open, error);
      throw error;
    } finally {
      this.#giveBack(open, options.keepOpenMs ?? 0);
    }
  }

  #take(volumeId: VolumeId): Promise<OpenVolume> {
    return this.#serially(volumeId, async () => {
      const found = await this.#openOrMaintain(volumeId);
      found.users++;
      found.idleTimer?.cancel();
      return found;
    });
  }

  #giveBack(open: OpenVolume, keepMs: number): void {
    open.users--;
    open.busyUntilMs = Math.max(open.busyUntilMs, this.#options.clock.monotonicMs() + keepMs);
    this.#armIdle(open);
  }

  /** The worker has no such engine: whoever comes next must not be sent there again. */
  #forgetIfGone(open: OpenVolume, error: unknown): void {
    if (error instanceof HoldfastError && error.code === 'ABORTED' && error.reason === 'StaleReign') this.#forget(open);
  }

  /**
   * Gives the volume's engine, a maintenance engine if need be, the replicas that the record names now. Read and given one after
   * the other, so that an older list never comes after a newer one.
   */
  async followMembers(volumeId: VolumeId, timeoutMs: number): Promise<readonly EngineReplicaState[]> {
    const open = await this.#take(volumeId);
    try {
      return await this.#following.run(volumeId, async () => {
        const record = await this.#record(volumeId);
        if (!isOurs(record, open.reign)) {
          // It serves on otherwise, and a Close could not be brought to it any more.
          await this.#closeEngine(open, false);
          throw deposed(volumeId, open.reign);
        }
        const order = followOrder(record);
        const worker = this.#options.workerFor(volumeId);
        return await worker.call('follow', { ...order, ...this.#address(open) }, timeoutMs);
      });
    } catch (error) {
      this.#forgetIfGone(open, error);
      throw error;
    } finally {
      this.#giveBack(open, 0);
    }
  }

  /**
   * Runs one order only on an engine that is open now. Undefined when there is none: what the order is about (a hold, a
   * limit) ended with the engine.
   */
  async orderIfOpen<Method extends OrderMethod>(
    volumeId: VolumeId,
    method: Method,
    params: Omit<WorkerMethods[Method]['params'], keyof Addressed>,
    timeoutMs: number,
  ): Promise<WorkerMethods[Method]['result'] | undefined> {
    const open = this.#open.get(volumeId);
    if (!open) return undefined;
    const full = { ...params, ...this.#address(open) } as WorkerMethods[Method]['params'];
    try {
      return await this.#options.workerFor(volumeId).call(method, full, timeoutMs);
    } catch (error) {
      // It is just being closed: the worker has let go of it already.
      if (!(error instanceof HoldfastError && error.code === 'ABORTED' && error.reason === 'StaleReign')) throw error;
      this.#forget(open);
      return undefined;
    }
  }

  isOpen(volumeId: VolumeId): boolean {
    return this.#open.has(volumeId);
  }

  noteSize(volumeId: VolumeId, sizeBytes: number): void {
    const open = this.#open.get(volumeId);
    if (open) open.sizeBytes = Math.max(open.sizeBytes, sizeBytes);
  }

  /** Flushes and closes; epoch 0 means whichever. Also takes this node out of the record when no engine is left here. */
  close(volumeId: VolumeId, epoch: number): Promise<void> {
    return this.#serially(volumeId, async () => {
      const open = this.#open.get(volumeId);
      if (open && (epoch === 0 || open.reign.epoch === epoch)) {
        await this.#closeEngine(open, true);
        return;
      }
      if (!open) await this.#clearRecord(volumeId, null);
    });
  }

  /** A worker says that an engine ended by itself. */
  engineEnded(at: Addressed, why: string): void {
    const opening = this.#opening.get(at.volumeId);
    if (opening?.epoch === at.epoch) opening.ended = true;
    const open = this.#open.get(at.volumeId);
    if (open?.reign.epoch !== at.epoch) return;
    this.#options.logger.warn({ volume: at.volumeId, epoch: at.epoch, why }, 'volume is no longer open here');
    this.#forget(open);
  }

  /** Stops an engine that did not notice that its reign is over. None is no error. */
  async stopDeposed({ volumeId, epoch }: Addressed): Promise<void> {
    const open = this.#open.get(volumeId);
    if (open?.reign.epoch === epoch) await this.#closeEngine(open, false);
  }

  async status(volumeId: VolumeId | null, timeoutMs: number): Promise<OpenVolumeStatus[]> {
    const wanted = <T>(map: ReadonlyMap<VolumeId, T>) =>
      [...map].filter(([id]) => volumeId === null || id === volumeId);
    const open = wanted(this.#open).map(async ([id, one]): Promise<OpenVolumeStatus | undefined> => {
      try {
        const engine = await this.#options.workerFor(id).call('engineStatus', this.#address(one), timeoutMs);
        const exported = one.purpose === 'attached';
        return { volumeId: id, epoch: one.reign.epoch, exported, socketPath: one.socketPath, engine };
      } catch (error) {
        // It ended between the two calls: then it is not open.
        if (error instanceof HoldfastError && error.code === 'ABORTED') return undefined;
        throw error;
      }
    });
    const opening = wanted(this.#opening).map(
      ([id, one]): OpenVolumeStatus => ({
        volumeId: id,
        epoch: one.epoch,
        exported: one.purpose === 'attached',
        socketPath: '',
        engine: null,
      }),
    );
    return [...(await Promise.all(open)).filter((one) => one !== undefined), ...opening];
  }

  /** Closes what is open, cleanly where that works. New calls are refused. */
  async closeAll(): Promise<void> {
    this.#stopping = true;
    const closing = [...this.#open.values()].map((open) => this.#closeEngine(open, true));
    for (const result of await Promise.allSettled(closing)) {
      if (result.status === 'rejected') {
        this.#options.logger.warn({ error: messageOf(result.reason) }, 'a volume did not close cleanly');
      }
    }
  }

  #serially<T>(volumeId: VolumeId, work: () => Promise<T>): Promise<T> {
    if (this.#stopping) {
      return Promise.reject(
        new HoldfastError('UNAVAILABLE', `the storage daemon of node ${this.#options.nodeId} is stopping`, {
          reason: 'Closed',
        }),
      );
    }
    return this.#queues.run(volumeId, work);
  }

  async #record(volumeId: VolumeId): Promise<VolumeRecord> {
    const record = await this.#options.records.get(volumeId);
    if (!record) throw notFound(`there is no volume ${volumeId}`);
    return record;
  }

  /** The engine here, unless the record shows that it was deposed before it noticed. */
  async #present(record: VolumeRecord): Promise<OpenVolume | undefined> {
    const open = this.#open.get(record.id);
    if (!open || isOurs(record, open.reign)) return open;
    await this.#closeEngine(open, false);
    return undefined;
  }

  async #openOrMaintain(volumeId: VolumeId): Promise<OpenVolume> {
    const open = this.#open.get(volumeId);
    if (open) return open;
    return this.#openEngine(volumeId, 'maintenance', Buffer.alloc(0), false);
  }

  async #closeForAttach(open: OpenVolume): Promise<void> {
    const { clock } = this.#options;
    const endMs = clock.monotonicMs() + drainMs;
    while (open.users > 0 && clock.monotonicMs() < endMs) await clock.sleep(drainStepMs);
    await this.#closeEngine(open, true);
  }

  /** Who opens a maintenance engine elsewhere can't see an attach that is under way: it may cost this one its reign, not the attach. */
  async #attach(before: VolumeRecord, wrappingKey: Buffer, readOnly: boolean): Promise<OpenVolume> {
    const { nodeId, logger } = this.#options;
    let record = before;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#openEngine(record.id, 'attached', wrappingKey, readOnly);
      } catch (error) {
        const lost = error instanceof HoldfastError && error.code === 'ABORTED' && error.reason === 'StaleReign';
        if (!lost || attempt === attachAttemptsMax || this.#stopping) throw error;
        const now = await this.#record(record.id);
        if (!lostToMaintenance(record, now, nodeId)) throw error;
        logger.info({ volume: record.id, epoch: now.epoch, error: messageOf(error) }, 'attaching again');
        record = now;
      }
    }
  }

  async #openEngine(volumeId: VolumeId, purpose: Purpose, wrappingKey: Buffer, readOnly: boolean): Promise<OpenVolume> {
    const { nodeId, records, random, clock } = this.#options;
    await this.#options.checkStore();
    const reignId = random.uuid() as ReignId;
    let dataKey: Buffer | null = null;
    let gone = false;
    let mode = readOnly;
    try {
      const record = await records.update(volumeId, (current) => {
        dataKey?.fill(0);
        dataKey = null;
        gone = formerEngineGone(current, nodeId);
        if (purpose === 'maintenance') {
          checkMaintainable(current, nodeId);
          return grantReign(current, reignId, null);
        }
        mode = readOnly || checkAttachable(current, nodeId).readOnly;
        const key = openVolumeKey(current, wrappingKey, random);
        dataKey = key.dataKey;
        return grantReign(current, reignId, key.made);
      });
      const reign = { epoch: record.epoch, reignId };
      const opening = { epoch: reign.epoch, purpose, ended: false };
      this.#opening.set(volumeId, opening);
      const start = { record, reign, purpose, readOnly: mode, formerEngineGone: gone, dataKey };
      const sizeBytes = await startEngine(this.#options, start);
      if (opening.ended) throw deposed(volumeId, reign);
      const open: OpenVolume = {
        volumeId,
        reign,
        purpose,
        readOnly: mode,
        socketPath: purpose === 'attached' ? this.#options.socketPathFor(volumeId) : '',
        sizeBytes,
        users: 0,
        busyUntilMs: clock.monotonicMs(),
        idleTimer: null,
        ended: false,
      };
      this.#open.set(volumeId, open);
      this.#options.logger.info({ volume: volumeId, epoch: reign.epoch, purpose }, 'volume opened');
      return open;
    } finally {
      this.#opening.delete(volumeId);
      (dataKey as Buffer | null)?.fill(0);
    }
  }

  async #closeEngine(open: OpenVolume, flush: boolean): Promise<void> {
    open.idleTimer?.cancel();
    const worker = this.#options.workerFor(open.volumeId);
    try {
      await worker.call('closeEngine', { ...this.#address(open), flush }, closeTimeoutMs);
    } catch (error) {
      // Not flushed, so the caller must know; but no engine may stay behind that nobody asks for any more.
      if (flush) await worker.call('closeEngine', { ...this.#address(open), flush: false }, closeTimeoutMs);
      throw error;
    } finally {
      this.#forget(open);
    }
    if (flush) await this.#clearRecord(open.volumeId, open.reign);
    this.#options.logger.info({ volume: open.volumeId, epoch: open.reign.epoch, flush }, 'volume closed');
  }

  #forget(open: OpenVolume): void {
    open.ended = true;
    open.idleTimer?.cancel();
    if (this.#open.get(open.volumeId) === open) this.#open.delete(open.volumeId);
  }

  /** With a reign: if it still stands. Without: whatever the record says of an engine on this node, where none is open. */
  async #clearRecord(volumeId: VolumeId, reign: Reign | null): Promise<void> {
    const { nodeId, records } = this.#options;
    await records.tryUpdate(volumeId, (current) => {
      if (reign) return clearEngine(current, reign);
      return current.engine?.nodeId === nodeId ? { ...current, engine: null } : undefined;
    });
  }

  #armIdle(open: OpenVolume): void {
    open.idleTimer?.cancel();
    if (open.purpose !== 'maintenance' || open.users > 0 || open.ended) return;
    const { clock, logger } = this.#options;
    const waitMs = Math.max(this.#idleMs, open.busyUntilMs - clock.monotonicMs());
    open.idleTimer = clock.after(waitMs, () => {
      const closing = this.#queues.run(open.volumeId, async () => {
        if (open.users > 0 || open.ended) return;
        await this.#closeEngine(open, true);
      });
      closing.catch((error) => {
        logger.warn({ volume: open.volumeId, error: messageOf(error) }, 'idle maintenance engine did not close');
        this.#armIdle(open);
      });
    });
  }

  #address(open: OpenVolume): Addressed {
    return { volumeId: open.volumeId, epoch: open.reign.epoch };
  }
}

/** Orders that name an engine. */
type OrderMethod = 'freeze' | 'hold' | 'release' | 'clone' | 'resize' | 'setQos' | 'deleteSnapshot' | 'changed';

function answer(open: OpenVolume): OpenAnswer {
  return {
    socketPath: open.socketPath,
    exportName: open.purpose === 'attached' ? open.volumeId : '',
    sizeBytes: open.sizeBytes,
    epoch: open.reign.epoch,
  };
}

function modeConflict(open: OpenVolume): HoldfastError {
  const mode = open.readOnly ? 'read-only' : 'writable';
  return new HoldfastError('FAILED_PRECONDITION', `volume ${open.volumeId} is open ${mode} here: close it first`, {
    reason: 'Conflict',
  });
}
