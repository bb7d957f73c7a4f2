// An engine rig whose replicas are real ones, each on a recording disk of its own: for what only the disk side can get wrong.

import {
  type IncarnationId,
  type NodeId,
  type PoolId,
  type ReplicaId,
  realClock,
  realRandom,
  silentLogger,
} from '../../src/base/index.js';
import type { Engine, EngineOptions, ReplicaPort } from '../../src/engine/index.js';
import { ReplicaHost } from '../../src/replica/index.js';
import { Pool } from '../../src/segment/index.js';
import { EngineRig, rigLineage, rigVolume } from './engine-rig.js';
import { RecordingDisk } from './recording-disk.js';

class DiskNode {
  readonly index: number;
  disk = new RecordingDisk();
  host!: ReplicaHost;
  reachable = true;
  /** Called with each port before the engine gets it. */
  tamper: (port: ReplicaPort) => ReplicaPort = (port) => port;
  readonly #pools: Pool[] = [];

  constructor(index: number) {
    this.index = index;
  }
  get nodeId(): NodeId {
    return `n${this.index}` as NodeId;
  }
  get directory(): string {
    return `/pool/replicas/${rigVolume}`;
  }
  segmentFiles(): string[] {
    return this.disk.list(this.directory).filter((name) => name.endsWith('.seg'));
  }

  async format(rig: EngineRig): Promise<void> {
    this.disk.prepareDirectory('/pool');
    await Pool.format(this.disk, '/pool', { nodeId: this.nodeId, random: realRandom, clock: realClock });
    const poolId = await this.#openHost();
    const { replicaId, incarnationId } = rig.members()[this.index]!;
    await this.host.create({
      volumeId: rigVolume,
      lineageId: rigLineage,
      replicaId,
      incarnationId,
      poolId,
      sizeBytes: rig.options.sizeBytes,
      parameters: {},
      members: [],
      setVersion: 1,
    });
  }

  async #openHost(): Promise<PoolId> {
    const pool = await Pool.open(this.disk, '/pool', { nodeId: this.nodeId, exclusive: true });
    this.#pools.push(pool);
    const stopEngine = async () => false;
    this.host = new ReplicaHost({ pools: [pool], stopEngine, clock: realClock, logger: silentLogger });
    return pool.id;
  }

  /** The process dies and comes back; `change` is done to the disk in between. */
  async restart(
    change: (disk: RecordingDisk) => RecordingDisk = (disk) => disk.afterKill(disk.journal.length),
  ): Promise<void> {
    const former = this.host;
    this.disk = change(this.disk);
    await this.#openHost();
    await former.close();
  }
}

export class DiskRig extends EngineRig {
  readonly nodes: DiskNode[];

  private constructor(count: number, options: { sizeBytes?: number; encrypted?: boolean }) {
    super(count, options);
    this.nodes = Array.from({ length: count }, (_, i) => new DiskNode(i));
  }
  static async make(count: number, options: { sizeBytes?: number; encrypted?: boolean } = {}): Promise<DiskRig> {
    const rig = new DiskRig(count, options);
    for (const node of rig.nodes) await node.format(rig);
    return rig;
  }
  id(index: number): ReplicaId {
    return this.members()[index]!.replicaId;
  }
  incarnation(index: number): IncarnationId {
    return this.members()[index]!.incarnationId;
  }
  override open(overrides: Partial<EngineOptions> = {}): Promise<Engine> {
    return super.open({
      connector: {
        connect: async ({ replicaId, nodeId }) => {
          await new Promise((resolve) => setImmediate(resolve));
          const node = this.nodes.find((candidate) => candidate.nodeId === nodeId)!;
          if (!node.reachable) throw new Error(`${nodeId} does not answer`);
          return node.tamper(await node.host.localPort(rigVolume, replicaId));
        },
      },
      ...overrides,
    });
  }
}
