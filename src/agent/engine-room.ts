// The engines of one worker. Owner: the worker thread; everything here runs on its event loop.
//
// Invariants: at most one entry per volume; its reign only rises; an engine that is not in the table has been closed or
// deposed. An entry is made before its engine opens, so that a close or a fence that arrives meanwhile finds it and the
// engine that then opens is closed at once instead of being left behind.
// What may fail: opening (the entry goes, nothing stays half open); an engine may end by itself (deposed, all replicas
// lost): then its export goes at once and the main thread is told.

import {
  type Clock,
  HoldfastError,
  type Logger,
  messageOf,
  precondition,
  type Random,
  type VolumeId,
} from '../base/index.js';
import type {
  BlockDevice,
  Engine,
  EngineOptions,
  EngineStatus,
  MembershipPort,
  ReplicaConnector,
} from '../engine/index.js';
import type { Reign } from '../format/index.js';
import type { Addressed, OpenEngineOrder, OpenedEngine } from './worker-api.js';

/** A running NBD server of one export. */
export interface ExportServer {
  /** Drops connections, stops listening, removes the socket. */
  close(): Promise<void>;
}

export interface EngineRoomPorts {
  openEngine(options: EngineOptions): Promise<Engine>;
  serveExport(options: { device: BlockDevice; name: string; socketPath: string }): Promise<ExportServer>;
  connector(volumeId: VolumeId): ReplicaConnector;
  membership(volumeId: VolumeId, reign: Reign): MembershipPort;
  engineEnded(volumeId: VolumeId, reign: Reign, why: string): void;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

interface Entry {
  readonly volumeId: VolumeId;
  readonly reign: Reign;
  state: 'opening' | 'open' | 'closing';
  /** Set when the engine must not stay open once it has opened. */
  cancelled: string | null;
  engine: Engine | null;
  exported: { readonly socketPath: string; readonly server: Promise<ExportServer> } | null;
  opened: Promise<Engine>;
  closed: Promise<void> | null;
}

export class EngineRoom {
  readonly #ports: EngineRoomPorts;
  readonly #entries = new Map<VolumeId, Entry>();

  constructor(ports: EngineRoomPorts) {
    this.#ports = ports;
  }

  /** Errors: those of the engine's open; ABORTED/StaleReign when a higher reign is open or was promised here. */
  async open(order: OpenEngineOrder): Promise<OpenedEngine> {
    const { volumeId } = order.volume;
    const present = this.#entries.get(volumeId);
    if (present && sameReign(present.reign, order.reign) && present.state !== 'closing') {
      return opened(await present.opened);
    }
    if (present && !isLower(present.reign, order.reign)) {
      throw staleReign(volumeId, order.reign, `reign ${present.reign.epoch} is open here`);
    }
    if (present) await this.#stop(present, `reign ${order.reign.epoch} opens`, false);
    const entry: Entry = {
      volumeId,
      reign: order.reign,
      state: 'opening',
      cancelled: null,
      engine: null,
      exported: null,
      opened: Promise.reject(new Error('not started')),
      closed: null,
    };
    entry.opened.catch(() => {});
    this.#entries.set(volumeId, entry);
    entry.opened = this.#openEntry(entry, order);
    entry.opened.catch(() => {});
    return opened(await entry.opened);
  }

