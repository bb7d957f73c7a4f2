// `holdfast storage`: the storage daemon of a node. This thread serves gRPC (on TCP for the controller, on the node's unix
// socket for holders and the node plugin), speaks with the metadata store and reports to the controller; engines, replicas
// and exports are the workers'. Composition only.

import { join } from 'node:path';
import {
  mainHandlers,
  Registration,
  ReplicaAddresses,
  replicaService,
  StoreVersion,
  Volumes,
  volumeRecords,
  volumeService,
  type WorkerCalls,
  workerOf,
} from '../agent/index.js';
import { createLogger, type Logger, realClock, realRandom, type VolumeId } from '../base/index.js';
import { type MetadataStore, openRemoteStore } from '../meta/index.js';
import { makeDirectory } from '../platform/index.js';
import {
  createClient,
  createServer,
  type holdfast,
  holdfastServices,
  parseAddress,
  type Server,
} from '../rpc/index.js';
import type { Credentials, Trust } from '../trust/index.js';
import { openRunDirectory, type RunDirectory } from './run-directory.js';
import { openCertificates, toController } from './security.js';
import { parseStorageConfig, type StorageConfig } from './storage-config.js';
import { type OpenedPools, openPools } from './storage-pools.js';
import { type StorageThreads, startThreads, type WorkerSeed } from './storage-threads.js';

const poolsTimeoutMs = 10_000;
const closeGraceMs = 5_000;

/** What a daemon stands on. */
interface Ground {
  readonly config: StorageConfig;
  readonly runDirectory: RunDirectory;
  readonly trust: Trust | null;
  readonly logger: Logger;
  readonly storeVersion: StoreVersion;
  readonly store: MetadataStore;
  readonly onBroken: (error: unknown) => void;
}

interface Daemon extends Ground {
  readonly threads: StorageThreads;
  readonly volumes: Volumes;
  readonly workerFor: (volumeId: VolumeId) => WorkerCalls;
  readonly onUnexpected: (error: unknown) => void;
}

/** Runs until `signal` aborts. Rejects with a HoldfastError whose message is one line for people when it can't go on. */
export async function runStorage(argv: readonly string[], signal: AbortSignal): Promise<void> {
  const config = parseStorageConfig(argv, process.env);
  const logger = createLogger('storage', config.logLevel).child({ node: config.nodeId });
  const part = { role: 'storage', node: config.nodeId } as const;
  const trust = openCertificates(config.tls, part, { clock: realClock, logger });
  const runDirectory = openRunDirectory(config.runDir);
  makeDirectory(config.stateDir);
  const storeVersion = await StoreVersion.load(join(config.stateDir, 'store-version'), realClock, logger);
  const opened = await openPools(config, logger);
  const store = openRemoteStore({
    address: config.controller,
    clock: realClock,
    random: realRandom,
    logger,
    security: toController(trust),
  });
  const broken = new AbortController();
  try {
    const ground = { config, runDirectory, trust, logger, storeVersion, store, onBroken: broken.abort.bind(broken) };
    const daemon = await startDaemon(ground, opened);
    await serve(daemon, AbortSignal.any([signal, broken.signal]), broken.signal);
  } finally {
    trust?.stop();
    await store.close();
    await storeVersion.save();
    for (const pool of opened.pools) pool.close();
  }
  if (broken.signal.aborted) throw broken.signal.reason;
  logger.info({}, 'storage daemon stopped');
}

/** Starts the workers, and what on this thread gives them their orders. */
async function startDaemon(ground: Ground, opened: OpenedPools): Promise<Daemon> {
  const { config, runDirectory, trust, logger, storeVersion, store, onBroken } = ground;
  const records = volumeRecords(store, realClock);
  const late: { volumes?: Volumes } = {};
  const handlers = mainHandlers({
    records,
    addresses: new ReplicaAddresses(store),
    volumes: () => late.volumes,
    logger,
  });
  const credentials = trust?.current ?? null;
  const starting = startThreads(seedsOf(config, opened, credentials), handlers, { clock: realClock, logger, onBroken });
  // Read while the threads start: users of attached volumes wait for all of this.
  for (const service of [holdfastServices.volume, holdfastServices.replica, holdfastServices.node]) service();
  const threads = await starting;
  trust?.watch((changed) => threads.tell(changed));
  // They may have changed while the threads started.
  if (trust !== null && trust.current !== credentials) threads.tell(trust.current);
  const workerFor = (volumeId: VolumeId) => threads.calls[workerOf(volumeId, threads.calls.length)]!;
  const volumes = new Volumes({
    nodeId: config.nodeId,
    records,
    workerFor,
    socketPathFor: runDirectory.exportSocket,
    checkStore: () => storeVersion.check(store),
    clock: realClock,
    random: realRandom,
    logger,
  });
  late.volumes = volumes;
  const onUnexpected = (error: unknown) => {
    if (error instanceof Error && error.name === 'AssertionError') onBroken(error);
  };
  return { ...ground, threads, volumes, workerFor, onUnexpected };
}

