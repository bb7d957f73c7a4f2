// `holdfast controller`: the one process that decides. Serves CSI (Identity, Controller, GroupController) on a unix socket and
// holdfast.v1 (Metadata, Node) for the storage daemons, owns the SQLite file, and runs the reconcile loop. Composition only.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import {
  createLogger,
  HoldfastError,
  invalid,
  type Logger,
  messageOf,
  printable,
  realClock,
  realRandom,
} from '../base/index.js';
import { type Control, createControl, createDaemons, type Daemons, nodeService } from '../control/index.js';
import { controllerService, groupControllerService, identityService } from '../csi/index.js';
import { type MetadataStore, metadataService, openSqliteStore } from '../meta/index.js';
import { createServer, type Server } from '../rpc/index.js';

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
}

const logLevels = ['debug', 'info', 'warn', 'error', 'silent'];
const MAX_VOLUMES_PER_NODE = 1024;
const OVERCOMMIT_MAX = 1000;

export const controllerUsage = `holdfast controller: decides where volumes live and serves CSI

  --csi-address ADDRESS        unix:///path of the CSI socket          HOLDFAST_CSI_ADDRESS, CSI_ENDPOINT
  --control-address HOST:PORT  where storage daemons report            HOLDFAST_CONTROL_ADDRESS
  --database FILE              SQLite file of all metadata             HOLDFAST_DATABASE
  --max-volumes-per-node N     0 = no limit (default)                  HOLDFAST_MAX_VOLUMES_PER_NODE
  --overcommit FACTOR          promise pools so many times (10)        HOLDFAST_OVERCOMMIT
  --log-level LEVEL            debug, info, warn, error or silent      HOLDFAST_LOG_LEVEL
`;

type Environment = Readonly<Record<string, string | undefined>>;

function parseFlags(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        'csi-address': { type: 'string' },
        'control-address': { type: 'string' },
        database: { type: 'string' },
        'max-volumes-per-node': { type: 'string' },
        overcommit: { type: 'string' },
        'log-level': { type: 'string' },
      },
    }).values;
  } catch (error) {
    throw invalid(messageOf(error));
  }
}

function numberFrom(text: string, what: string, min: number, max: number, whole: boolean): number {
  const number = /^[0-9]+(\.[0-9]+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= min && number <= max) || (whole && !Number.isInteger(number))) {
    throw invalid(`${what} must be a ${whole ? 'whole ' : ''}number from ${min} to ${max}, not ${printable(text)}`);
  }
  return number;
}

/** Flags win over the environment. Throws INVALID_ARGUMENT naming the flag and its variable. */
export function parseControllerConfig(argv: readonly string[], environment: Environment): ControllerConfig {
  const flags = parseFlags(argv);
  const setting = (flag: keyof typeof flags, variables: readonly string[], fallback?: string): string => {
    const found =
      flags[flag] ?? variables.map((name) => environment[name]).find((value) => value !== undefined && value !== '');
    if (found !== undefined && found !== '') return found;
    if (fallback !== undefined) return fallback;
    throw invalid(`--${flag} is missing (or set ${variables[0]})`);
  };
  const logLevel = setting('log-level', ['HOLDFAST_LOG_LEVEL'], 'info');
  if (!logLevels.includes(logLevel))
    throw invalid(`--log-level must be one of ${logLevels.join(', ')}, not ${printable(logLevel)}`);
  const volumes = setting('max-volumes-per-node', ['HOLDFAST_MAX_VOLUMES_PER_NODE'], '0');
  const overcommit = setting('overcommit', ['HOLDFAST_OVERCOMMIT'], '10');
  return {
    csiAddress: setting('csi-address', ['HOLDFAST_CSI_ADDRESS', 'CSI_ENDPOINT']),
    controlAddress: setting('control-address', ['HOLDFAST_CONTROL_ADDRESS']),
    database: setting('database', ['HOLDFAST_DATABASE']),
    logLevel,
    maxVolumesPerNode: numberFrom(volumes, '--max-volumes-per-node', 0, MAX_VOLUMES_PER_NODE, true),
    overcommit: numberFrom(overcommit, '--overcommit', 1, OVERCOMMIT_MAX, false),
  };
}

/** From the package's own package.json, next to src/ as well as next to dist/. */
function productVersion(): string {
  for (const up of ['../../package.json', '../../../package.json']) {
    try {
      const found: unknown = JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8'));
      if (typeof found === 'object' && found !== null && 'version' in found) return String(found.version);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    }
  }
  throw new HoldfastError('INTERNAL', 'package.json of this installation is missing; install Holdfast again');
}

interface Parts {
  readonly store: MetadataStore;
  readonly daemons: Daemons;
  readonly control: Control;
  readonly logger: Logger;
}

async function listen(
  config: ControllerConfig,
  parts: Parts,
  onUnexpected: (error: unknown) => void,
): Promise<Server[]> {
  const { store, control, logger } = parts;
  const common = { logger, clock: realClock, onUnexpected };
  const forDaemons = await createServer({
    ...common,
    address: config.controlAddress,
    services: [metadataService(store), nodeService(control.nodes)],
  });
  try {
    const ready = async () => (await store.version()) >= 0;
    const identity = identityService({ version: productVersion(), ready });
    const services = [identity, controllerService(control), groupControllerService(control)];
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
  const store = await openSqliteStore({ file: config.database, random: realRandom });
  const daemons = createDaemons({ clock: realClock });
  const stop = new AbortController();
  const end = AbortSignal.any([signal, stop.signal]);
  let broken: unknown;
  try {
    const { maxVolumesPerNode, overcommit } = config;
    const options = { store, daemons, clock: realClock, random: realRandom, logger, maxVolumesPerNode, overcommit };
    const control = createControl(options);
    // A broken assertion is a bug: better to stop and start afresh from the store than to go on.
    const onUnexpected = (error: unknown) => {
      if (!(error instanceof Error && error.name === 'AssertionError')) return;
      broken = error;
      stop.abort();
    };
    const servers = await listen(config, { store, daemons, control, logger }, onUnexpected);
    const reconciling = control.reconciler.run(end);
    if (!end.aborted) await once(end, 'abort');
    for (const server of servers) await server.close();
    daemons.close();
    await reconciling;
  } finally {
    daemons.close();
    await store.close();
  }
  if (broken !== undefined) throw broken;
  logger.info({}, 'controller stopped');
}
