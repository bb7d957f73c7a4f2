// `holdfast dev`: a whole cluster on one machine, out of the very commands that run in production, as child processes with
// their own directories, sockets and ports. Prints the CSI sockets; ends everything on SIGINT and SIGTERM.

import { accessSync, constants, existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  createLogger,
  HoldfastError,
  invalid,
  type Logger,
  messageOf,
  precondition,
  realClock,
  realRandom,
  silentLogger,
  unavailable,
} from '../base/index.js';
import { type NodeRecord, openRemoteStore } from '../meta/index.js';
import { makeDirectory } from '../platform/index.js';
import { createClient, csiServices } from '../rpc/index.js';
import { DevChild, type DevEvent } from './dev-child.js';
import { detachEverything } from './dev-cleanup.js';
import { type DevLayout, layOut } from './dev-cluster.js';
import { type FlagSpec, Flags } from './flags.js';
import { openCertificates, toController } from './security.js';

export const devUsage = `holdfast dev: a cluster on this machine, out of the real commands as child processes

  --nodes N                    1 to 16 (3)
  --dir DIR                    where it lives; without it a temporary directory
  --keep                       leave the pools and the database in DIR at the end
  --zones A,B,C                zones of the nodes, in turn
  --max-volumes-per-node N     0 = no limit (default)
  --workers N                  threads of each storage daemon (1)
  --tls                        with certificates on all connections, as outside of dev
  --no-restart                 leave a child that dies dead
  --json                       print one JSON object a line
  --log-level LEVEL            of the children, whose logs are in DIR/logs (info)
`;

const flagSpec: FlagSpec = {
  nodes: { type: 'string' },
  dir: { type: 'string' },
  keep: { type: 'boolean' },
  zones: { type: 'string' },
  'max-volumes-per-node': { type: 'string' },
  workers: { type: 'string' },
  tls: { type: 'boolean' },
  'no-restart': { type: 'boolean' },
  json: { type: 'boolean' },
  'log-level': { type: 'string' },
};

const nodesMax = 16;
const readyTimeoutMs = 90_000;
const pollMs = 100;

interface DevConfig {
  readonly nodes: number;
  readonly dir: string | undefined;
  readonly keep: boolean;
  readonly zones: readonly string[];
  readonly maxVolumes: number;
  readonly workers: number;
  readonly tls: boolean;
  readonly restart: boolean;
  readonly json: boolean;
  readonly logLevel: string;
}

export function parseDevConfig(argv: readonly string[]): DevConfig {
  const flags = new Flags(argv, flagSpec, {});
  const zones = (flags.optional('zones') ?? '').split(',').filter((zone) => zone !== '');
  for (const zone of zones) {
    if (!/^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/.test(zone)) {
      throw invalid(`--zones holds ${JSON.stringify(zone)}, which can't be a label`);
    }
  }
  return {
    nodes: flags.integer('nodes', 3, 1, nodesMax),
    dir: flags.optional('dir'),
    keep: flags.isSet('keep'),
    zones,
    maxVolumes: flags.integer('max-volumes-per-node', 0, 0, 1024),
    workers: flags.integer('workers', 1, 1, 16),
    tls: flags.isSet('tls'),
    restart: !flags.isSet('no-restart'),
    json: flags.isSet('json'),
    logLevel: flags.logLevel(),
  };
}

/** Runs until `signal` aborts. Rejects with one line for people when the cluster does not come up. */
export async function runDev(argv: readonly string[], signal: AbortSignal): Promise<void> {
  const config = parseDevConfig(argv);
  const place = openPlace(config);
  const logger = config.logLevel === 'silent' ? silentLogger : createLogger('dev', 'warn');
  let children: DevChild[] = [];
  let layout: DevLayout | undefined;
  try {
    layout = await layOut({ ...config, dir: place.dir });
    const say = reporter(config.json, layout);
    const program = [process.execPath, fileURLToPath(new URL('./holdfast.js', import.meta.url))];
    const options = { clock: realClock, restart: config.restart, onEvent: say.event };
    children = layout.children.map((spec) => new DevChild(program, spec, options));
    const sinceMs = realClock.wallMs();
    for (const child of children) await child.start();
    if (await waitReady(layout, children, sinceMs, signal)) say.ready(attachProblem());
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    say.stopping();
  } finally {
    await end(layout, children, logger);
    place.remove();
  }
}

interface Place {
  readonly dir: string;
  /** Removes what this run made. */
  remove(): void;
}

function openPlace(config: DevConfig): Place {
  if (config.dir === undefined) {
    const dir = realpathSync(mkdtempSync(join(tmpdir(), 'holdfast-')));
    return { dir, remove: () => config.keep || rmSync(dir, { recursive: true, force: true }) };
  }
  const present = existsSync(config.dir);
  try {
    makeDirectory(config.dir);
    accessSync(config.dir, constants.W_OK);
  } catch (cause) {
    throw new HoldfastError('FAILED_PRECONDITION', `--dir ${config.dir} can't be used: ${messageOf(cause)}`, { cause });
  }
  const dir = realpathSync(config.dir);
  // A directory that was there before belongs to its owner; of ours only what a next run would make anew goes.
  const remove = () => {
    if (!present && !config.keep) return rmSync(dir, { recursive: true, force: true });
    rmSync(join(dir, 'controller', 'csi.sock'), { force: true });
    for (let i = 1; i <= config.nodes; i++) {
      rmSync(join(dir, `node-${i}`, 'run'), { recursive: true, force: true });
      rmSync(join(dir, `node-${i}`, 'csi.sock'), { force: true });
    }
  };
  return { dir, remove };
}

