// `holdfast storage`: the storage daemon of a node. This thread serves gRPC (on TCP for the controller, on the node's unix
// socket for holders and the node plugin), speaks with the metadata store and reports to the controller; engines, replicas
// and exports are the workers'. Composition only.

import { availableParallelism } from 'node:os';
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
import {
  createLogger,
  invalid,
  type Logger,
  messageOf,
  type NodeId,
  parseNodeId,
  realClock,
  realRandom,
  type VolumeId,
} from '../base/index.js';
import { openRemoteStore } from '../meta/index.js';
import { makeDirectory } from '../platform/index.js';
import type { UnopenedPool } from '../replica/index.js';
import {
  createClient,
  createServer,
  type holdfast,
  holdfastServices,
  parseAddress,
  type Server,
} from '../rpc/index.js';
import { NodeDisk, Pool } from '../segment/index.js';
import type { Trust } from '../trust/index.js';
import { type FlagSpec, Flags } from './flags.js';
import { NODE_LABEL } from './labels.js';
import { openRunDirectory, type RunDirectory } from './run-directory.js';
import {
  openCertificates,
  securityFlags,
  securityUsage,
  type TlsDirectory,
  tlsDirectory,
  toController,
} from './security.js';
import { type StorageThreads, startThreads } from './storage-threads.js';

export const storageUsage = `holdfast storage: keeps replicas in this node's pools and runs the engines of volumes attached here

  --node-id NAME               of this node                            HOLDFAST_NODE_ID
  --controller HOST:PORT       where the controller is                 HOLDFAST_CONTROLLER
  --pool DIR                   a pool; repeatable; none: no replicas   HOLDFAST_POOLS (comma-separated)
  --format-pools               make an empty directory a pool
  --listen HOST:PORT           control API (127.0.0.1:0)               HOLDFAST_LISTEN
  --advertise HOST             name under which others reach this node HOLDFAST_ADVERTISE
  --replica-port PORT          first of one port a worker; 0 = any     HOLDFAST_REPLICA_PORT
  --workers N                  threads (one less than cores, 1 to 4)   HOLDFAST_WORKERS
  --busy-poll-us N             looks for requests so long before it    HOLDFAST_BUSY_POLL_US
                               sleeps; 0 = sleeps at once (100)
  --run-dir DIR                sockets (/run/holdfast)                 HOLDFAST_RUN_DIR
  --state-dir DIR              what is remembered (/var/lib/holdfast)  HOLDFAST_STATE_DIR
  --topology KEY=VALUE         label of this node; repeatable          HOLDFAST_TOPOLOGY
  --tag TAG                    of this node's pools; repeatable        HOLDFAST_TAGS
${securityUsage}  --log-level LEVEL            debug, info, warn, error or silent      HOLDFAST_LOG_LEVEL
`;

const flagSpec: FlagSpec = {
  'node-id': { type: 'string', env: 'HOLDFAST_NODE_ID' },
  controller: { type: 'string', env: 'HOLDFAST_CONTROLLER' },
  pool: { type: 'string', multiple: true, env: 'HOLDFAST_POOLS' },
  'format-pools': { type: 'boolean' },
  listen: { type: 'string', env: 'HOLDFAST_LISTEN' },
  advertise: { type: 'string', env: 'HOLDFAST_ADVERTISE' },
  'replica-port': { type: 'string', env: 'HOLDFAST_REPLICA_PORT' },
  workers: { type: 'string', env: 'HOLDFAST_WORKERS' },
  'busy-poll-us': { type: 'string', env: 'HOLDFAST_BUSY_POLL_US' },
  'run-dir': { type: 'string', env: 'HOLDFAST_RUN_DIR' },
  'state-dir': { type: 'string', env: 'HOLDFAST_STATE_DIR' },
  topology: { type: 'string', multiple: true, env: 'HOLDFAST_TOPOLOGY' },
  tag: { type: 'string', multiple: true, env: 'HOLDFAST_TAGS' },
  'log-level': { type: 'string', env: 'HOLDFAST_LOG_LEVEL' },
  ...securityFlags,
};

const workersMax = 64;
const workersDefaultMax = 4;
/** Decision 029. */
const busyPollUsDefault = 100;
const busyPollUsMax = 1000;
const poolsTimeoutMs = 10_000;
const closeGraceMs = 5_000;

export interface StorageConfig {
  readonly nodeId: NodeId;
  readonly controller: string;
  readonly pools: readonly string[];
  readonly formatPools: boolean;
  readonly listen: string;
  readonly advertise: string;
  readonly replicaPort: number;
  readonly workers: number;
  readonly busyPollUs: number;
  readonly runDir: string;
  readonly stateDir: string;
  readonly topology: Readonly<Record<string, string>>;
  readonly tags: readonly string[];
  readonly logLevel: string;
  readonly tls: TlsDirectory;
}

