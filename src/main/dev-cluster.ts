// The layout of a `holdfast dev` cluster: directories, sockets, ports, and the command line of each process.
//
//   DIR/controller/{csi.sock, metadata.db}
//   DIR/<node>/{csi.sock, pool/, run/, state/}
//   DIR/logs/*.log
//   DIR/tls/{ca.crt, ca.key, controller/, storage-<node>/, node-<node>/, operator/} with --tls

import { createServer } from 'node:net';
import { join } from 'node:path';
import { parseNodeId, realClock, realRandom, unavailable } from '../base/index.js';
import { makeDirectory } from '../platform/index.js';
import type { Identity } from '../trust/index.js';
import { folderOf, makeCertificates } from './certs.js';
import type { DevChildSpec } from './dev-child.js';
import { ZONE_LABEL } from './labels.js';

export interface DevNode {
  readonly id: string;
  /** Empty without --zones. */
  readonly zone: string;
  readonly csi: string;
  readonly poolDir: string;
  readonly runDir: string;
}

export interface DevLayout {
  readonly dir: string;
  readonly controllerCsi: string;
  readonly controlAddress: string;
  /** The certificate of whoever looks at it from outside; null in plain text. */
  readonly operatorTls: string | null;
  readonly nodes: readonly DevNode[];
  /** In the order in which they are started. */
  readonly children: readonly DevChildSpec[];
}

export interface DevLayoutOptions {
  readonly dir: string;
  readonly nodes: number;
  readonly zones: readonly string[];
  readonly maxVolumes: number;
  /** Worker threads of each storage daemon. */
  readonly workers: number;
  readonly logLevel: string;
  /** Certificates for all, or plain text. */
  readonly tls: boolean;
}

const CERTIFICATE_DAYS = 30;

/**
 * Makes the directories. Ports are chosen now and kept over the children's restarts, so that peers find them again at once;
 * with several workers a daemon's replica ports are new at each start, as the system gives them out.
 */
export async function layOut(options: DevLayoutOptions): Promise<DevLayout> {
  const { dir, logLevel } = options;
  const [controlPort, ...ports] = await freePorts(1 + 2 * options.nodes);
  const controlAddress = `127.0.0.1:${controlPort}`;
  const controllerCsi = `unix://${join(dir, 'controller', 'csi.sock')}`;
  for (const name of ['controller', 'logs']) makeDirectory(join(dir, name));
  const nodes = Array.from({ length: options.nodes }, (_, i): DevNode => {
    const id = `node-${i + 1}`;
    const home = join(dir, id);
    const poolDir = join(home, 'pool');
    makeDirectory(poolDir);
    const zone = options.zones.length > 0 ? options.zones[i % options.zones.length]! : '';
    return { id, zone, csi: `unix://${join(home, 'csi.sock')}`, poolDir, runDir: join(home, 'run') };
  });
  const limit = ['--max-volumes-per-node', String(options.maxVolumes)];
  const common = ['--log-level', logLevel];
  const security = await securityOf(options, nodes);
  const log = (name: string) => join(dir, 'logs', `${name}.log`);
  const controller: DevChildSpec = {
    role: 'controller',
    node: '',
    logFile: log('controller'),
    args: [
      ...['--csi-address', controllerCsi, '--control-address', controlAddress],
      ...['--database', join(dir, 'controller', 'metadata.db'), ...limit, ...common],
      ...security({ role: 'controller', node: null }),
    ],
  };
  const children = nodes.flatMap((node, i): DevChildSpec[] => {
    const shared = ['--node-id', node.id, '--controller', controlAddress, '--run-dir', node.runDir, ...common];
    if (node.zone !== '') shared.push('--topology', `${ZONE_LABEL}=${node.zone}`);
    const storage = [
      ...[
        '--pool',
        node.poolDir,
        '--format-pools',
        '--state-dir',
        join(dir, node.id, 'state'),
        '--workers',
        String(options.workers),
      ],
      ...[
        '--listen',
        `127.0.0.1:${ports[2 * i]}`,
        '--replica-port',
        options.workers === 1 ? String(ports[2 * i + 1]) : '0',
      ],
    ];
    return [
      {
        role: 'storage',
        node: node.id,
        logFile: log(`${node.id}-storage`),
        args: [...shared, ...storage, ...security({ role: 'storage', node: parseNodeId(node.id) })],
      },
      {
        role: 'node',
        node: node.id,
        logFile: log(`${node.id}-node`),
        args: [
          ...shared,
          '--csi-address',
          node.csi,
          ...limit,
          ...security({ role: 'node', node: parseNodeId(node.id) }),
        ],
      },
    ];
  });
  const operatorTls = options.tls ? folderOf(join(dir, 'tls'), { role: 'operator', node: null }) : null;
  return { dir, controllerCsi, controlAddress, operatorTls, nodes, children: [controller, ...children] };
}

/** The flags of each part, with its certificate made anew. */
async function securityOf(
  options: DevLayoutOptions,
  nodes: readonly DevNode[],
): Promise<(part: Pick<Identity, 'role' | 'node'>) => string[]> {
  if (!options.tls) return () => ['--insecure'];
  const dir = join(options.dir, 'tls');
  const ofNodes = nodes.flatMap(({ id }) =>
    (['storage', 'node'] as const).map((role) => ({ role, node: parseNodeId(id) })),
  );
  const others = (['controller', 'operator'] as const).map((role) => ({ role, node: null }));
  await makeCertificates(
    { dir, cluster: 'dev', days: CERTIFICATE_DAYS, parts: [...others, ...ofNodes] },
    realClock,
    realRandom,
  );
  return (part) => ['--tls-dir', folderOf(dir, part)];
}

/** All held at once, so that no two are the same. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports: number[] = [];
  try {
    for (const server of servers) {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(0, '127.0.0.1', resolve);
      });
      const address = server.address();
      if (address === null || typeof address === 'string') throw unavailable('no free TCP port was found');
      ports.push(address.port);
    }
    return ports;
  } finally {
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }
}