/** False when `signal` aborted first. */
async function waitReady(
  layout: DevLayout,
  children: readonly DevChild[],
  sinceMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const endMs = realClock.monotonicMs() + readyTimeoutMs;
  const operator = { role: 'operator', node: null } as const;
  const quiet = { clock: realClock, logger: silentLogger };
  const trust = layout.operatorTls === null ? null : openCertificates(layout.operatorTls, operator, quiet);
  const store = openRemoteStore({
    address: layout.controlAddress,
    ...quiet,
    random: realRandom,
    security: toController(trust),
    deadlineMs: 2_000,
  });
  const probes = [layout.controllerCsi, ...layout.nodes.map((node) => node.csi)].map((address) =>
    createClient(address, csiServices.identity(), { clock: realClock, deadlineMs: 2_000 }),
  );
  const check = async (): Promise<boolean> => {
    const { entries } = await store.list<NodeRecord>('node/');
    const fresh = entries.filter(({ value }) => value.heartbeatMs >= sinceMs && value.pools.length > 0);
    if (fresh.length < layout.nodes.length) return false;
    const answers = await Promise.all(probes.map((probe) => probe.Probe({})));
    return answers.every((answer) => answer.ready?.value !== false);
  };
  try {
    while (!signal.aborted) {
      const dead = children.find((child) => child.deaths > 0);
      if (dead) throw precondition(`the ${dead.name} did not start: ${dead.lastWords()}`);
      if (await check().catch(() => false)) return true;
      if (realClock.monotonicMs() > endMs) {
        throw unavailable(`the cluster was not ready within ${readyTimeoutMs / 1000} s: see ${layout.dir}/logs`);
      }
      await realClock.sleep(pollMs, signal).catch(() => {});
    }
    return false;
  } finally {
    trust?.stop();
    for (const probe of probes) probe.close();
    await store.close();
  }
}

/** Volumes first, while their daemons live; then the processes, the node's before the controller. */
async function end(layout: DevLayout | undefined, children: readonly DevChild[], logger: Logger): Promise<void> {
  const stop = (role: string) =>
    Promise.all(children.filter((child) => child.spec.role === role).map((child) => child.stop()));
  await stop('node');
  for (const node of layout?.nodes ?? []) {
    try {
      if (existsSync(node.runDir)) await detachEverything(node.runDir, logger);
    } catch (error) {
      logger.warn({ node: node.id, reason: messageOf(error) }, 'something may still be attached');
    }
  }
  await stop('storage');
  await stop('controller');
}

/** Why volumes can't be attached on this machine, or empty. */
function attachProblem(): string {
  if (process.getuid?.() !== 0) return 'volumes can be made but not attached: that needs root';
  if (!existsSync('/dev/fuse')) return 'volumes can be made but not attached: there is no /dev/fuse';
  return '';
}

interface Reporter {
  event(event: DevEvent): void;
  ready(problem: string): void;
  stopping(): void;
}

function reporter(json: boolean, layout: DevLayout): Reporter {
  const line = (text: string) => process.stdout.write(`${text}\n`);
  if (json) {
    return {
      event: (event) => line(JSON.stringify(event)),
      ready(problem) {
        const controller = { csi: layout.controllerCsi, control: layout.controlAddress };
        line(JSON.stringify({ event: 'ready', dir: layout.dir, controller, nodes: layout.nodes, problem }));
      },
      stopping: () => line(JSON.stringify({ event: 'stopping' })),
    };
  }
  let isReady = false;
  return {
    event(event) {
      const name = event.node === '' ? event.role : `${event.role} of ${event.node}`;
      if (event.event === 'started' && isReady) line(`  ${name} started again, process ${event.pid}`);
      if (event.event === 'ended' && isReady) line(`  ${name} ended: ${event.signal ?? `code ${event.code}`}`);
    },
    ready(problem) {
      isReady = true;
      line(
        `Holdfast is up with ${layout.nodes.length} ${layout.nodes.length === 1 ? 'node' : 'nodes'} in ${layout.dir}`,
      );
      line(`  controller  ${layout.controllerCsi}`);
      const how = layout.operatorTls === null ? '--insecure' : `--tls-dir ${layout.operatorTls}`;
      line(`  operators   holdfast status --controller ${layout.controlAddress} ${how}`);
      for (const node of layout.nodes)
        line(`  ${node.id.padEnd(10)}  ${node.csi}${node.zone ? `  zone ${node.zone}` : ''}`);
      if (problem !== '') line(`  ${problem}`);
      line('Ctrl-C ends it.');
    },
    stopping() {
      isReady = false;
      line('Stopping ...');
    },
  };
}
