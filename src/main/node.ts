// `holdfast node`: CSI Identity and Node on a unix socket. Stateless: it may be killed and started at any time; what is
// attached is kept by holders (`holdfast attach`), which it starts and finds again. Composition only.

import { fileURLToPath } from 'node:url';
import {
  createExportSource,
  createStorageDaemon,
  filesystemSize,
  type NodeVolumesPorts,
  volumeRecords,
} from '../agent/index.js';
import { createLogger, type Logger, type NodeId, parseNodeId, realClock, realRandom } from '../base/index.js';
import { identityService } from '../csi/index.js';
import { nodeService } from '../csi/node/index.js';
import { keyOf, type MetadataStore, type NodeRecord, openRemoteStore } from '../meta/index.js';
import {
  createExec,
  createFilesystems,
  createMounter,
  type DeviceChoice,
  HolderAttach,
  parseDeviceChoice,
} from '../platform/index.js';
import { createServer, KeyedLocks } from '../rpc/index.js';
import { type FlagSpec, Flags } from './flags.js';
import { NODE_LABEL } from './labels.js';
import { openRunDirectory } from './run-directory.js';
import {
  csiAddress,
  openCertificates,
  peerAddress,
  securityFlags,
  securityUsage,
  type TlsDirectory,
  tlsDirectory,
  toController,
} from './security.js';
import { productVersion } from './version.js';

export const nodeUsage = `holdfast node: serves CSI on a node: stages and publishes volumes

  --node-id NAME               of this node                            HOLDFAST_NODE_ID
  --controller HOST:PORT       where the controller is                 HOLDFAST_CONTROLLER
  --csi-address ADDRESS        unix:///path of the CSI socket          HOLDFAST_CSI_ADDRESS
  --run-dir DIR                sockets (/run/holdfast)                 HOLDFAST_RUN_DIR
  --max-volumes-per-node N     0 = no limit (default)                  HOLDFAST_MAX_VOLUMES_PER_NODE
  --device KIND                kernel-nbd, fuse-loop, or auto: the      HOLDFAST_DEVICE
                               first that works here (default)
  --topology KEY=VALUE         label of this node; repeatable          HOLDFAST_TOPOLOGY
${securityUsage}  --log-level LEVEL            debug, info, warn, error or silent      HOLDFAST_LOG_LEVEL
`;

const flagSpec: FlagSpec = {
  'node-id': { type: 'string', env: 'HOLDFAST_NODE_ID' },
  controller: { type: 'string', env: 'HOLDFAST_CONTROLLER' },
  'csi-address': { type: 'string', env: 'HOLDFAST_CSI_ADDRESS' },
  'run-dir': { type: 'string', env: 'HOLDFAST_RUN_DIR' },
  'max-volumes-per-node': { type: 'string', env: 'HOLDFAST_MAX_VOLUMES_PER_NODE' },
  device: { type: 'string', env: 'HOLDFAST_DEVICE' },
  topology: { type: 'string', multiple: true, env: 'HOLDFAST_TOPOLOGY' },
  'log-level': { type: 'string', env: 'HOLDFAST_LOG_LEVEL' },
  ...securityFlags,
};

const maxVolumesMax = 1024;
/** Kubelet and sidecars wait at least this long for most calls; a store that is away is better said sooner. */
const storeDeadlineMs = 8_000;

export interface NodeConfig {
  readonly nodeId: NodeId;
  readonly controller: string;
  readonly csiAddress: string;
  readonly runDir: string;
  readonly maxVolumes: number;
  readonly device: DeviceChoice;
  readonly topology: Readonly<Record<string, string>>;
  readonly logLevel: string;
  readonly tls: TlsDirectory;
}

