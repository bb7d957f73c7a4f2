// One worker thread of `holdfast storage`: the replicas of its volumes in all pools of the node, the engines of those that are
// open here, their NBD exports, and a TCP server for engines elsewhere. Everything that touches a pool happens on these
// threads. Composition only; orders come from the main thread.

import { parentPort, workerData } from 'node:worker_threads';
// Its parts one by one: the folder's index would load gRPC into every worker, a third of a daemon's restart.
import { replicaConnector } from '../agent/connector.js';
import { EngineRoom } from '../agent/engine-room.js';
import type { MainMethods, WorkerMethods } from '../agent/index.js';
import { PortRpc } from '../agent/port-rpc.js';
import { type WorkerReplicas, workerHandlers } from '../agent/worker-handlers.js';
import { workerOf } from '../agent/worker-of.js';
import { assert, createLogger, type Logger, messageOf, realClock, realRandom, type VolumeId } from '../base/index.js';
import { type BlockDevice, openEngine } from '../engine/index.js';
import { MAP_CACHE_BYTES, pageCache } from '../hotpath/index.js';
import { ExportTable, NbdServer } from '../nbd/index.js';
import { ReplicaHost } from '../replica/index.js';
import { NodeDisk, Pool } from '../segment/index.js';
import { openNet, startBusyPoll } from '../transport/index.js';
import { ToldTrust } from '../trust/index.js';
import { connectReplica, WireServer } from '../wire/index.js';
import type { CredentialsMessage, WorkerSeed } from './storage-threads.js';

/** Longer than a call of the remote store takes at most, so that its answer arrives. */
const storeCallMs = 40_000;
const noteCallMs = 35_000;

const seed = workerData as WorkerSeed;
const logger = createLogger('storage', seed.logLevel).child({ node: seed.nodeId, worker: seed.index });
const trust = seed.credentials === null ? null : new ToldTrust(seed.credentials);
const net = openNet(realClock);
/** Between nodes; exports are unix sockets, which need none. */
const wireNet = trust === null ? net : openNet(realClock, { trust, logger });
startBusyPoll(seed.busyPollUs);
// One budget for the daemon, whatever it is divided into.
pageCache.limit(MAP_CACHE_BYTES / seed.workers);

/** The replicas of this worker, from `start` on. */
class Replicas implements WorkerReplicas {
  #host: ReplicaHost | undefined;
  #server: WireServer | undefined;
  readonly #room: () => EngineRoom;

  constructor(room: () => EngineRoom) {
    this.#room = room;
  }

  get host(): ReplicaHost {
    assert(this.#host, 'a worker was given orders before it was started');
    return this.#host;
  }

  async start(): Promise<{ replicaPort: number }> {
    const disk = new NodeDisk(seed.pools.length === 1);
    // The main thread holds the pools' locks for this process.
    const opening = seed.pools.map((path) => Pool.open(disk, path, { nodeId: seed.nodeId, exclusive: false }));
    const host = new ReplicaHost({
      pools: await Promise.all(opening),
      unopened: seed.unopened,
      stopEngine: (volumeId, reign) => this.#room().stopBelow(volumeId, reign),
      owns: (volumeId) => workerOf(volumeId, seed.workers) === seed.index,
      clock: realClock,
      logger,
    });
    this.#host = host;
    const address = seed.replicaHost.includes(':') ? `[${seed.replicaHost}]` : seed.replicaHost;
    this.#server = await WireServer.listen(wireNet, `${address}:${seed.replicaPort}`, {
      source: host,
      nodeId: seed.nodeId,
      clock: realClock,
      logger,
    });
    return { replicaPort: Number(this.#server.address.slice(this.#server.address.lastIndexOf(':') + 1)) };
  }

  create: WorkerReplicas['create'] = (order) => this.host.create(order);
  retire: WorkerReplicas['retire'] = (order) => this.host.retire(order);
  status: WorkerReplicas['status'] = async (volumeId) => ({
    replicas: this.host.status(volumeId),
    unread: this.host.unread(),
  });
  pools: WorkerReplicas['pools'] = () => this.host.pools();

  async close(): Promise<void> {
    await this.#server?.close();
    await this.#host?.close();
  }
}

/** One server for each export: its socket is the volume's own, and goes with it. */
async function serveExport(options: { device: BlockDevice; name: string; socketPath: string; logger: Logger }) {
  const exports = new ExportTable();
  exports.add({ name: options.name, device: options.device });
  const server = new NbdServer({ exports, logger: options.logger });
  await server.listen(net, `unix:${options.socketPath}`);
  return { close: () => server.close() };
}

function serve(port: NonNullable<typeof parentPort>): void {
  // A broken invariant: the main thread logs it and ends the process; nothing more may happen here.
  const onFatal = (error: Error) => {
    setImmediate(() => {
      throw error;
    });
  };
  port.on('message', (message: Partial<CredentialsMessage>) => {
    if (message.credentials !== undefined) trust?.tell(message.credentials);
  });
  let room: EngineRoom | undefined;
  const replicas = new Replicas(() => {
    assert(room, 'a fence arrived before the engine room was there');
    return room;
  });
  const main: { rpc?: PortRpc<MainMethods, WorkerMethods> } = {};
  const call = <Method extends keyof MainMethods>(
    method: Method,
    params: MainMethods[Method]['params'],
    timeoutMs: number,
  ) => main.rpc!.call(method, params, timeoutMs);
  room = new EngineRoom({
    openEngine,
    serveExport: (options) => serveExport({ ...options, logger }),
    connector: (volumeId: VolumeId) =>
      replicaConnector(volumeId, {
        nodeId: seed.nodeId,
        local: (volume, replicaId) => replicas.host.localPort(volume, replicaId),
        remote: ({ address, timeoutMs, ...target }) =>
          connectReplica(wireNet, address, { ...target, clock: realClock, random: realRandom, logger }, timeoutMs),
        address: async (nodeId, volume, refresh, timeoutMs) =>
          (await call('replicaAddress', { nodeId, volumeId: volume, refresh }, timeoutMs)).address,
        clock: realClock,
      }),
    membership: (volumeId, reign) => ({
      changeSet: (change) => call('changeSet', { volumeId, reign, ...change }, storeCallMs),
      markLost: async (replicaId, message) => {
        await call('markLost', { volumeId, reign, replicaId, message }, storeCallMs);
      },
      noteFlushed: async (point) => {
        await call('noteFlushed', { volumeId, reign, point }, noteCallMs);
      },
    }),
    engineEnded: (volumeId, reign, why) => {
      call('engineEnded', { volumeId, epoch: reign.epoch, why }, noteCallMs).catch((error) => {
        logger.warn({ volume: volumeId, error: messageOf(error) }, 'the end of an engine was not reported');
      });
    },
    clock: realClock,
    random: realRandom,
    logger,
  });
  main.rpc = new PortRpc<MainMethods, WorkerMethods>(port, {
    clock: realClock,
    handlers: workerHandlers(room, replicas),
    onFatal,
  });
}

assert(parentPort, 'storage-worker is started by "holdfast storage" only');
serve(parentPort);
