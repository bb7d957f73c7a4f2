// A cluster of the real commands, each node in a place of its own in a network that can be broken, its pool on a small disk of its
// own. Owner of everything it makes: stop() leaves no process, mount, loop device, namespace or file.

import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MiB, messageOf, parseNodeId, realClock, realRandom, silentLogger } from '../../src/base/index.js';
import { folderOf, makeCertificates } from '../../src/main/certs.js';
import { detachEverything } from '../../src/main/dev-cleanup.js';
import { type Client, createClient, type csi, csiServices } from '../../src/rpc/index.js';
import type { Identity } from '../../src/trust/index.js';
import { distFolder } from '../lib/build-once.js';
import { blockCapability, CsiCluster, type NodePlace } from '../lib/csi-cluster.js';
import { NamespaceNetwork } from './namespaces.js';
import { controllerPlace, type Network, type Place } from './network.js';
import { LoopPool } from './pools.js';
import { ProxyNetwork } from './proxy-network.js';
import { Service } from './service.js';

export interface FaultClusterOptions {
  readonly nodes: number;
  readonly network: 'namespaces' | 'proxy';
  readonly poolBytes: number;
}

const controlPort = 7480;
const listenPort = 7481;
const replicaPort = 7482;
const readyMs = 60_000;
const detachMs = 45_000;

function partOf(role: string, node: string): Pick<Identity, 'role' | 'node'> {
  if (role === 'controller') return { role, node: null };
  if (role === 'storage' || role === 'node') return { role, node: parseNodeId(node) };
  throw new Error(`no part of a cluster is called ${role}`);
}

export class FaultCluster extends CsiCluster {
  readonly network: Network;
  readonly pools: LoopPool[] = [];
  readonly services: Service[] = [];
  readonly #options: FaultClusterOptions;
  readonly #probes = new Map<Service, Client<csi.IdentityDefinition, csi.IdentityHandlers>>();

  private constructor(options: FaultClusterOptions) {
    super(join(tmpdir(), `hff-${process.pid}`));
    this.#options = options;
    rmSync(this.dir, { recursive: true, force: true });
    // A database server that is not root walks through it.
    for (const name of ['', 'controller', 'logs']) mkdirSync(join(this.dir, name), { recursive: true, mode: 0o755 });
    chmodSync(this.dir, 0o755);
    this.network = options.network === 'namespaces' ? new NamespaceNetwork(options.nodes) : new ProxyNetwork(this.dir);
  }

  static async start(options: FaultClusterOptions): Promise<FaultCluster> {
    const cluster = new FaultCluster(options);
    try {
      await cluster.#start();
      return cluster;
    } catch (error) {
      const logs = cluster.logs();
      await cluster.stop();
      throw new Error(`the cluster did not start: ${messageOf(error)}\n${logs}`, { cause: error });
    }
  }

