// What every part of the bench is given.

import type { Clock, Random } from '../src/base/index.js';
import type { BenchOptions } from './options.js';
import type { Processes } from './processes.js';

export interface BenchRun {
  readonly options: BenchOptions;
  readonly processes: Processes;
  readonly clock: Clock;
  readonly random: Random;
  /** Empty, ours, removed by the caller. */
  readonly directory: string;
  /** Results. */
  readonly print: (text: string) => void;
  /** What is being done. */
  readonly progress: (text: string) => void;
}
