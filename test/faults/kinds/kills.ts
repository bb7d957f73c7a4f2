// Processes that end: by kill -9, once, twice, all at once, or when they are asked to.

import { realClock } from '../../../src/base/index.js';
import { postgresMissing } from '../loads/postgres-server.js';
import type { Rig } from '../rig.js';
import type { Service } from '../service.js';
import { type Fault, victim } from './fault.js';

const startedMs = 30_000;

/** Resolves when the service was started once more than `starts` says. */
async function restarted(service: Service, starts: number): Promise<void> {
  for (const endMs = realClock.monotonicMs() + startedMs; service.starts <= starts; await realClock.sleep(20)) {
    if (realClock.monotonicMs() > endMs) throw new Error(`${service.name} was not started again`);
  }
}

async function kill(service: Service, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  const { starts } = service;
  service.signal(signal);
  await restarted(service, starts);
}

const killStorage: Fault = {
  kind: 'kill -9 storage daemon',
  weight: 12,
  pairs: true,
  limits: { engineMs: 2_000, replicaMs: 3_000 },
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    await kill(rig.cluster.service('storage', node));
    return { what: node, victims: [node] };
  },
};

const killAgain: Fault = {
  kind: 'kill -9 storage daemon, again while it starts',
  weight: 5,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const service = rig.cluster.service('storage', node);
    await kill(service);
    const ms = chance.between(0, 1_500);
    await rig.sleep(ms);
    await kill(service);
    return { what: `${node}, again after ${ms} ms`, victims: [node] };
  },
};

const absent: Fault = {
  kind: 'kill -9 storage daemon, away for long',
  weight: 4,
  pairs: false,
  async strike(rig, chance) {
    const node = victim(rig, chance);
    const service = rig.cluster.service('storage', node);
    const ms = chance.between(2_000, 7_000);
    await service.down();
    await rig.sleep(ms);
    await service.start();
    return { what: `${node} for ${ms} ms`, victims: [node] };
  },
};

const killAll: Fault = {
  kind: 'kill -9 all storage daemons',
  weight: 3,
  pairs: false,
  async strike(rig, chance) {
    const services = rig.nodes.map(({ id }) => rig.cluster.service('storage', id));
    const ms = chance.between(0, 1_000);
    await Promise.all(services.map((one) => one.down()));
    await rig.sleep(ms);
    for (const service of services) await service.start();
    return { what: `for ${ms} ms`, victims: rig.nodes.map(({ id }) => id) };
  },
};

const restart: Fault = {
  kind: 'restart storage daemon',
  weight: 5,
  pairs: true,
  limits: { engineMs: 2_000, replicaMs: 3_000 },
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    await kill(rig.cluster.service('storage', node), 'SIGTERM');
    return { what: node, victims: [node] };
  },
};

const killController: Fault = {
  kind: 'kill -9 controller',
  weight: 4,
  pairs: true,
  async strike(rig) {
    await kill(rig.cluster.service('controller'));
    return { what: '', victims: [] };
  },
};

const killPlugin: Fault = {
  kind: 'kill -9 node plugin',
  weight: 4,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    await kill(rig.cluster.service('node', node));
    return { what: node, victims: [node] };
  },
};

const killBridge: Fault = {
  kind: "kill -9 a holder's bridge",
  weight: 5,
  pairs: true,
  limits: { engineMs: 2_000 },
  async strike(rig, chance, spared) {
    const load = chance.pick(rig.loads.filter(({ node }) => node.id !== spared));
    if (load === undefined) return { what: 'none', victims: [] };
    const { bridgePid } = await rig.holder(load.node, load.volume);
    if (bridgePid > 0) process.kill(bridgePid, 'SIGKILL');
    return { what: `${load.name} on ${load.node.id}`, victims: [load.node.id] };
  },
};

const crashDatabase: Fault = {
  kind: 'kill -9 PostgreSQL',
  weight: 2,
  pairs: false,
  missing: (rig: Rig) => (rig.loads.some(({ name }) => name === 'postgres') ? '' : postgresMissing() || 'no such load'),
  async strike(rig) {
    const load = rig.loads.find(({ name }) => name === 'postgres')!;
    await load.crash(rig.cluster.target(load.node, load.volume));
    await load.revive();
    return { what: load.node.id, victims: [], unjudged: [load] };
  },
};

export const kills = [
  killStorage,
  killAgain,
  absent,
  killAll,
  restart,
  killController,
  killPlugin,
  killBridge,
  crashDatabase,
];