export function parseStorageConfig(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): StorageConfig {
  const flags = new Flags(argv, flagSpec, environment);
  const nodeId = parseNodeId(flags.text('node-id'));
  const listen = flags.text('listen', '127.0.0.1:0');
  const address = parseAddress(listen);
  if (address.kind !== 'tcp') throw invalid(`--listen must be HOST:PORT, not ${listen}`);
  const workers = flags.integer(
    'workers',
    Math.min(workersDefaultMax, Math.max(1, availableParallelism() - 1)),
    1,
    workersMax,
  );
  const pools = flags.list('pool');
  if (new Set(pools).size !== pools.length) throw invalid('--pool names the same directory twice');
  return {
    nodeId,
    controller: flags.text('controller'),
    pools,
    formatPools: flags.isSet('format-pools'),
    listen,
    advertise: flags.text('advertise', address.host),
    replicaPort: flags.integer('replica-port', 0, 0, 65535 - workersMax),
    workers,
    busyPollUs: flags.integer('busy-poll-us', busyPollUsDefault, 0, busyPollUsMax),
    runDir: flags.text('run-dir', '/run/holdfast'),
    stateDir: flags.text('state-dir', '/var/lib/holdfast'),
    topology: { ...flags.labels('topology'), [NODE_LABEL]: nodeId },
    tags: flags.list('tag'),
    logLevel: flags.logLevel(),
    tls: tlsDirectory(flags, environment),
  };
}

interface OpenedPools {
  readonly pools: readonly Pool[];
  readonly unopened: readonly UnopenedPool[];
}

/**
 * Opens each pool and holds its lock for as long as the daemon lives. One that can't be opened is reported, and the others
 * serve; when there is none that could, its error is thrown.
 */
async function openPools(config: StorageConfig, logger: Logger): Promise<OpenedPools> {
  const disk = new NodeDisk();
  const pools: Pool[] = [];
  const unopened: UnopenedPool[] = [];
  let failure: unknown;
  for (const path of config.pools) {
    try {
      if (config.formatPools && disk.stat(path)?.directory && !disk.list(path).includes('pool.json')) {
        const identity = await Pool.format(disk, path, { nodeId: config.nodeId, random: realRandom, clock: realClock });
        logger.info({ pool: path, poolId: identity.poolId }, 'pool formatted');
      }
      pools.push(await Pool.open(disk, path, { nodeId: config.nodeId, exclusive: true }));
    } catch (error) {
      failure ??= error;
      const problem = `not opened: ${messageOf(error)}; mend it and restart the storage daemon`;
      unopened.push({ path, problem });
      logger.error({ pool: path, error: messageOf(error) }, 'a pool can not be opened');
    }
  }
  if (pools.length === 0 && failure !== undefined) throw failure;
  return { pools, unopened };
}

interface Daemon {
  readonly config: StorageConfig;
  readonly runDirectory: RunDirectory;
  readonly trust: Trust | null;
  readonly logger: Logger;
  readonly storeVersion: StoreVersion;
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
  const { pools, unopened } = await openPools(config, logger);
  const store = openRemoteStore({
    address: config.controller,
    clock: realClock,
    random: realRandom,
    logger,
    security: toController(trust),
  });
  const broken = new AbortController();
  const onBroken = (error: unknown) => broken.abort(error);
  const records = volumeRecords(store, realClock);
  const late: { volumes?: Volumes } = {};
  const handlers = mainHandlers({
    records,
    addresses: new ReplicaAddresses(store),
    volumes: () => late.volumes,
    logger,
  });
  try {
    const seeds = Array.from({ length: config.workers }, (_, index) => ({
      nodeId: config.nodeId,
      index,
      workers: config.workers,
      pools: pools.map((pool) => pool.path),
      unopened,
      replicaHost: hostOf(config.listen),
      replicaPort: config.replicaPort === 0 ? 0 : config.replicaPort + index,
      busyPollUs: config.busyPollUs,
      credentials: trust?.current ?? null,
      logLevel: config.logLevel,
    }));
    const starting = startThreads(seeds, handlers, { clock: realClock, logger, onBroken });
    // Read while the threads start: users of attached volumes wait for all of this.
    for (const service of [holdfastServices.volume, holdfastServices.replica, holdfastServices.node]) service();
    const threads = await starting;
    trust?.watch((credentials) => threads.tell(credentials));
    // They may have changed while the threads started.
    if (trust !== null && trust.current !== seeds[0]!.credentials) threads.tell(trust.current);
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
    const daemon = { config, runDirectory, trust, logger, storeVersion, threads, volumes, workerFor, onUnexpected };
    await serve(daemon, AbortSignal.any([signal, broken.signal]), broken.signal);
  } finally {
    trust?.stop();
    await store.close();
    await storeVersion.save();
    for (const pool of pools) pool.close();
  }
  if (broken.signal.aborted) throw broken.signal.reason;
  logger.info({}, 'storage daemon stopped');
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
  const replicas = replicaService({ workers: threads.calls, workerFor });
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
