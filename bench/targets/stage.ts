// A stage of the targets: one thing that is set up, measured and taken down, and the lines of "Done when" that it answers.

import type { BenchRun } from '../run.js';
import type { Measured } from './target.js';

export interface StageRun extends BenchRun {
  /** Ours alone, empty; removed after the stage. */
  readonly directory: string;
  /** What earlier stages of this run found. */
  readonly found: ReadonlyMap<string, Measured>;
  /** Notes a figure for the verdicts. `why`: where it goes, in lines, for when it is missed. */
  note(id: string, values: readonly number[], beside?: string, why?: readonly string[]): void;
}

export interface Stage {
  readonly name: string;
  /** What it measures, and how long that takes by default. */
  readonly title: string;
  /** Prints tables of its own, notes figures. May fail: then its targets count as not measured. */
  run(stage: StageRun): Promise<void>;
}
