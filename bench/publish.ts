// Whether a run may be kept, and the keeping. Shared machines are rarely steady: such a run is kept, with what its machine did
// in it, and compared with care. What nobody could make again or would mistake for a whole run is refused, with the reason.

import { loadavg } from 'node:os';
import { precondition } from '../src/base/index.js';
import { type MachineTicks, machineTicks } from './cpu-time.js';
import { appendResult, currentCommit, describeMachine, rounded } from './history.js';
import type { BenchRun } from './run.js';
import { moved, movements, steadiness } from './volume/floor.js';

export const ROUNDS_MIN = 7;
export const LOAD_MAX = 0.5;
/** The build right before a run has loaded the machine: a minute's average falls below LOAD_MAX in two or three. */
const REST_MS = 240_000;
const LOOK_MS = 1_000;

/** What is known of a run before it. */
export interface Start {
  readonly rounds: number;
  readonly quick: boolean;
  /** Of one minute, before anything was started. */
  readonly loadAtStart: number;
  /** With '+' when the tree differs from it. */
  readonly commit: string;
  /** What the run leaves out, though it belongs to it. */
  readonly leftOut: readonly string[];
}

export type Floors = ReadonlyMap<string, readonly number[]>;

/** Sentences; none means publishable. */
export function whyNotPublishable(run: Start): string[] {
  const reasons: string[] = [];
  if (run.quick) reasons.push('a quick run is for looking');
  if (run.rounds < ROUNDS_MIN) reasons.push(`${run.rounds} rounds are too few, ${ROUNDS_MIN} are the least`);
  if (!(run.loadAtStart <= LOAD_MAX)) {
    reasons.push(`the load average was ${run.loadAtStart.toFixed(2)} at the start, ${LOAD_MAX} is the most`);
  }
  if (run.commit === '') reasons.push('the commit is unknown');
  if (run.commit.endsWith('+')) reasons.push('the tree differs from its commit');
  for (const name of run.leftOut) reasons.push(`${name} was left out`);
  return reasons;
}

/** Of a record: what the machine did. `floor` is null when CPU time alone was measured. */
export function conditionsOf(loadAtStart: number, floor: Floors | null, stolen: number): object {
  const common = { loadAtStart: rounded(loadAtStart), stolen: rounded(stolen) };
  if (floor === null) return common;
  const floorMoved = Object.fromEntries(movements(floor).map(({ item, by }) => [item.name, rounded(by)]));
  const rates = Object.fromEntries([...floor].map(([name, all]) => [name, all.map(rounded)]));
  return { steady: moved(floor).length === 0, ...common, floorMoved, floor: rates };
}

const tools = ['fio', 'nbdkit', 'qemu-nbd', 'ceph'];

/** One run from its start to its record. */
export class Publication {
  readonly #run: BenchRun;
  readonly #name: string;
  readonly #start: Start;
  readonly #ticks: MachineTicks;

  /**
   * Before anything is started. With --publish it waits some minutes for the machine to come to rest, and throws
   * FAILED_PRECONDITION when the run can't be published whatever it measures.
   */
  static async begin(
    run: BenchRun,
    name: string,
    leftOut: readonly string[],
    rounds = run.options.rounds,
  ): Promise<Publication> {
    const { publish, quick } = run.options;
    const commit = await currentCommit(run.processes);
    const start = (): Start => ({
      rounds,
      quick,
      commit,
      leftOut: [...leftOut],
      loadAtStart: loadavg()[0] ?? Number.NaN,
    });
    if (publish) {
      refuse(whyNotPublishable({ ...start(), loadAtStart: 0 }));
      const untilMs = run.clock.monotonicMs() + REST_MS;
      const { loadAtStart } = start();
      if (loadAtStart > LOAD_MAX)
        run.progress(`waiting for the load average to fall from ${loadAtStart.toFixed(2)} to ${LOAD_MAX}`);
      while (start().loadAtStart > LOAD_MAX && run.clock.monotonicMs() < untilMs) {
        run.processes.throwIfInterrupted();
        await run.clock.sleep(LOOK_MS);
      }
      refuse(whyNotPublishable(start()));
    }
    return new Publication(run, name, start());
  }

  private constructor(run: BenchRun, name: string, start: Start) {
    this.#run = run;
    this.#name = name;
    this.#start = start;
    this.#ticks = machineTicks();
  }

  /** How the machine was, in a line. */
  conditions(floor: Floors): string {
    const steady = floor.size === 0 ? 'floor not measured' : steadiness(floor);
    const stolen = `${(this.#stolen() * 100).toFixed(1)} % of its CPU time went to other guests`;
    const commit =
      this.#start.commit === ''
        ? 'no commit is known'
        : `commit ${this.#start.commit.slice(0, 12)}${this.#start.commit.endsWith('+') ? ' with changes' : ''}`;
    return `${commit}; load average ${this.#start.loadAtStart.toFixed(2)} at the start; ${stolen}; ${steady}.`;
  }

  /**
   * Says whether the run is publishable and, with --publish, appends `result` to bench/results/NAME.jsonl. Throws
   * FAILED_PRECONDITION when that was asked for and the run left something out. `floor` is null when CPU time alone was measured.
   */
  async conclude(floor: Floors | null, leftOut: readonly string[], result: object): Promise<void> {
    const { processes, options, print, clock, directory } = this.#run;
    const reasons = whyNotPublishable({ ...this.#start, leftOut: [...new Set([...this.#start.leftOut, ...leftOut])] });
    if (floor?.size === 0) reasons.push("the machine's floor was not measured");
    const { commit, loadAtStart } = this.#start;
    if (commit !== (await currentCommit(processes))) reasons.push('the tree was changed during the run');
    if (options.publish) refuse(reasons);
    if (reasons.length > 0) return print(`not publishable: ${reasons.join('; ')}.\n`);
    const care = floor === null || moved(floor).length === 0 ? '' : ', marked as from an unsteady machine';
    if (!options.publish) return print(`publishable: --publish keeps such a run in bench/results${care}.\n`);
    const path = appendResult(this.#name, {
      format: 2,
      at: new Date(clock.wallMs()).toISOString(),
      commit,
      machine: await describeMachine(processes, directory, tools),
      ...conditionsOf(loadAtStart, floor, this.#stolen()),
      ...result,
    });
    print(`results appended to ${path}${care}\n`);
  }

  #stolen(): number {
    const now = machineTicks();
    const all = now.all - this.#ticks.all;
    return all === 0 ? 0 : (now.stolen - this.#ticks.stolen) / all;
  }
}

function refuse(reasons: readonly string[]): void {
  if (reasons.length > 0) throw precondition(`not publishable: ${reasons.join('; ')}`);
}