export function parseNodeConfig(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): NodeConfig {
  const flags = new Flags(argv, flagSpec, environment);
  const nodeId = parseNodeId(flags.text('node-id'));
  const tls = tlsDirectory(flags);
  return {
    nodeId,
    controller: peerAddress('controller', flags.text('controller'), tls),
    csiAddress: csiAddress(flags.text('csi-address'), tls),
    runDir: flags.text('run-dir', '/run/holdfast'),
    maxVolumes: flags.integer('max-volumes-per-node', 0, 0, maxVolumesMax),
    device: parseDeviceChoice(flags.text('device', 'auto'), '--device'),
    topology: { ...flags.labels('topology'), [NODE_LABEL]: nodeId },
    logLevel: flags.logLevel(),
    tls,
  };
}

/** How holders are started: this installation's own command. */
export function holderCommand(
  storageSocket: string,
  logLevel: string,
  device: DeviceChoice = 'auto',
): { program: string; args: string[] } {
  const command = fileURLToPath(new URL('./holdfast.js', import.meta.url));
  const args = [command, 'attach', '--daemon', `unix://${storageSocket}`, '--device', device, '--log-level', logLevel];
  return { program: process.execPath, args };
}

/** Runs until `signal` aborts. Rejects with a HoldfastError whose message is one line for people. */
export async function runNode(argv: readonly string[], signal: AbortSignal): Promise<void> {
  const config = parseNodeConfig(argv, process.env);
  const logger = createLogger('node', config.logLevel).child({ node: config.nodeId });
  const part = { role: 'node', node: config.nodeId } as const;
  const trust = openCertificates(config.tls, part, { clock: realClock, logger });
  const run = openRunDirectory(config.runDir);
  const store = openRemoteStore({
    address: config.controller,
    clock: realClock,
    random: realRandom,
    logger,
    deadlineMs: storeDeadlineMs,
    security: toController(trust),
  });
  const daemon = createStorageDaemon(run.storageSocket, realClock);
  const source = createExportSource(run.storageSocket, realClock);
  const exec = createExec();
  const volumes: NodeVolumesPorts = {
    nodeId: config.nodeId,
    records: volumeRecords(store, realClock),
    attach: new HolderAttach({
      exec,
      clock: realClock,
      logger,
      runDir: run.path,
      holder: holderCommand(run.storageSocket, config.logLevel, config.device),
      source,
    }),
    mounter: createMounter(exec, realClock),
    filesystems: createFilesystems(exec),
    filesystemSize,
    daemon,
    runDir: run.path,
    clock: realClock,
    logger,
  };
  try {
    await serve(config, volumes, store, logger, signal);
  } finally {
    trust?.stop();
    daemon.close();
    source.disconnect();
    await store.close();
  }
  logger.info({}, 'node plugin stopped');
}

async function serve(
  config: NodeConfig,
  volumes: NodeVolumesPorts,
  store: MetadataStore,
  logger: Logger,
  signal: AbortSignal,
): Promise<void> {
  const broken = new AbortController();
  const node = nodeService({
    volumes,
    locks: new KeyedLocks(realClock),
    maxVolumes: config.maxVolumes,
    topology: config.topology,
    poolProblems: async () => {
      const entry = await store.get<NodeRecord>(keyOf.node(config.nodeId));
      const pools = entry?.value.pools ?? [];
      return pools.flatMap(({ path, problem }) => (problem ? [{ path, problem }] : []));
    },
  });
  const server = await createServer({
    address: config.csiAddress,
    services: [identityService({ version: productVersion(), ready: async () => true }), node],
    logger,
    clock: realClock,
    onUnexpected: (error) => {
      if (error instanceof Error && error.name === 'AssertionError') broken.abort(error);
    },
  });
  logger.info({ csi: server.address }, 'node plugin is ready');
  try {
    const end = AbortSignal.any([signal, broken.signal]);
    if (!end.aborted) await new Promise((resolve) => end.addEventListener('abort', resolve, { once: true }));
  } finally {
    await server.close();
  }
  if (broken.signal.aborted) throw broken.signal.reason;
}
