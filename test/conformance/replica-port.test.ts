import { realClock, realRandom, silentLogger } from '../../src/base/index.js';
import type { Reign } from '../../src/format/index.js';
import { ReplicaHost } from '../../src/replica/index.js';
import { NodeNet, openNet, type StreamNet } from '../../src/transport/index.js';
import { connectReplica, WireServer } from '../../src/wire/index.js';
import { TestAuthority } from '../lib/authority.js';
import { volumeA } from '../lib/frame-maker.js';
import { freshHost, nodeA, replicaA } from '../lib/replica-setup.js';
import { type PortRig, replicaPortConformance } from './replica-port.js';

async function hostRig(): Promise<{ rig: Omit<PortRig, 'connect' | 'settle' | 'close'>; host: ReplicaHost }> {
  const { disk, pool } = await freshHost();
  const stopped: Reign[] = [];
  const rig = { disk, stopped, engineRan: false };
  const stopEngine = async (_volume: string, reign: Reign) => {
    stopped.push(reign);
    return rig.engineRan;
  };
  return { rig, host: new ReplicaHost({ pools: [pool], stopEngine, clock: realClock, logger: silentLogger }) };
}

replicaPortConformance('local', async () => {
  const { rig, host } = await hostRig();
  return Object.assign(rig, {
    connect: () => host.localPort(volumeA, replicaA),
    settle: () => new Promise<void>((resolve) => setImmediate(resolve)),
    close: () => host.close(),
  });
});

async function remoteRig(net: StreamNet): Promise<PortRig> {
  const { rig, host } = await hostRig();
  const server = await WireServer.listen(net, '127.0.0.1:0', {
    source: host,
    nodeId: nodeA,
    clock: realClock,
    logger: silentLogger,
  });
  const options = {
    volumeId: volumeA,
    replicaId: replicaA,
    nodeId: nodeA,
    clock: realClock,
    random: realRandom,
    logger: silentLogger,
  };
  return Object.assign(rig, {
    connect: () => connectReplica(net, server.address, options, 2000),
    settle: () => new Promise<void>((resolve) => setTimeout(resolve, 60)),
    close: async () => {
      await server.close();
      await host.close();
    },
  });
}

const authority = await TestAuthority.make();
const security = { trust: await authority.trust(`storage/${nodeA}`), logger: silentLogger };

replicaPortConformance('remote', () => remoteRig(openNet(realClock)));
replicaPortConformance('remote, over node:net', () => remoteRig(new NodeNet(realClock)));
replicaPortConformance('remote, over TLS', () => remoteRig(openNet(realClock, security)));
replicaPortConformance('remote, over node:tls', () => remoteRig(new NodeNet(realClock, security)));
