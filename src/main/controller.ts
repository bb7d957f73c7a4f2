// `holdfast controller`: the one process that decides. Serves CSI (Identity, Controller, GroupController, SnapshotMetadata) on a unix socket and
// holdfast.v1 (Metadata, Node) for the storage daemons, owns the SQLite file, and runs the reconcile loop. Composition only.

import { once } from 'node:events';
import { createLogger, invalid, type Logger, printable, realClock, realRandom } from '../base/index.js';
import {
  type Control,
  createControl,
  createDaemons,
  type Daemons,
  GONE_AFTER_MS,
  nodeService,
  operatorService,
} from '../control/index.js';
import { controllerService, groupControllerService, identityService, snapshotMetadataService } from '../csi/index.js';
import { type MetadataStore, metadataService, openSqliteStore } from '../meta/index.js';
import { createServer, type Server } from '../rpc/index.js';
import type { Trust } from '../trust/index.js';
import { type FlagSpec, Flags } from './flags.js';
import {
  csiAddress,
  openCertificates,
  peerAddress,
  securityFlags,
  securityUsage,
  type TlsDirectory,
  tlsDirectory,
} from './security.js';
import { productVersion } from './version.js';

export interface ControllerConfig {
  /** Where CSI is served, unix:///path or host:port. */
  readonly csiAddress: string;
  /** Where storage daemons find holdfast.v1, host:port. */
  readonly controlAddress: string;
  readonly database: string;
  readonly logLevel: string;
  /** 0 = no limit. */
  readonly maxVolumesPerNode: number;
  readonly overcommit: number;
  readonly tls: TlsDirectory;
  /** 0 = never. */
  readonly goneAfterMs: number;
}

const MAX_VOLUMES_PER_NODE = 1024;
const OVERCOMMIT_MAX = 1000;
const REPLACE_AFTER_MAX_S = 30 * 24 * 3600;

export const controllerUsage = `holdfast controller: decides where volumes live and serves CSI

  --csi-address ADDRESS        unix:///path of the CSI socket          HOLDFAST_CSI_ADDRESS, CSI_ENDPOINT
  --control-address HOST:PORT  where storage daemons report            HOLDFAST_CONTROL_ADDRESS
  --database FILE              SQLite file of all metadata             HOLDFAST_DATABASE
  --max-volumes-per-node N     0 = no limit (default)                  HOLDFAST_MAX_VOLUMES_PER_NODE
  --overcommit FACTOR          promise pools so many times (10)        HOLDFAST_OVERCOMMIT
  --replace-after SECONDS      make a silent node's replicas anew      HOLDFAST_REPLACE_AFTER
                               elsewhere (1800); 0 = only by order
${securityUsage}  --log-level LEVEL            debug, info, warn, error or silent      HOLDFAST_LOG_LEVEL
`;

const flagSpec: FlagSpec = {
  'csi-address': { type: 'string', env: 'HOLDFAST_CSI_ADDRESS' },
  'control-address': { type: 'string', env: 'HOLDFAST_CONTROL_ADDRESS' },
  database: { type: 'string', env: 'HOLDFAST_DATABASE' },
  'max-volumes-per-node': { type: 'string', env: 'HOLDFAST_MAX_VOLUMES_PER_NODE' },
  overcommit: { type: 'string', env: 'HOLDFAST_OVERCOMMIT' },
  'replace-after': { type: 'string', env: 'HOLDFAST_REPLACE_AFTER' },
  'log-level': { type: 'string', env: 'HOLDFAST_LOG_LEVEL' },
  ...securityFlags,
};

/** A number from 1 on; a fraction is fine. */
function overcommitFrom(text: string): number {
  const factor = /^[0-9]{1,6}(\.[0-9]{1,6})?$/.test(text) ? Number(text) : Number.NaN;
  if (factor >= 1 && factor <= OVERCOMMIT_MAX) return factor;
  throw invalid(`--overcommit must be a number from 1 to ${OVERCOMMIT_MAX}, not ${printable(text)}`);
}

