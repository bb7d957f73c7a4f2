import { describe, expect, it } from 'vitest';
import { realClock, realRandom, silentLogger } from '../../../src/base/index.js';
import { connectReplica, WireServer } from '../../../src/wire/index.js';
import { reignOf, volumeA } from '../../lib/frame-maker.js';
import { PipeNet } from '../../lib/pipe-net.js';
import { freshHost, hear, nodeA, replicaA } from '../../lib/replica-setup.js';

describe('a connection that closes', () => {
  it('does not look like a replica that is gone for good', async () => {
    const net = new PipeNet();
    const { host } = await freshHost();
    const options = { clock: realClock, logger: silentLogger, nodeId: nodeA };
    const server = await WireServer.listen(net, 'any', { source: host, ...options });
    const target = { ...options, volumeId: volumeA, replicaId: replicaA, random: realRandom };
    const port = await connectReplica(net, server.address, target, 1000);
    const heard = hear(port);
    await port.fence(reignOf(1));
    const asked = port.segments();
    for (const stream of net.clients) stream.destroy();
    await expect(asked).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(asked).rejects.not.toMatchObject({ reason: 'ReplicaLost' });
    expect(heard.lost).not.toMatchObject({ reason: 'ReplicaLost' });
    await server.close();
    await host.close();
  });
});
