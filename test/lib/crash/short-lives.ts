// Every life of up to three steps, and the power lost (or the process killed) at every change of its disk since the last step
// began, with every way we can think of in which the unsynced changes may have reached the disk or not. Shorter lives are
// beginnings of longer ones, so what the earlier steps did alone was crashed there.

import { BLOCK_SIZE, MiB, type SnapshotId, type VolumeId } from '../../../src/base/index.js';
import { type Change, dropAll, type Fate, type RecordingDisk } from '../recording-disk.js';
import { Client, type Wish } from './client.js';
import { beginClone, type CloneRecord, checkClone } from './clones.js';
import { type Session, SimWorld, type VolumeShape } from './sim-world.js';
import { checkContents, checkPromises, openAgain } from './verify.js';
import { Chance } from './virtual-time.js';

const seed = 7;
const wish = (op: Wish['op'], offset: number, length: number, fua = false): Wish => ({ op, offset, length, fua });
const at = (block: number) => block * BLOCK_SIZE;

const requests = {
  write: [wish('write', at(3), at(2))],
  fua: [wish('write', at(4), at(1), true)],
  partial: [wish('write', at(3) + 1024, 2048)],
  together: [
    wish('write', at(8), at(5)),
    wish('write', at(3), at(1)),
    wish('trim', at(10), at(2)),
    wish('flush', 0, 0),
  ],
  /** More than a segment holds, as small as they are made here. */
  stream: Array.from({ length: 9 }, (_, i) => wish('write', at(16 + 16 * i), at(16))),
  flush: [wish('flush', 0, 0)],
  trim: [wish('trim', at(2), at(3))],
  zero: [wish('zero', at(3) + 512, at(2))],
} satisfies Record<string, Wish[]>;

const orders = ['snapshot', 'forget', 'clone', 'grow', 'close', 'replace'] as const;

export type Step = keyof typeof requests | (typeof orders)[number];
export const steps: readonly Step[] = [...(Object.keys(requests) as (keyof typeof requests)[]), ...orders];

/** All lives of one to `length` steps that do something at each. */
export function* livesOf(length: number, begun: readonly Step[] = []): Generator<readonly Step[]> {
  if (begun.length > 0) yield begun;
  if (begun.length === length) return;
  const taken = begun.filter((step) => step === 'snapshot').length;
  const forgotten = begun.filter((step) => step === 'forget').length;
  for (const step of steps) {
    if ((step === 'forget' || step === 'clone') && taken === forgotten) continue;
    yield* livesOf(length, [...begun, step]);
  }
}

export interface StateCounts {
  lives: number;
  /** Moments of a crash. */
  moments: number;
  /** Disks that were recovered and checked, of power cuts and of kills. */
  power: number;
  kills: number;
  /** Of the power cuts: with a write torn. */
  torn: number;
  /** Of all: written to and flushed afterwards, and then cut off from power once more. */
  again: number;
  /** Not counted above: they left the same disk as another one of the same life, with the same promises to keep. */
  same: number;
}

export const noStates = (): StateCounts => ({ lives: 0, moments: 0, power: 0, kills: 0, torn: 0, again: 0, same: 0 });

/** What comes back must also be fit to go on. */
const AGAIN_EVERY = 4;

class ShortLife {
  readonly world: SimWorld;
  readonly volumeId: VolumeId;
  readonly clones: CloneRecord[] = [];
  readonly #snapshots: SnapshotId[] = [];
  #session: Session;

  private constructor(world: SimWorld, volumeId: VolumeId, session: Session) {
    this.world = world;
    this.volumeId = volumeId;
    this.#session = session;
  }

  static async begin(shape: VolumeShape): Promise<ShortLife> {
    const { world, volumeId } = await SimWorld.fresh(seed, shape);
    const session = await world.until(openAgain(world, volumeId, world.nodes[0]!), 'open');
    return new ShortLife(world, volumeId, session);
  }

