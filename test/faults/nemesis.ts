// Strikes one fault after the other, sometimes two at a time, and waits after each until everything is whole: what design.md promises
// to survive is never exceeded. Which fault, where and how long depends on the seed and the fault's number only.

import { realClock } from '../../src/base/index.js';
import { Chance } from './chance.js';
import { cuts } from './kinds/cuts.js';
import { damages } from './kinds/damage.js';
import { disks } from './kinds/disks.js';
import type { Fault } from './kinds/fault.js';
import { kills } from './kinds/kills.js';
import { losses } from './kinds/losses.js';
import { stops } from './kinds/pauses.js';
import type { Report } from './report.js';
import type { Rig, Struck } from './rig.js';

export const allFaults: readonly Fault[] = [...kills, ...stops, ...cuts, ...disks, ...damages, ...losses];

const pairShare = 0.15;

export class Nemesis {
  readonly #rig: Rig;
  readonly #faults: readonly Fault[];
  readonly #seed: number;
  readonly #report: Report;

  constructor(rig: Rig, faults: readonly Fault[], seed: number, report: Report) {
    this.#rig = rig;
    this.#faults = faults;
    this.#seed = seed;
    this.#report = report;
  }

  /** Each kind once, in an order that the seed says; then from a shuffled deck in which the frequent ones lie more often. */
  draw(number: number): Fault {
    const kinds = this.#faults.length;
    if (number < kinds) return this.#drawFrom(this.#faults, number, this.#seed);
    const deck = this.#faults.flatMap((fault) => Array.from({ length: fault.weight }, () => fault));
    const round = 1 + Math.floor((number - kinds) / deck.length);
    return this.#drawFrom(deck, (number - kinds) % deck.length, this.#seed + 7_919 * round);
  }

  #drawFrom(deck: readonly Fault[], number: number, seed: number): Fault {
    const chance = new Chance(seed);
    const rest = [...deck];
    for (let i = 0; i < number; i++) rest.splice(chance.between(0, rest.length), 1);
    return rest[chance.between(0, rest.length)]!;
  }

  /** The fault with that number, to the end. Throws on any violation but a pause that was too long. */
  async strike(number: number): Promise<void> {
    const rig = this.#rig;
    const chance = new Chance(this.#seed * 1_000 + number);
    const fault = this.draw(number);
    const partner =
      chance.hit(pairShare) && fault.pairs ? chance.weighted(this.#faults.filter(({ pairs }) => pairs)) : null;
    const spared = partner ? chance.pick(rig.nodes).id : undefined;
    await rig.sleep(chance.between(100, 800));
    const sinceMs = realClock.wallMs();
    const strikes = [fault.strike(rig, chance, spared)];
    if (partner) strikes.push(partner.strike(rig, new Chance(this.#seed * 1_000 + number + 0.5), undefined));
    const struck = await this.#under(Promise.all(strikes));
    const wholeMs = await rig.whole();
    const healedMs = realClock.wallMs();
    for (const load of rig.loads) await this.#under(load.progress(healedMs));
    const kind = partner ? 'two of these at a time' : fault.kind;
    const pauses = this.#pauses(struck, sinceMs);
    const failovers = struck.flatMap(({ failovers: list }) => list ?? []);
    const what = struck.map((one, i) => `${partner ? `${[fault, partner][i]!.kind}: ` : ''}${one.what}`).join(' & ');
    this.#report.add({ kind, limits: partner ? {} : (fault.limits ?? {}), ...pauses, failovers, wholeMs }, what);
    const seconds = (ms: number | null) => (ms === null ? '-' : `${(ms / 1000).toFixed(2)} s`);
    const moved = failovers.length > 0 ? `, failover ${failovers.map(seconds).join(' ')}` : '';
    rig.say(
      `${String(number + 1).padStart(4)} ${kind}: ${what}; pause ${seconds(pauses.engineMs)} of engines hit, ${seconds(pauses.replicaMs)} of others${moved}; in sync after ${seconds(wholeMs)}`,
    );
  }

  /** Rejects as soon as a load met an error: a strike may wait for what will never come. */
  async #under<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const watch = async (): Promise<never> => {
      for (;;) {
        await realClock.sleep(100);
        if (over) return new Promise(() => {});
        this.#rig.check();
      }
    };
    try {
      return await Promise.race([work, watch()]);
    } finally {
      over = true;
    }
  }

  #pauses(struck: readonly Struck[], sinceMs: number): { engineMs: number | null; replicaMs: number | null } {
    const longest = { engineMs: null as number | null, replicaMs: null as number | null };
    for (const load of this.#rig.loads) {
      const ms = load.longestGap(sinceMs);
      if (ms === null || struck.some(({ unjudged }) => unjudged?.includes(load))) continue;
      const hit = struck.some(({ victims }) => victims.includes(load.node.id));
      const key = hit ? 'engineMs' : 'replicaMs';
      longest[key] = Math.max(longest[key] ?? 0, ms);
    }
    return longest;
  }
}
