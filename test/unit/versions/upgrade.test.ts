// A volume with three replicas under writes while one daemon after the other is replaced by the next release, the engine among them,
// and back again: no error, and every byte is there on every replica.

import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { type NodeId, type ReplicaId, realClock, realRandom, silentLogger } from '../../../src/base/index.js';
import * as engine from '../../../src/engine/index.js';
import * as replica from '../../../src/replica/index.js';
import * as segment from '../../../src/segment/index.js';
import * as wire from '../../../src/wire/index.js';
import { TappedNet } from '../../fuzz/wire-peers.js';
import * as rig from '../../lib/engine-rig.js';
import { type NextRelease, nextRelease } from '../../lib/next-version.js';
import { RecordingDisk } from '../../lib/recording-disk.js';

type Release = Pick<NextRelease, 'engine' | 'replica' | 'segment' | 'wire' | 'rig'>;
const today = { engine, replica, segment, wire, rig } as unknown as Release;
const SIZE = 2 * 1024 * 1024;
const BLOCK = 4096;

class Node {
  readonly id: NodeId;
  readonly disk = new RecordingDisk();
  readonly #net: TappedNet;
  address = '';
  #stop: () => Promise<void> = async () => {};

  constructor(index: number, net: TappedNet) {
    this.id = `n${index}` as NodeId;
    this.#net = net;
    this.disk.prepareDirectory('/pool');
  }
  async start({
    segment: { Pool },
    replica: { ReplicaHost },
    wire: { WireServer },
  }: Release): Promise<replica.ReplicaHost> {
    const pool = await Pool.open(this.disk, '/pool', { nodeId: this.id, exclusive: true });
    const parts = { clock: realClock, logger: silentLogger };
    const host = new ReplicaHost({ pools: [pool], stopEngine: async () => false, ...parts });
    const server = await WireServer.listen(this.#net, 'any', { source: host, nodeId: this.id, ...parts });
    this.address = server.address;
    this.#stop = async () => {
      this.address = '';
      await server.close();
      await host.close();
      pool.close();
    };
    return host as unknown as replica.ReplicaHost;
  }
  stop(): Promise<void> {
    return this.#stop();
  }
}

class Cluster {
  readonly net = new TappedNet();
  readonly nodes = [0, 1, 2].map((index) => new Node(index, this.net));
  rig: rig.EngineRig = new rig.EngineRig(3, { sizeBytes: SIZE, encrypted: true });
  engine!: engine.Engine;
  readonly model = Buffer.alloc(SIZE);
  written = 0;
  #stop = false;

  async make(): Promise<this> {
    for (const [i, node] of this.nodes.entries()) {
      await segment.Pool.format(node.disk, '/pool', { nodeId: node.id, random: realRandom, clock: realClock });
      const host = await node.start(today);
      const { poolId } = segment.readPoolIdentity(node.disk, '/pool');
      const { replicaId, incarnationId } = this.rig.members()[i]!;
      const order = { ...{ volumeId: rig.rigVolume, lineageId: rig.rigLineage, replicaId, incarnationId }, poolId };
      await host.create({ ...order, sizeBytes: SIZE, parameters: {}, members: [], setVersion: 1 });
    }
    return this;
  }

  /** The engine, as that release has it; the former one has ended. */
  async open(release: Release): Promise<void> {
    const { EngineRig } = release.rig;
    const { epoch, inSync, setVersion, lost, flushedPoint, dataKey, members } = this.rig;
    const next = Object.assign(new EngineRig(3, { sizeBytes: SIZE, encrypted: true }), {
      epoch,
      inSync,
      setVersion,
      lost,
    });
    this.rig = Object.assign(next, { flushedPoint, dataKey, members });
    const connect = async ({ replicaId, nodeId }: { replicaId: ReplicaId; nodeId: NodeId }, timeoutMs: number) => {
      const { address } = this.nodes.find(({ id }) => id === nodeId)!;
      const options = {
        volumeId: rig.rigVolume,
        replicaId,
        nodeId,
        clock: realClock,
        random: realRandom,
        logger: silentLogger,
      };
      return await release.wire.connectReplica(this.net, address, options, timeoutMs);
    };
    this.engine = (await this.rig.open({ connector: { connect } })) as engine.Engine;
  }

  /** Writes and reads until stop(); any error fails. */
  async load(): Promise<void> {
    this.#stop = false;
    while (!this.#stop) {
      const block = (this.written * 37) % (SIZE / BLOCK - 3);
      const data = Buffer.alloc((1 + (this.written % 3)) * BLOCK, ++this.written & 0xff);
      data.writeUInt32LE(this.written);
      await rig.write(this.engine, block * BLOCK, data);
      data.copy(this.model, block * BLOCK);
      const at = ((this.written * 61) % (SIZE / BLOCK)) * BLOCK;
      expect((await rig.read(this.engine, at, BLOCK)).equals(this.model.subarray(at, at + BLOCK))).toBe(true);
      if (this.written % 5 === 0) await rig.flush(this.engine);
    }
  }
  stop(): void {
    this.#stop = true;
  }
  whole(): Promise<void> {
    const inSync = () => this.engine.status().replicas.every(({ state }) => state === 'in-sync');
    return rig.eventually(inSync, 'all replicas are in sync');
  }
  async verify(): Promise<void> {
    expect((await rig.read(this.engine, 0, SIZE)).equals(this.model)).toBe(true);
    await rig.flush(this.engine);
    const directory = `/pool/replicas/${rig.rigVolume}`;
    const [first, ...others] = this.nodes.map(({ disk }) => {
      const names = disk.list(directory).filter((name) => name.endsWith('.seg'));
      return names.map(
        (name) =>
          `${name} ${createHash('sha256')
            .update(disk.contents(`${directory}/${name}`))
            .digest('hex')}`,
      );
    });
    for (const other of others) expect(other).toEqual(first);
  }
}

it('replaces every part by the next release and back, under writes', { timeout: 60_000 }, async () => {
  const next = await nextRelease({});
  const cluster = await new Cluster().make();
  await cluster.open(today);
  for (const release of [next, today]) {
    for (const node of [cluster.nodes[1]!, cluster.nodes[2]!]) {
      const loading = cluster.load();
      await realClock.sleep(60);
      await node.stop();
      await realClock.sleep(60);
      await node.start(release);
      await cluster.whole();
      cluster.stop();
      await loading;
    }
    // The node of the engine: it ends with its daemon, and comes back with it.
    await cluster.engine.close();
    await cluster.nodes[0]!.stop();
    await cluster.nodes[0]!.start(release);
    await cluster.open(release);
    await cluster.whole();
    await cluster.verify();
  }
  expect(cluster.written).toBeGreaterThan(100);
  // Both versions of the protocol were really spoken.
  const spoken = cluster.net.sent
    .filter(({ bytes }) => bytes.toString('latin1', 0, 4) === 'HFW1')
    .map(({ bytes }) => bytes.readUInt16LE(4));
  expect(new Set(spoken)).toEqual(new Set([1, 2]));
  await cluster.engine.close();
  for (const node of cluster.nodes) await node.stop();
});