  async #start(): Promise<void> {
    const places: NodePlace[] = [];
    for (let place = 1; place <= this.#options.nodes; place++) places.push(this.#makeNode(place));
    await this.#issueCertificates(places.map(({ id }) => id));
    const controllerCsi = `unix://${this.dir}/controller/csi.sock`;
    this.#service(controllerPlace, '', 'controller', [
      ...['--csi-address', controllerCsi, '--database', `${this.dir}/controller/metadata.db`],
      ...['--control-address', `${this.network.host(controllerPlace)}:${controlPort}`],
    ]);
    const controller = `${this.network.advertised(controllerPlace)}:${controlPort}`;
    for (const [i, node] of places.entries()) this.#nodeServices(i + 1, node, controller);
    await this.network.expose(controllerPlace, controlPort);
    for (let place = 1; place <= places.length; place++)
      for (const port of [listenPort, replicaPort]) await this.network.expose(place, port);
    for (const service of this.services) await service.start();
    this.connect(controllerCsi, places);
    await this.#ready();
  }

  #issueCertificates(nodes: readonly string[]): Promise<unknown> {
    const ofNodes = nodes.flatMap((node) => [partOf('storage', node), partOf('node', node)]);
    const parts = [partOf('controller', ''), ...ofNodes];
    return makeCertificates({ dir: join(this.dir, 'tls'), cluster: 'faults', days: 30, parts }, realClock, realRandom);
  }

  #makeNode(place: Place): NodePlace {
    const id = `node-${place}`;
    const home = join(this.dir, id);
    mkdirSync(home, { mode: 0o755 });
    const poolDir = join(home, 'pool');
    // Two kinds of filesystems under the pools.
    const fsType = place === 2 ? 'xfs' : 'ext4';
    this.pools.push(new LoopPool(join(this.dir, `${id}.img`), poolDir, fsType, this.#options.poolBytes));
    return { id, csi: `unix://${home}/csi.sock`, poolDir: join(poolDir, 'holdfast'), runDir: join(home, 'run') };
  }

  #nodeServices(place: Place, node: NodePlace, controller: string): void {
    const shared = ['--node-id', node.id, '--controller', controller, '--run-dir', node.runDir];
    mkdirSync(node.poolDir);
    this.#service(place, node.id, 'storage', [
      ...shared,
      ...['--pool', node.poolDir, '--format-pools', '--state-dir', join(this.dir, node.id, 'state'), '--workers', '1'],
      ...['--listen', `${this.network.host(place)}:${listenPort}`, '--advertise', this.network.advertised(place)],
      ...['--replica-port', String(replicaPort)],
    ]);
    this.#service(place, node.id, 'node', [...shared, '--csi-address', node.csi]);
  }

  #service(place: Place, node: string, role: string, args: readonly string[]): void {
    const tls = ['--tls-dir', folderOf(join(this.dir, 'tls'), partOf(role, node))];
    const command = [process.execPath, join(distFolder, 'src/main/holdfast.js'), role, ...tls, ...args];
    const logFile = join(this.dir, 'logs', `${node === '' ? '' : `${node}-`}${role}.log`);
    const service = new Service({ role, node, command: [...this.network.wrap(place), ...command], logFile });
    this.services.push(service);
    if (role === 'storage') return;
    const address = `unix://${this.dir}/${node === '' ? 'controller' : node}/csi.sock`;
    this.#probes.set(service, createClient(address, csiServices.identity(), { clock: realClock, deadlineMs: 2_000 }));
  }

  /** Until a volume with a replica on every node could be made. */
  async #ready(): Promise<void> {
    const endMs = realClock.monotonicMs() + readyMs;
    for (;;) {
      try {
        for (const probe of this.#probes.values()) await probe.Probe({});
        const replicas = String(Math.min(5, this.nodes.length));
        const volume = await this.createVolume({ bytes: MiB, capability: blockCapability, parameters: { replicas } });
        await this.controller.DeleteVolume({ volume_id: volume.id });
        return;
      } catch (error) {
        if (realClock.monotonicMs() > endMs) throw error;
        await realClock.sleep(200);
      }
    }
  }

  placeOf(node: string): Place {
    return node === '' ? controllerPlace : Number(node.replace(/\D/g, ''));
  }

  service(role: string, node = ''): Service {
    return this.services.find(({ spec }) => spec.role === role && spec.node === node)!;
  }

  servicesOf(node: string): Service[] {
    return this.services.filter(({ spec }) => spec.node === node);
  }

  pool(node: string): LoopPool {
    return this.pools[this.placeOf(node) - 1]!;
  }

  /** Whether controller and node plugins answer. */
  async answers(): Promise<boolean> {
    const asked = [...this.#probes.values()].map((probe) => probe.Probe({}));
    return (await Promise.allSettled(asked)).every(({ status }) => status === 'fulfilled');
  }

  /** Everything runs, nothing is cut off, no pool is full. */
  async heal(): Promise<void> {
    this.network.heal();
    for (const pool of this.pools) pool.empty();
    for (const service of this.services) {
      service.signal('SIGCONT');
      await service.start();
    }
  }

  /** Ends and removes everything, whatever state it is in. Errors are told, and the next thing is tried. */
  async stop(): Promise<void> {
    const attempt = async (what: string, act: () => unknown): Promise<void> => {
      try {
        await act();
      } catch (error) {
        process.stderr.write(`cleaning up: ${what}: ${messageOf(error)}\n`);
      }
    };
    await attempt('network', () => this.network.heal());
    for (const pool of this.pools) await attempt('pool', () => pool.empty());
    for (const service of this.services) service.signal('SIGCONT');
    await Promise.all(this.services.filter(({ spec }) => spec.role === 'node').map((one) => one.end()));
    // A volume is detached in good order while its daemon works.
    for (const service of this.services)
      if (service.spec.role !== 'node') await attempt('start', () => service.start());
    await Promise.all(
      this.nodes
        .filter(({ runDir }) => existsSync(runDir))
        .map(({ runDir }) => attempt('attached volumes', () => detached(runDir))),
    );
    await Promise.all(this.services.map((one) => one.end()));
    this.disconnect();
    for (const probe of this.#probes.values()) probe.close();
    for (const pool of this.pools) await attempt('pool', () => pool.close());
    await attempt('network', () => this.network.close());
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Detaches what is attached there. Resolves after a while however that goes. */
async function detached(runDir: string): Promise<void> {
  const late = realClock.sleep(detachMs).then(() => Promise.reject(new Error(`still attached in ${runDir}`)));
  late.catch(() => {});
  await Promise.race([detachEverything(runDir, silentLogger), late]);
}
