// Processes that stand still and go on, as under a debugger, a frozen virtual machine, or a machine that swaps.

import { type Fault, victim } from './fault.js';

/** Longer than the lease of a second; some longer than the five seconds after which a peer counts as dead. */
const pauses = [1_200, 2_000, 3_500, 6_500];

const stopStorage: Fault = {
  kind: 'SIGSTOP storage daemon',
  weight: 8,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const ms = chance.pick(pauses);
    const service = rig.cluster.service('storage', node);
    service.signal('SIGSTOP');
    await rig.sleep(ms);
    service.signal('SIGCONT');
    return { what: `${node} for ${ms} ms`, victims: [node] };
  },
};

const stopController: Fault = {
  kind: 'SIGSTOP controller',
  weight: 2,
  pairs: true,
  async strike(rig, chance) {
    const ms = chance.pick(pauses);
    rig.cluster.service('controller').signal('SIGSTOP');
    await rig.sleep(ms);
    rig.cluster.service('controller').signal('SIGCONT');
    return { what: `for ${ms} ms`, victims: [] };
  },
};

const stopNode: Fault = {
  kind: 'SIGSTOP a whole node',
  weight: 3,
  pairs: false,
  async strike(rig, chance) {
    const node = victim(rig, chance);
    const ms = chance.pick(pauses);
    const holders = await Promise.all(rig.loadsAt(node).map((load) => rig.holder(load.node, load.volume)));
    const pids = [
      ...rig.cluster.servicesOf(node).map(({ pid }) => pid),
      ...holders.flatMap(({ pid, bridgePid }) => [bridgePid, pid]),
    ].filter((pid) => pid > 0);
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    try {
      await rig.sleep(ms);
    } finally {
      for (const pid of pids.reverse()) process.kill(pid, 'SIGCONT');
    }
    return { what: `${node} for ${ms} ms`, victims: [node] };
  },
};

export const stops = [stopStorage, stopController, stopNode];