  async take(step: Step): Promise<void> {
    const { world, volumeId } = this;
    const { engine } = this.#session;
    const model = world.models.get(volumeId)!;
    if (step in requests) {
      const client = new Client(world, this.#session, model);
      client.submit(requests[step as keyof typeof requests]);
      return world.until(client.drained(), step);
    }
    if (step === 'snapshot') {
      const snapshotId = world.chance.uuid() as SnapshotId;
      await world.until(engine.freeze({ snapshotId, groupId: null, holdToken: null }), step);
      this.#snapshots.push(snapshotId);
      world.tick();
      model.ordered((effect) => effect.kind === 'freeze' && effect.snapshotId === snapshotId, step);
    } else if (step === 'forget') {
      const snapshotId = this.#snapshots.shift()!;
      await world.until(engine.deleteSnapshot(snapshotId), step);
      world.tick();
      model.ordered((effect) => effect.kind === 'unfreeze' && effect.snapshotId === snapshotId, step);
    } else if (step === 'clone') {
      const snapshotId = this.#snapshots.at(-1)!;
      const { record, answer } = beginClone(world, this.#session, volumeId, snapshotId, world.chance);
      this.clones.push(record);
      await world.until(answer, step);
    } else if (step === 'grow') {
      const sizeBytes = engine.sizeBytes + MiB;
      await world.until(engine.resize(sizeBytes), step);
      world.tick();
      model.ordered((effect) => effect.kind === 'size' && effect.sizeBytes === sizeBytes, step);
      world.change(volumeId, { sizeBytes });
    } else {
      if (step === 'close') {
        await world.until(engine.close(), step);
        world.change(volumeId, { engineNode: null });
      }
      this.#session = await world.until(openAgain(world, volumeId, world.nodes[0]!), step);
    }
  }
}

/** Lives through the steps, then crashes at every change since the last one began. Throws naming life, change and fates. */
export async function crashShortLife(shape: VolumeShape, life: readonly Step[], counts: StateCounts): Promise<void> {
  const short = await ShortLife.begin(shape);
  const { world } = short;
  const node = world.nodes[0]!;
  for (const step of life.slice(0, -1)) await short.take(step);
  // The open itself is crashed once, in the lives of one step.
  const from = life.length === 1 ? 0 : node.disk.journal.length;
  await short.take(life.at(-1)!);
  counts.lives++;
  const { disk } = node;
  const { moments } = node.disks[0]!;
  const { floors } = world.models.get(short.volumeId)!;
  const seen = new Set<string>();
  const check = async (count: number, what: string, power: 'lost' | 'kept', after: RecordingDisk): Promise<boolean> => {
    const moment = moments[count] ?? world.moment;
    const promises = floors.filter((floor) => floor.moment < moment && (power === 'kept' || floor.kind === 'durable'));
    const key = `${power} ${promises.length} ${after.fingerprint()}`;
    if (seen.has(key)) {
      counts.same++;
      return false;
    }
    seen.add(key);
    const again = seen.size % AGAIN_EVERY === 0;
    if (again) counts.again++;
    await crash(short, life, { moment, count, what, power, again }, after);
    return true;
  };
  for (let count = from; count <= disk.journal.length; count++) {
    if ((moments[count] ?? world.moment) < world.origin) continue;
    counts.moments++;
    for (const torn of tears(disk.journal[count])) {
      const what = `killed, ${torn} bytes of the next change there`;
      if (await check(count, what, 'kept', disk.afterKill(count, torn))) counts.kills++;
    }
    for (const { what, torn, fates } of fatesOf(disk.journal, disk.unsynced(count))) {
      const after = disk.afterPowerCut(count, (_, index) => fates.get(index) ?? true);
      if (!(await check(count, what, 'lost', after))) continue;
      counts.power++;
      if (torn) counts.torn++;
    }
  }
}

/** How much of a write that a kill interrupts is there. */
function tears(change: Change | undefined): number[] {
  if (change?.op !== 'write') return [0];
  const { length } = change.bytes;
  return [...new Set([0, 1, Math.min(length - 1, 128), Math.floor(length / 2), length - 1])];
}

interface Fates {
  readonly what: string;
  readonly torn: boolean;
  /** Of the unsynced changes that are not wholly there. */
  readonly fates: ReadonlyMap<number, Fate>;
}

const SUBSETS_OF = 6;

/** Every subset of few unsynced changes; of many, each one missing, each one alone, and each beginning. Then torn writes. */
function* fatesOf(journal: readonly Change[], unsynced: readonly number[]): Generator<Fates> {
  const sets: number[][] = [];
  if (unsynced.length <= SUBSETS_OF) {
    for (let mask = 0; mask < 2 ** unsynced.length; mask++) sets.push(unsynced.filter((_, i) => (mask >> i) & 1));
  } else {
    for (let i = 0; i < unsynced.length; i++) {
      sets.push(
        [unsynced[i]!],
        unsynced.filter((_, other) => other !== i),
        unsynced.slice(i),
      );
    }
    sets.push([], [...unsynced]);
  }
  for (const gone of sets)
    yield {
      what: `without changes ${gone.join(' ') || 'none'} of ${unsynced.join(' ')}`,
      torn: false,
      fates: new Map(gone.map((index) => [index, false])),
    };
  for (const index of unsynced) {
    const change = journal[index]!;
    if (change.op !== 'write') continue;
    const later = unsynced.filter((other) => other > index);
    for (const [way, stretches] of tornWays(change)) {
      const what = `change ${index} torn (${way})`;
      yield { what, torn: true, fates: new Map([[index, stretches]]) };
      if (later.length === 0) continue;
      const fates = new Map<number, Fate>(later.map((other) => [other, false]));
      yield { what: `${what}, nothing after it`, torn: true, fates: fates.set(index, stretches) };
    }
  }
}

/** By sectors of 512 bytes where the disk has them, and at single bytes. */
function tornWays({ position, bytes }: Change & { op: 'write' }): [string, [number, number][]][] {
  const { length } = bytes;
  const sectors: [number, number][] = [];
  for (let from = 0; from < length; ) {
    const to = Math.min(length, from + 512 - ((position + from) % 512));
    sectors.push([from, to]);
    from = to;
  }
  const ways: [string, [number, number][]][] = [];
  if (sectors.length > 1) {
    ways.push(
      ['first sector', sectors.slice(0, 1)],
      ['all but the first sector', sectors.slice(1)],
      ['all but the last sector', sectors.slice(0, -1)],
      ['even sectors', sectors.filter((_, i) => i % 2 === 0)],
      ['odd sectors', sectors.filter((_, i) => i % 2 === 1)],
      ['first half', sectors.slice(0, sectors.length >> 1)],
    );
  }
  ways.push(
    ['one byte', [[0, 1]]],
    ['all but the last byte', [[0, length - 1]]],
    ['100 bytes', [[0, Math.min(100, length)]]],
  );
  return ways;
}

interface Crash {
  readonly moment: number;
  readonly count: number;
  readonly what: string;
  readonly power: 'lost' | 'kept';
  readonly again: boolean;
}

async function crash(
  { world, volumeId, clones }: ShortLife,
  life: readonly Step[],
  { moment, count, what, power, again }: Crash,
  disk: RecordingDisk,
): Promise<void> {
  let after: SimWorld | undefined;
  try {
    const kinds = power === 'lost' ? (['durable'] as const) : (['durable', 'acked'] as const);
    after = await world.crashedAt(moment, seed, () => power, kinds, { rebuild: () => disk });
    const session = await after.until(openAgain(after, volumeId, after.nodes[0]!), 'open');
    const state = checkPromises(after, volumeId, session);
    await after.until(checkContents(after.models.get(volumeId)!, session, state), 'read');
    const made = clones.find(({ done }) => done !== null && done < moment);
    if (made !== undefined) await after.until(checkClone(after, made, new Chance(seed)), 'clone');
    if (again) await goOn(after, volumeId, session);
  } catch (error) {
    if (error instanceof Error) {
      const log = (after?.log ?? []).slice(-8).map((line) => `\n  ${line.message} ${JSON.stringify(line.fields)}`);
      error.message = `life ${life.join(', ')}, after ${count} changes, ${what}: ${error.message}${log.join('')}`;
    }
    throw error;
  }
}

/** What is flushed from now on is there after the next power cut, with nothing that was not. */
async function goOn(world: SimWorld, volumeId: VolumeId, session: Session): Promise<void> {
  const client = new Client(world, session, world.models.get(volumeId)!);
  client.submit([wish('write', at(3), at(2)), wish('write', at(12), at(1))]);
  await world.until(client.drained(), 'write');
  await world.until(client.flush(), 'flush');
  const rebuild = (disk: RecordingDisk) => disk.afterPowerCut(disk.journal.length, dropAll);
  const next = await world.crashedAt(world.moment, seed, () => 'lost', ['durable'], { rebuild });
  const reopened = await next.until(openAgain(next, volumeId, next.nodes[0]!), 'open after it went on');
  const state = checkPromises(next, volumeId, reopened);
  await next.until(checkContents(next.models.get(volumeId)!, reopened, state), 'read after it went on');
}
