// What `holdfast storage` is told: flags and environment.

import { availableParallelism } from 'node:os';
import { invalid, type NodeId, parseNodeId } from '../base/index.js';
import { parseAddress } from '../rpc/index.js';
import { type FlagSpec, Flags } from './flags.js';
import { NODE_LABEL } from './labels.js';
import { peerAddress, securityFlags, securityUsage, type TlsDirectory, tlsDirectory } from './security.js';

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
  const tls = tlsDirectory(flags);
  const listen = peerAddress('listen', flags.text('listen', '127.0.0.1:0'), tls);
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
    controller: peerAddress('controller', flags.text('controller'), tls),
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
    tls,
  };
}
