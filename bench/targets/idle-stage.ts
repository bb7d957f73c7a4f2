// Line 9: what volumes cost that are attached and left alone: CPU time of all processes of three nodes over a while, and the
// memory of their storage daemons.

import { readFileSync } from 'node:fs';
import { GiB, MiB } from '../../src/base/index.js';
import { cpuSecondsOf } from '../cpu-time.js';
import { median } from '../statistics.js';
import { type AttachedVolume, HoldfastCluster } from '../systems/holdfast-cluster.js';
import { renderTable } from '../table.js';
import type { Stage, StageRun } from './stage.js';

const COPIES = 3;
const VOLUMES = [0, 1, 100] as const;
const WATCHED_MS = 30_000;
const WATCHED_QUICK_MS = 8_000;
/** What was left over from opening has ended after it. */
const SETTLE_MS = 5_000;
const PARALLEL = 4;

/** Resident bytes of a process, from /proc/PID/status; undefined when the text has none. */
export function parseRss(status: string): number | undefined {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  return kib === undefined ? undefined : Number(kib) * 1024;
}

export function rssOf(pid: number): number {
  return parseRss(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? 0;
}

async function attachUntil(
  stage: StageRun,
  cluster: HoldfastCluster,
  open: AttachedVolume[],
  count: number,
): Promise<void> {
  while (open.length < count) {
    const more = Math.min(PARALLEL, count - open.length);
    const first = open.length;
    const made = await Promise.all(
      Array.from({ length: more }, async (_, i) =>
        cluster.attach(await cluster.create({ name: `idle-${first + i}`, copies: COPIES, sizeBytes: GiB })),
      ),
    );
    open.push(...made);
  }
  stage.progress(`${count} idle volumes`);
}

export const idleStage: Stage = {
  name: 'idle',
  title: 'line 9: what idle volumes cost',
  async run(stage) {
    const { clock, options } = stage;
    const watchedMs = options.quick ? WATCHED_QUICK_MS : WATCHED_MS;
    const cluster = new HoldfastCluster(stage);
    const open: AttachedVolume[] = [];
    const rows: string[][] = [];
    try {
      await cluster.start();
      const daemons = cluster.nodes.map((node) => cluster.storagePid(node.id));
      for (const count of VOLUMES) {
        await attachUntil(stage, cluster, open, count);
        await clock.sleep(SETTLE_MS);
        const startMs = clock.monotonicMs();
        const cpu = () => [cluster.pid, ...daemons].map((pid) => cpuSecondsOf([pid]));
        const before = cpu();
        await clock.sleep(watchedMs);
        const seconds = (clock.monotonicMs() - startMs) / 1000;
        const [all, ...each] = cpu().map((value, i) => (value - before[i]!) / seconds);
        const rss = daemons.map((pid) => Math.round(rssOf(pid) / MiB));
        const percent = (fraction: number) => `${(fraction * 100).toFixed(2)} %`;
        rows.push([`${count} volumes`, percent(all!), each.map(percent).join(', '), rss.join(', ')]);
        if (count !== VOLUMES.at(-1)) continue;
        // All of them are open on one node; the other two have replicas.
        const opened = Math.round(median(open.map(({ openMs }) => openMs)));
        const beside = `all processes; the busiest daemon ${percent(Math.max(...each))}; with no volume ${rows[0]![1]}; opened in ${opened} ms each`;
        stage.note('idle.cpu-100', [all!], beside);
      }
    } finally {
      await cluster.stop();
    }
    const head = [`idle for ${watchedMs / 1000} s`, 'CPU of all processes', 'of the storage daemons', 'their RSS, MiB'];
    stage.print(`${renderTable(head, rows)}\n`);
  },
};
