// A node: its disk, and the storage daemon on it, put together of the same parts as the real one (main/storage-worker.ts) with
// its main thread and its worker in one simulated process. Only the NBD server is left out: what it would be given is kept here.

import { replicaConnector } from '../../src/agent/connector.js';
import { EngineRoom } from '../../src/agent/engine-room.js';
import { mainHandlers } from '../../src/agent/membership.js';
import { Registration } from '../../src/agent/registration.js';
import { ReplicaAddresses } from '../../src/agent/replica-addresses.js';
import { replicaService } from '../../src/agent/replica-service.js';
import { volumeRecords } from '../../src/agent/volume-records.js';
import { volumeService } from '../../src/agent/volume-service.js';
import { Volumes } from '../../src/agent/volumes.js';
import type { WorkerCalls } from '../../src/agent/worker-calls.js';
import { workerHandlers } from '../../src/agent/worker-handlers.js';
import { type Logger, type NodeId, type Random, TiB, unavailable, type VolumeId } from '../../src/base/index.js';
import { type BlockDevice, type Engine, type EngineOptions, openEngine } from '../../src/engine/index.js';
import { PAGE_BYTES, PageCache } from '../../src/hotpath/index.js';
import type { MetadataStore } from '../../src/meta/index.js';
import { ReplicaHost } from '../../src/replica/index.js';
import { type holdfast, holdfastServices } from '../../src/rpc/index.js';
import { Pool } from '../../src/segment/index.js';
import { connectReplica, type ReplicaPort, type ReplicaStatus, WireServer } from '../../src/wire/index.js';
import type { RecordingDisk } from '../lib/recording-disk.js';
import type { SimNet } from './net.js';
import type { SimProcess } from './process.js';
import { type Served, simClient } from './rpc.js';
import { type SimStore, storeNode } from './store.js';
import { watched } from './watched-port.js';

export const poolPath = '/pool';

export interface DaemonHooks {
  /** An engine begins to open. */
  opening(volumeId: VolumeId, options: EngineOptions, daemon: Daemon): void;
  opened(volumeId: VolumeId, engine: Engine, daemon: Daemon): void;
  /** An engine of `epoch` hands these bytes to a port. */
  sending(volumeId: VolumeId, epoch: number, bytes: Uint8Array, offset: number): void;
  /** The replica of that node is about to be brought up to date. */
  joining(nodeId: NodeId): void;
  /** What a replica answered to a fence. */
  fenced(volumeId: VolumeId, status: ReplicaStatus | null, error: unknown): void;
}

export interface DaemonParts {
  readonly nodeId: NodeId;
  readonly disk: RecordingDisk;
  readonly process: SimProcess;
  readonly net: SimNet;
  readonly store: SimStore;
  readonly random: Random;
  readonly logger: Logger;
  readonly pages: number;
  readonly leaseless: boolean;
  readonly hooks: DaemonHooks;
  /** The controller that runs now. */
  readonly controller: () => Served | null;
}

export class Daemon implements Served {
  readonly process: SimProcess;
  readonly services: Served['services'];
  readonly nodeId: NodeId;
  readonly volumes: Volumes;
  readonly room: EngineRoom;
  /** What the NBD server of a volume would serve. */
  readonly devices = new Map<VolumeId, BlockDevice>();
  readonly #parts: DaemonParts;
  readonly #store: MetadataStore;
  #host: ReplicaHost | null = null;
  #server: WireServer | null = null;
  #registration: Registration | null = null;
  /** Highest store version seen by this process. */
  #storeVersion = 0;