/** Flags win over the environment. Throws INVALID_ARGUMENT naming the flag. */
export function parseControllerConfig(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): ControllerConfig {
  const flags = new Flags(argv, flagSpec, environment);
  const tls = tlsDirectory(flags);
  return {
    csiAddress: csiAddress(flags.text('csi-address', environment.CSI_ENDPOINT || undefined), tls),
    controlAddress: peerAddress('control-address', flags.text('control-address'), tls),
    database: flags.text('database'),
    logLevel: flags.logLevel(),
    maxVolumesPerNode: flags.integer('max-volumes-per-node', 0, 0, MAX_VOLUMES_PER_NODE),
    overcommit: overcommitFrom(flags.text('overcommit', '10')),
    tls,
    goneAfterMs: flags.integer('replace-after', GONE_AFTER_MS / 1000, 0, REPLACE_AFTER_MAX_S) * 1000,
  };
}

interface Parts {
  readonly store: MetadataStore;
  readonly daemons: Daemons;
  readonly control: Control;
  readonly trust: Trust | null;
  readonly logger: Logger;
}

async function listen(
  config: ControllerConfig,
  parts: Parts,
  onUnexpected: (error: unknown) => void,
): Promise<Server[]> {
  const { store, control, trust, logger } = parts;
  const common = { logger, clock: realClock, onUnexpected };
  const forDaemons = await createServer({
    ...common,
    address: config.controlAddress,
    trust,
    services: [metadataService(store), nodeService(control.nodes, store), operatorService(control)],
  });
  try {
    const ready = async () => (await store.version()) >= 0;
    const identity = identityService({ version: productVersion(), ready });
    const services = [
      identity,
      controllerService(control),
      groupControllerService(control),
      snapshotMetadataService(control),
    ];
    const forCsi = await createServer({ ...common, address: config.csiAddress, services });
    logger.info({ csi: forCsi.address, control: forDaemons.address, database: config.database }, 'controller is ready');
    return [forCsi, forDaemons];
  } catch (error) {
    await forDaemons.close(0);
    throw error;
  }
}

/**
 * Runs until `signal` aborts, then lets calls finish and closes everything. Rejects with a HoldfastError whose message is one
 * line for the user when it can't start (bad flags, an address in use, a database that is damaged or owned by another process).
 */
export async function runController(argv: string[], signal: AbortSignal): Promise<void> {
  const config = parseControllerConfig(argv, process.env);
  const logger = createLogger('controller', config.logLevel);
  const certificates = openCertificates(config.tls, { role: 'controller', node: null }, { clock: realClock, logger });
  const store = await openSqliteStore({ file: config.database, random: realRandom });
  const daemons = createDaemons({ clock: realClock, trust: certificates });
  const stop = new AbortController();
  const end = AbortSignal.any([signal, stop.signal]);
  let broken: unknown;
  try {
    const { maxVolumesPerNode, overcommit, goneAfterMs } = config;
    const placing = { maxVolumesPerNode, overcommit, goneAfterMs };
    const options = { store, daemons, clock: realClock, random: realRandom, logger, ...placing };
    const control = createControl(options);
    // A broken assertion is a bug: better to stop and start afresh from the store than to go on.
    const onUnexpected = (error: unknown) => {
      if (!(error instanceof Error && error.name === 'AssertionError')) return;
      broken = error;
      stop.abort();
    };
    const servers = await listen(config, { store, daemons, control, trust: certificates, logger }, onUnexpected);
    const reconciling = Promise.all([control.reconciler.run(end), control.repairs.run(end)]);
    if (!end.aborted) await once(end, 'abort');
    for (const server of servers) await server.close();
    daemons.close();
    await reconciling;
  } finally {
    certificates?.stop();
    daemons.close();
    await store.close();
  }
  if (broken !== undefined) throw broken;
  logger.info({}, 'controller stopped');
}
