// What a full volume of 1 TiB costs: attach, memory, writes all over it, trims, snapshots; on a simulated replica, so that only the
// engine is measured. Prints one line for each. Run: node dist/bench/micro/full-volume.js

import { type NodeId, TiB } from '../../src/base/index.js';
import { MAP_CACHE_BYTES, PageCache } from '../../src/hotpath/index.js';
import { EngineRig, request, rigLineage, rigVolume, seeded, write } from '../../test/lib/engine-rig.js';
import { FullReplica, fullConnector, snapshotOf } from '../../test/lib/full-volume.js';
import { emptySuperblock } from '../../test/lib/memory-replica.js';

const pagesOfTiB = TiB / (4 * 1024 * 1024);

function makeRig(snapshots: number, versions: number) {
  const rig = new EngineRig(1, { sizeBytes: TiB });
  const { replicaId, incarnationId } = rig.members()[0]!;
  const ids = { volumeId: rigVolume, lineageId: rigLineage, replicaId, incarnationId, nodeId: 'n0' as NodeId };
  const superblock = emptySuperblock({ ...ids, sizeBytes: TiB });
  const reignId = '70000000-0000-4000-8000-000000000001' as typeof superblock.promised.reignId;
  const promised = { epoch: 1, reignId };
  const replica = new FullReplica({ superblock: { ...superblock, promised }, pages: pagesOfTiB, snapshots, versions });
  rig.epoch = 1;
  const pages = new PageCache(MAP_CACHE_BYTES);
  return { replica, pages, open: () => rig.open({ connector: fullConnector(replica), pages }) };
}

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

async function timed<T>(what: string, run: () => Promise<T>): Promise<T> {
  const cpu = process.cpuUsage();
  const started = performance.now();
  const result = await run();
  const used = process.cpuUsage(cpu);
  const ms = (used.user + used.system) / 1000;
  console.log(
    `${what}: ${(performance.now() - started).toFixed(0)} ms, ${ms.toFixed(0)} ms of CPU, RSS ${mib(process.memoryUsage.rss())}`,
  );
  return result;
}

async function life(snapshots: number, versions: number, writes: number): Promise<void> {
  const { replica, pages, open } = makeRig(snapshots, versions);
  console.log(
    `-- 1 TiB full, ${snapshots} snapshots, ${versions} older page versions; RSS before ${mib(process.memoryUsage.rss())}`,
  );
  const engine = await timed('attach', open);
  console.log(`read at attach: ${mib(replica.bytesRead)}, pages of the map: ${replica.pagesRead}`);
  const random = seeded(5);
  const data = Buffer.alloc(4096, 7);
  const before = engine.status().counters;
  await timed(`${writes} random writes of 4 KiB`, async () => {
    for (let i = 0; i < writes; i += 32)
      await Promise.all(
        Array.from({ length: 32 }, () => write(engine, Math.floor(random() * (TiB / 4096)) * 4096, data)),
      );
  });
  const after = engine.status().counters;
  const checkpointed = after.checkpointBytes - before.checkpointBytes;
  console.log(
    `checkpoints: ${mib(checkpointed)} for ${mib(writes * 4096)} written by clients; ${pages.resident} pages resident of ${pages.most}`,
  );
  const id = snapshotOf(1_000_000);
  await timed('freeze', () => engine.freeze({ snapshotId: id, groupId: null, holdToken: null }));
  await timed('delete that snapshot', () => engine.deleteSnapshot(id));
  if (snapshots > 0) await timed('delete one in the middle', () => engine.deleteSnapshot(snapshotOf(snapshots >> 1)));
  await timed('trim of everything', () => request(engine, 'trim', 0, TiB));
  engine.depose('measured');
}

await life(0, 0, 64_000);
await life(9_990, 999_000, 32_000);