  constructor(parts: DaemonParts) {
    const { process, net, store, random, logger, hooks, nodeId } = parts;
    this.#parts = parts;
    this.process = process;
    this.nodeId = nodeId;
    this.#store = store.forProcess(process, nodeId);
    const records = volumeRecords(this.#store, process);
    const addresses = new ReplicaAddresses(this.#store);
    const main = mainHandlers({ records, addresses, volumes: () => this.volumes, logger });
    const streams = net.forProcess(process, nodeId);
    const pages = new PageCache(parts.pages * PAGE_BYTES);
    const options = { clock: process, random, logger };
    this.room = new EngineRoom({
      openEngine: async (order) => {
        hooks.opening(order.volume.volumeId, order, this);
        const { connector, reign, volume } = order;
        const engine = await openEngine({
          ...order,
          pages,
          leaseless: parts.leaseless,
          connector: {
            connect: async (member, timeoutMs) => {
              let port: ReplicaPort;
              try {
                port = await connector.connect(member, timeoutMs);
              } catch (error) {
                if (!process.dead) hooks.fenced(volume.volumeId, null, error);
                throw error;
              }
              return watched(port, {
                sending: (bytes, offset) => {
                  if (!process.dead) hooks.sending(volume.volumeId, reign.epoch, bytes, offset);
                },
                joining: () => hooks.joining(member.nodeId),
                fenced: (status, error) => hooks.fenced(volume.volumeId, status, error),
              });
            },
          },
        });
        hooks.opened(order.volume.volumeId, engine, this);
        return engine;
      },
      serveExport: async ({ device, name }) => {
        this.devices.set(name as VolumeId, device);
        return {
          close: async () => {
            if (this.devices.get(name as VolumeId) === device) this.devices.delete(name as VolumeId);
          },
        };
      },
      connector: (volumeId) =>
        replicaConnector(volumeId, {
          nodeId,
          local: (volume, replicaId) => this.host.localPort(volume, replicaId),
          remote: ({ address, timeoutMs, ...target }) =>
            connectReplica(streams, address, { ...target, ...options }, timeoutMs),
          address: async (node, volume, refresh) =>
            (await main.replicaAddress({ nodeId: node, volumeId: volume, refresh })).address,
          clock: process,
        }),
      membership: (volumeId, reign) => ({
        changeSet: async (change) => main.changeSet({ volumeId, reign, ...change }),
        markLost: async (replicaId, message) => {
          await main.markLost({ volumeId, reign, replicaId, message });
        },
        noteFlushed: async (point) => {
          await main.noteFlushed({ volumeId, reign, point });
        },
      }),
      engineEnded: (volumeId, reign, why) => void main.engineEnded({ volumeId, epoch: reign.epoch, why }),
      ...options,
    });
    const handlers = workerHandlers(this.room, {
      create: (order) => this.host.create(order),
      retire: (order) => this.host.retire(order),
      status: async (volumeId) => ({
        replicas: this.host.status(volumeId),
        unread: this.host.unread(),
      }),
      pools: () => this.host.pools(),
      start: async () => ({ replicaPort: 0 }),
      close: async () => {},
    });
    const worker: WorkerCalls = {
      call: (async (method: keyof typeof handlers, params: never) => {
        const copy = structuredClone(params);
        await Promise.resolve();
        const handler = handlers[method] as (params: never) => unknown;
        return await handler(copy);
      }) as WorkerCalls['call'],
    };
    this.volumes = new Volumes({
      nodeId,
      records,
      workerFor: () => worker,
      socketPathFor: (volumeId) => `/run/${volumeId}`,
      checkStore: () => this.#checkStore(),
      ...options,
    });
    this.services = [
      volumeService(this.volumes, { acceptsKeys: false }),
      replicaService({ workers: [worker], workerFor: () => worker, checkStore: () => this.#checkStore() }),
    ];
  }

  get host(): ReplicaHost {
    if (this.#host === null) throw unavailable(`the daemon of ${this.nodeId} is starting`);
    return this.#host;
  }
  get started(): boolean {
    return this.#server !== null;
  }

  /** Opens the pool, listens, and tells the store where. */
  async start(): Promise<void> {
    const { disk, process, nodeId, net, logger } = this.#parts;
    const pool = await Pool.open(disk, poolPath, { nodeId, exclusive: true });
    this.#host = new ReplicaHost({
      pools: [pool],
      stopEngine: (volumeId, reign) => this.room.stopBelow(volumeId, reign),
      clock: process,
      logger,
    });
    const server = await WireServer.listen(net.forProcess(process, nodeId), `${nodeId}:0`, {
      source: this.#host,
      nodeId,
      clock: process,
      logger,
    });
    this.#server = server;
    this.#registration = new Registration({
      client: simClient(holdfastServices.node(), {
        net,
        caller: process,
        from: nodeId,
        to: storeNode,
        served: this.#parts.controller,
      }),
      describe: async () => this.#describe(server.address),
      storeVersion: () => {},
      clock: process,
      logger,
    });
    this.#registration.start();
  }

  get registered(): boolean {
    return this.#registration?.registered ?? false;
  }

  #describe(address: string): holdfast.NodeDescription {
    return {
      node_id: this.nodeId,
      control_address: `${this.nodeId}:1`,
      topology: {},
      tags: [],
      pools: this.host.pools().map((pool) => ({
        pool_id: pool.poolId,
        path: pool.path,
        capacity_bytes: Math.min(pool.capacityBytes, TiB),
        free_bytes: Math.min(pool.freeBytes, TiB),
        tags: [],
        problem: pool.problem,
      })),
      replica_addresses: [address],
      instance: address,
      store_version_seen: this.#storeVersion,
    };
  }

  /** agent/store-version.ts without its file. */
  async #checkStore(): Promise<void> {
    const seen = this.#storeVersion;
    const version = await this.#store.version();
    if (version < seen) throw new Error('the metadata store went back in time');
    this.#storeVersion = Math.max(seen, version, this.#storeVersion);
  }

  /** An orderly stop. */
  async stop(): Promise<void> {
    await this.#registration?.stop();
    await this.volumes.closeAll();
    await this.#server?.close();
    await this.#host?.close();
  }
}

export class SimNode {
  readonly index: number;
  readonly nodeId: NodeId;
  disk: RecordingDisk;
  daemon: Daemon | null = null;
  /** The machine has power. */
  up = true;
  /** Its disk at the start, and the changes of it that made the pool and the replicas. */
  readonly firstDisk: RecordingDisk;
  setupChanges = 0;
  /** How much longer its disk takes than usual, and milliseconds more for every sync. */
  slowness = 1;
  stuckMs = 0;
  /** Counts starts and ends, so that a start that was planned for an earlier life is not done. */
  lives = 0;

  constructor(index: number, disk: RecordingDisk) {
    this.index = index;
    this.nodeId = `n${index}` as NodeId;
    this.disk = disk;
    this.firstDisk = disk;
  }

  /** A daemon that serves. */
  get serving(): Daemon | null {
    const { daemon } = this;
    return daemon?.started && daemon.process.state === 'running' ? daemon : null;
  }
}