  async #openEntry(entry: Entry, order: OpenEngineOrder): Promise<Engine> {
    const { clock, random, logger } = this.#ports;
    const { volumeId } = entry;
    const dataKey = order.dataKey ? Buffer.alloc(order.dataKey.length) : null;
    dataKey?.set(order.dataKey!);
    order.dataKey?.fill(0);
    let engine: Engine | null = null;
    try {
      engine = await this.#ports.openEngine({
        ...order,
        dataKey,
        connector: this.#ports.connector(volumeId),
        membership: this.#ports.membership(volumeId, order.reign),
        clock,
        random,
        logger: logger.child({ volume: volumeId, epoch: order.reign.epoch }),
      });
      entry.engine = engine;
      if (entry.cancelled === null && engine.sizeBytes < order.volume.sizeBytes) {
        await engine.resize(order.volume.sizeBytes);
      }
      if (entry.cancelled !== null) throw staleReign(volumeId, entry.reign, entry.cancelled);
      if (engine.closed) throw staleReign(volumeId, entry.reign, engine.status().message || 'it ended while it opened');
    } catch (error) {
      this.#forget(entry);
      if (engine) await engine.close().catch(() => engine?.depose('its open failed'));
      throw error;
    } finally {
      // The engine keeps a copy of its own, which it wipes when it ends.
      dataKey?.fill(0);
    }
    entry.state = 'open';
    const openEngine = engine;
    engine.onClosed(() => this.#ended(entry, openEngine));
    return engine;
  }

  #ended(entry: Entry, engine: Engine): void {
    if (entry.state !== 'open' || this.#entries.get(entry.volumeId) !== entry) return;
    const why = engine.status().message || 'the engine ended';
    entry.state = 'closing';
    this.#forget(entry);
    entry.closed = this.#stopExport(entry);
    this.#ports.logger.warn({ volume: entry.volumeId, epoch: entry.reign.epoch, why }, 'engine ended');
    this.#ports.engineEnded(entry.volumeId, entry.reign, why);
  }

  #forget(entry: Entry): void {
    if (this.#entries.get(entry.volumeId) === entry) this.#entries.delete(entry.volumeId);
  }

  /** Serves an open engine on a unix socket. FAILED_PRECONDITION when it is served on another one. */
  async startExport(at: Addressed, socketPath: string): Promise<void> {
    const entry = this.#find(at);
    if (!entry.engine || entry.state !== 'open') throw notOpen(at);
    if (entry.exported && entry.exported.socketPath !== socketPath) {
      throw precondition(`volume ${at.volumeId} is exported at ${entry.exported.socketPath}`, 'Conflict');
    }
    entry.exported ??= {
      socketPath,
      server: this.#ports.serveExport({ device: entry.engine, name: entry.volumeId, socketPath }),
    };
    const exported = entry.exported;
    try {
      await exported.server;
    } catch (error) {
      if (entry.exported === exported) entry.exported = null;
      throw error;
    }
    if (this.#entries.get(entry.volumeId) !== entry) throw notOpen(at);
  }

  async close(at: Addressed, flush: boolean): Promise<void> {
    const entry = this.#entries.get(at.volumeId);
    if (!entry || (at.epoch !== 0 && entry.reign.epoch !== at.epoch)) return;
    await this.#stop(entry, 'it was closed', flush);
  }

  /**
   * A fence of `reign` has reached this process: an engine of a lower one stops before the replica answers. True when one
   * ran (so the new engine has no lease to wait out).
   */
  async stopBelow(volumeId: VolumeId, reign: Reign): Promise<boolean> {
    const entry = this.#entries.get(volumeId);
    if (!entry || !isLower(entry.reign, reign)) return false;
    const ran = entry.state === 'open';
    entry.cancelled ??= `a replica here promised reign ${reign.epoch}`;
    // An engine that is still opening waits for replicas, this one perhaps: it ends by itself, and is not waited for.
    if (entry.state === 'opening') return false;
    await this.#stop(entry, `a replica here promised reign ${reign.epoch}`, false);
    return ran;
  }

  async #stop(entry: Entry, why: string, flush: boolean): Promise<void> {
    if (entry.state === 'opening') {
      entry.cancelled ??= why;
      await entry.opened.catch(() => {});
      return;
    }
    if (!entry.closed) {
      entry.state = 'closing';
      entry.closed = this.#closeEntry(entry, why, flush);
    } else if (!flush) {
      // A flushing close that hangs must not hold up whoever deposes.
      entry.engine?.depose(why);
    }
    await entry.closed;
  }

  async #closeEntry(entry: Entry, why: string, flush: boolean): Promise<void> {
    try {
      if (!flush) entry.engine?.depose(why);
      await this.#stopExport(entry);
      if (flush) await entry.engine?.close();
    } catch (error) {
      // Closed but not flushed: the next open recovers what was acknowledged. The caller has to know.
      this.#ports.logger.warn({ volume: entry.volumeId, error: messageOf(error) }, 'engine did not close cleanly');
      entry.engine?.depose('its close failed');
      throw error;
    } finally {
      this.#forget(entry);
    }
  }

  async #stopExport(entry: Entry): Promise<void> {
    const exported = entry.exported;
    if (!exported) return;
    entry.exported = null;
    try {
      await (await exported.server).close();
    } catch (error) {
      this.#ports.logger.warn({ volume: entry.volumeId, error: messageOf(error) }, 'export did not close cleanly');
    }
  }

  /** The open engine of exactly this reign. ABORTED/StaleReign otherwise: the caller opens again and repeats. */
  engine(at: Addressed): Engine {
    const entry = this.#find(at);
    if (!entry.engine || entry.state !== 'open') throw notOpen(at);
    return entry.engine;
  }

  status(at: Addressed): EngineStatus {
    return this.engine(at).status();
  }

  async closeAll(): Promise<void> {
    await Promise.allSettled([...this.#entries.values()].map((entry) => this.#stop(entry, 'the daemon stops', true)));
  }

  #find(at: Addressed): Entry {
    const entry = this.#entries.get(at.volumeId);
    if (!entry || entry.reign.epoch !== at.epoch) throw notOpen(at);
    return entry;
  }
}

function opened({ sizeBytes, opening }: Engine): OpenedEngine {
  return { sizeBytes, opening };
}

export function sameReign(a: Reign, b: Reign): boolean {
  return a.epoch === b.epoch && a.reignId === b.reignId;
}

/** Reigns of one epoch with different ids never follow each other: the store grants an epoch once. */
function isLower(a: Reign, b: Reign): boolean {
  return a.epoch < b.epoch;
}

function staleReign(volumeId: VolumeId, reign: Reign, why: string): HoldfastError {
  return new HoldfastError('ABORTED', `volume ${volumeId} did not stay open under reign ${reign.epoch}: ${why}`, {
    reason: 'StaleReign',
  });
}

function notOpen(at: Addressed): HoldfastError {
  return new HoldfastError('ABORTED', `volume ${at.volumeId} is not open here under reign ${at.epoch}: open it again`, {
    reason: 'StaleReign',
  });
}
