// Lives by the number: each seed gives a volume of some kind, a life, and crashes of it.

import { GiB } from '../../../src/base/index.js';
import type { RecordingDisk } from '../recording-disk.js';
import { type CutCounts, chooseCrash, crashAndCheck } from './cuts.js';
import { SimWorld, type VolumeShape } from './sim-world.js';
import { Chance } from './virtual-time.js';
import { type Habits, peaceful, Workload } from './workload.js';

export function shapeBy(chance: Chance): VolumeShape {
  const encrypted = chance.hit(0.5);
  return {
    replicas: chance.hit(0.25) ? 1 : 3,
    sizeBytes: 6 * GiB,
    compression: chance.hit(0.5) ? 'lz4' : 'none',
    cipher: encrypted ? 'aes-256-gcm' : 'none',
    dataKey: encrypted ? chance.bytes(32) : null,
  };
}

const blank = Buffer.alloc(4096);

function zeroWrites(disk: RecordingDisk): number {
  return disk.journal.filter(
    (change) => change.op === 'write' && change.bytes.length >= 4096 && change.bytes.subarray(0, 4096).equals(blank),
  ).length;
}

/** Runs lives until so many crashes were checked. Throws with the seed of the life that broke a promise. */
export async function runLives(options: { seed: number; cuts: number; bytes: number }): Promise<CutCounts> {
  const counts: CutCounts = {
    cuts: 0,
    again: 0,
    inRecovery: 0,
    power: 0,
    alone: 0,
    clones: 0,
    converged: 0,
    zeroes: 0,
    moves: 0,
  };
  const started = process.hrtime.bigint();
  const total = { lives: 0, requests: 0, bytes: 0, flushes: 0, closes: 0, freezes: 0, faults: 0 };
  for (let seed = options.seed; counts.cuts < options.cuts; seed++) {
    const chance = new Chance(seed);
    const shape = shapeBy(chance);
    const faults =
      shape.replicas > 1 && chance.hit(0.6)
        ? { disconnect: 0.03, kill: 0.02, power: 0.02, failover: 0.02 }
        : shape.replicas === 1 && chance.hit(0.5)
          ? { ...peaceful, kill: 0.03 }
          : peaceful;
    const habits: Habits = { steps: 200, bytes: options.bytes, faults };
    try {
      const { world, volumeId } = await SimWorld.fresh(seed, shape);
      if (chance.hit(0.3)) world.storeLoss = 0.2;
      const life = new Workload(world, volumeId, habits);
      await world.until(life.run(), 'workload', 3_600_000);
      total.lives++;
      total.requests += life.counts.requests;
      total.bytes += life.counts.bytes;
      total.flushes += life.counts.flushes;
      total.closes += life.counts.closes;
      total.freezes += life.counts.freezes;
      for (const count of Object.values(life.counts.faults)) total.faults += count;
      counts.moves += world.models.get(volumeId)!.moves;
      for (const node of world.nodes) counts.zeroes += zeroWrites(node.disk);
      const short: Habits = { steps: 20, bytes: options.bytes / 4, faults };
      for (let i = 0; i < 10 && counts.cuts < options.cuts; i++)
        await crashAndCheck(
          { world, volumeId, clones: life.clones },
          chooseCrash({ world, volumeId }, chance),
          short,
          chance.pick([0, 0, 1, 2]),
          counts,
        );
    } catch (error) {
      if (error instanceof Error) error.message = `HOLDFAST_SEED=${seed}: ${error.message}`;
      throw error;
    }
  }
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  console.log(
    `seeds from ${options.seed}: ${total.lives} lives with ${total.requests} requests, ${(total.bytes / 2 ** 20).toFixed(0)} MiB written, ${total.flushes} flushes, ${total.freezes} freezes, ${total.closes} clean closes, ${total.faults} faults while running; ` +
      `${counts.cuts} crashes checked (${counts.power} power cuts of all, ${counts.again} of recovered worlds, ${counts.inRecovery} of those in the recovery, ${counts.alone} with one replica alone, ${counts.clones} clones, ${counts.converged} until all replicas were in sync; ${counts.zeroes} times zeroes were written ahead, ${counts.moves} frames of moved records) in ${seconds.toFixed(1)} s`,
  );
  return counts;
}
