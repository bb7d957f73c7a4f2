// What is fuzzed. An input is bytes, whatever the target makes of them, so that one that failed can be kept as a file and be
// given again.

import type { Chance } from '../lib/crash/virtual-time.js';

export interface FuzzTarget {
  readonly name: string;
  /** Paths in src/ (beginnings will do) whose code is to be reached; the run says how much of them was. */
  readonly sources: readonly string[];
  /** Cases of the short form, where one costs more than a tenth of a millisecond; default SHORT_CASES of the driver. */
  readonly shortCases?: number;
  /** Once a run. */
  open(): Promise<FuzzBench>;
}

export interface FuzzBench {
  /** Inputs that hold, made by the program's own code. */
  readonly seeds: readonly Buffer[];
  /** A changed copy: what a format's checks would only throw out at the first byte is to get further than that. */
  mutate(input: Buffer, chance: Chance): Buffer;
  /** Throws when a property does not hold. Returns what came out, in a word: what brings a new word is changed further. */
  run(input: Buffer): string | Promise<string>;
  close(): Promise<void>;
}

/** A property that must hold; the message tells what came instead. */
export function must(holds: boolean, what: string | (() => string)): asserts holds {
  if (!holds) throw new Error(typeof what === 'string' ? what : what());
}