function seedsOf(config: StorageConfig, opened: OpenedPools, credentials: Credentials | null): WorkerSeed[] {
  return Array.from({ length: config.workers }, (_, index) => ({
    nodeId: config.nodeId,
    index,
    workers: config.workers,
    pools: opened.pools.map((pool) => pool.path),
    unopened: opened.unopened,
    replicaHost: hostOf(config.listen),
    replicaPort: config.replicaPort === 0 ? 0 : config.replicaPort + index,
    busyPollUs: config.busyPollUs,
    credentials,
    logLevel: config.logLevel,
  }));
}

function hostOf(address: string): string {
  const parsed = parseAddress(address);
  return parsed.kind === 'tcp' ? parsed.host : '127.0.0.1';
}

async function serve(daemon: Daemon, end: AbortSignal, broken: AbortSignal): Promise<void> {
  const { config, logger, volumes, threads } = daemon;
  let servers: Server[] = [];
  let registration: Registration | undefined;
  const security = toController(daemon.trust);
  const client = createClient(config.controller, holdfastServices.node(), { clock: realClock, security });
  try {
    servers = await listen(daemon);
    const tcp = servers[0]!;
    registration = new Registration({
      client,
      describe: () => describe(daemon, tcp.port!),
      storeVersion: (version) => daemon.storeVersion.note(version),
      clock: realClock,
      logger,
    });
    registration.start();
    logger.info(
      { control: tcp.address, socket: daemon.runDirectory.storageSocket, replicaPorts: threads.replicaPorts },
      'storage daemon is ready',
    );
    if (!end.aborted) await new Promise((resolve) => end.addEventListener('abort', resolve, { once: true }));
  } finally {
    await registration?.stop();
    client.close();
    // After a broken invariant nothing is flushed by code that may be wrong: recovery is made for exactly that.
    if (!broken.aborted) {
      await Promise.all(servers.map((server) => server.close(closeGraceMs)));
      await volumes.closeAll();
      await threads.stop();
    }
  }
}

async function listen(daemon: Daemon): Promise<Server[]> {
  const { config, trust, volumes, threads, workerFor, logger, onUnexpected, runDirectory } = daemon;
  const common = { logger, clock: realClock, onUnexpected };
  const checkStore = () => daemon.storeVersion.check(daemon.store);
  const replicas = replicaService({ workers: threads.calls, workerFor, checkStore });
  const local = await createServer({
    ...common,
    address: `unix://${runDirectory.storageSocket}`,
    services: [volumeService(volumes, { acceptsKeys: true }), replicas],
  });
  try {
    const services = [volumeService(volumes, { acceptsKeys: false }), replicas];
    return [await createServer({ ...common, address: config.listen, trust, services }), local];
  } catch (error) {
    await local.close(0);
    throw error;
  }
}

const instance = realRandom.uuid();

async function describe(daemon: Daemon, port: number): Promise<holdfast.NodeDescription> {
  const { config, threads, storeVersion } = daemon;
  const reports = await threads.calls[0]!.call('poolStatus', null, poolsTimeoutMs);
  return {
    node_id: config.nodeId,
    control_address: hostPort(config.advertise, port),
    topology: config.topology,
    tags: [...config.tags],
    pools: reports.map((pool) => ({
      pool_id: pool.poolId,
      path: pool.path,
      capacity_bytes: pool.capacityBytes,
      free_bytes: pool.freeBytes,
      tags: [...config.tags],
      problem: pool.problem,
    })),
    // Without a pool there is nothing to serve, and nobody asks.
    replica_addresses: threads.replicaPorts.map((one) => hostPort(config.advertise, one)),
    instance,
    store_version_seen: storeVersion.highest,
  };
}

function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
