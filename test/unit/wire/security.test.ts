// Replica connections between parts with certificates: only storage daemons open replicas, and only the node that is meant is spoken to.

import { afterEach, expect, it } from 'vitest';
import { type HoldfastError, type NodeId, realClock, realRandom, silentLogger } from '../../../src/base/index.js';
import { NodeNet, openNet, type StreamNet } from '../../../src/transport/index.js';
import type { Trust } from '../../../src/trust/index.js';
import { connectReplica, WireServer } from '../../../src/wire/index.js';
import { LogLines, TestAuthority } from '../../lib/authority.js';
import { reignOf, volumeA } from '../../lib/frame-maker.js';
import { freshHost, nodeA, replicaA } from '../../lib/replica-setup.js';

const authority = await TestAuthority.make();
const server = await authority.trust(`storage/${nodeA}`);
const nets: Record<string, (trust: Trust) => StreamNet> = {
  TLS: (trust) => openNet(realClock, { trust, logger: silentLogger }),
  'node:tls': (trust) => new NodeNet(realClock, { trust, logger: silentLogger }),
};

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function serve(net: StreamNet, log: LogLines): Promise<string> {
  const { host } = await freshHost();
  const wire = await WireServer.listen(net, '127.0.0.1:0', {
    source: host,
    nodeId: nodeA,
    clock: realClock,
    logger: log,
  });
  closing.push(
    () => host.close(),
    () => wire.close(),
  );
  return wire.address;
}

function connect(net: StreamNet, address: string, nodeId = nodeA, log = new LogLines()) {
  const options = { volumeId: volumeA, replicaId: replicaA, nodeId, clock: realClock, random: realRandom, logger: log };
  return connectReplica(net, address, options, 3000);
}

async function failureOf(work: Promise<unknown>): Promise<HoldfastError> {
  return await work.then(
    () => Promise.reject(new Error('it did not fail')),
    (error) => error,
  );
}

for (const [kind, make] of Object.entries(nets)) {
  it(`lets a storage daemon open a replica over ${kind}, and names it in the log`, async () => {
    const log = new LogLines();
    const address = await serve(make(server), log);
    const port = await connect(make(await authority.trust('storage/node-7')), address);
    expect((await port.fence(reignOf(1))).end.seq).toBe(0);
    port.close();
  });

  it.each(['controller', 'node/node-1', 'operator'])(`refuses ${kind} connections of %s`, async (part) => {
    const log = new LogLines();
    const address = await serve(make(server), log);
    const failure = await failureOf(connect(make(await authority.trust(part)), address));
    const text = `spiffe://demo/holdfast/${part} may not write to replicas: that is for storage`;
    expect([failure.code, failure.reason, failure.message]).toEqual(['PERMISSION_DENIED', 'WrongRole', text]);
    expect(log.lines.join('\n')).toContain(text);
  });

  it(`speaks over ${kind} with the node that it means, and with no other`, async () => {
    const other = await authority.trust('storage/node-8');
    const address = await serve(make(other), new LogLines());
    // It says in its protocol that it is the right node, and its certificate says otherwise.
    const failure = await failureOf(connect(make(server), address));
    expect(failure).toMatchObject({ code: 'PERMISSION_DENIED', reason: 'WrongRole' });
    expect(failure.message).toMatch(new RegExp(`is spiffe://demo/holdfast/storage/node-8, and not storage/${nodeA}`));
    const asOperator = await serve(make(await authority.trust('operator')), new LogLines());
    expect((await failureOf(connect(make(server), asOperator, nodeA as NodeId))).reason).toBe('WrongRole');
  });
}
