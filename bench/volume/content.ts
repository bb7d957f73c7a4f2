// What a volume holds, written before it is measured and checked after: what a store loses or mixes up under load shows.

import type { Processes } from '../processes.js';
import type { FioTarget } from '../systems/system.js';
import { COMPRESSIBLE_PERCENT, runFio } from './fio.js';
import { fillJob, keepJob, verifyJob } from './jobs.js';

export interface Tools {
  readonly processes: Processes;
  /** For fio's output. */
  readonly directory: string;
}

/** Writes every byte of a volume, its end so that checkContent() knows it again. Measured jobs leave that end alone. */
export async function writeContent(
  { processes, directory }: Tools,
  target: FioTarget,
  sizeBytes: number,
  compressiblePercent = COMPRESSIBLE_PERCENT,
): Promise<void> {
  await runFio(processes, directory, fillJob(target, sizeBytes, compressiblePercent));
  await runFio(processes, directory, keepJob('write', target, sizeBytes));
}

/** Throws DATA_LOSS when the end of the volume is not as it was written. Writes nothing. */
export async function checkKept({ processes, directory }: Tools, target: FioTarget, sizeBytes: number): Promise<void> {
  await runFio(processes, directory, keepJob('check', target, sizeBytes));
}

/** Throws DATA_LOSS when the end of the volume is not as it was written, or new writes all over it can't be read back. */
export async function checkContent(tools: Tools, target: FioTarget, sizeBytes: number): Promise<void> {
  await checkKept(tools, target, sizeBytes);
  await runFio(tools.processes, tools.directory, verifyJob(target, sizeBytes));
}
