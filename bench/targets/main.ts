// `targets`: every stage in turn, then one table with each figure the project holds itself to, its target beside it, and the
// verdict. A stage that fails leaves its figures unmeasured and the others alone; content that does not verify ends the run.

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { HoldfastError, messageOf } from '../../src/base/index.js';
import { formerRun, isSteady, rounded, writeFormer } from '../history.js';
import type { Budget } from '../micro/budget.js';
import { chosen } from '../options.js';
import { Publication } from '../publish.js';
import type { BenchRun } from '../run.js';
import { moved } from '../volume/floor.js';
import { canDropPageCache } from '../volume/page-cache.js';
import { amplificationStage } from './amplification-stage.js';
import { attachStage } from './attach-stage.js';
import { backgroundStage } from './background-stage.js';
import { budgetStage } from './budget-stage.js';
import { targets } from './catalogue.js';
import type { PeersResult } from './compared.js';
import { idleStage } from './idle-stage.js';
import { latencyStage } from './latency-stage.js';
import { peersStage } from './peers-stage.js';
import { snapshotsStage } from './snapshots-stage.js';
import { spaceStage } from './space-stage.js';
import type { Stage } from './stage.js';
import { type Judged, judge, type Measured } from './target.js';
import { taxStage } from './tax-stage.js';
import { throttledStage } from './throttled-stage.js';
import { changeLines, changesSince, summary, verdictTable } from './verdicts.js';
import { whyLines } from './why.js';

export async function runTargets(run: BenchRun): Promise<void> {
  let peers: PeersResult | undefined;
  let budgets: readonly Budget[] = [];
  const stages = [
    peersStage((result) => {
      peers = result;
    }),
    budgetStage((result) => {
      budgets = result;
    }),
    taxStage,
    latencyStage,
    backgroundStage,
    amplificationStage,
    throttledStage,
    idleStage,
    attachStage,
    snapshotsStage,
    spaceStage,
  ];
  const selected = chosen('stages', stages, run.options.stages);
  const found = new Map<string, Measured>();
  const leftOut = stages.filter((stage) => !selected.includes(stage)).map(({ name }) => `stage ${name}`);
  if (!canDropPageCache()) leftOut.push('cold reads');
  const publication = await Publication.begin(run, 'targets', leftOut);
  for (const stage of selected) {
    const trouble = await runStage(run, stage, found);
    if (trouble !== '') leftOut.push(`stage ${stage.name} (${trouble})`);
  }
  const judged = targets.map((target) => judge(target, found.get(target.id)));
  const floor = peers?.floor ?? new Map<string, number[]>();
  run.print(`\n${verdictTable(judged)}\n\n${summary(judged)}\n${publication.conditions(floor)}\n`);
  for (const line of whyLines(judged, peers, budgets)) run.print(`${line}\n`);
  compare(run, judged, moved(floor).length === 0);
  await publication.conclude(floor, leftOut, resultOf(run, judged, found, peers));
}

/** Returns why it failed; '' when it did not. */
async function runStage(run: BenchRun, stage: Stage, found: Map<string, Measured>): Promise<string> {
  const directory = join(run.directory, stage.name);
  mkdirSync(directory);
  run.print(`\n== ${stage.title}\n`);
  const startMs = run.clock.monotonicMs();
  try {
    await stage.run({
      ...run,
      directory,
      found,
      progress: (text) => run.progress(`${stage.name}: ${text}`),
      note: (id, values, beside = '', why = []) => void found.set(id, { id, values, beside, why }),
    });
    return '';
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code === 'DATA_LOSS' || error.code === 'CANCELLED') throw error;
    run.print(`the stage failed: ${messageOf(error)}\n`);
    return messageOf(error);
  } finally {
    run.print(`(${Math.round((run.clock.monotonicMs() - startMs) / 1000)} s)\n`);
    rmSync(directory, { recursive: true, force: true });
  }
}

function compare(run: BenchRun, judged: readonly Judged[], steady: boolean): void {
  const former = formerRun('targets');
  if (former === undefined || !Array.isArray(former.targets)) return;
  const changes = changesSince(judged, former.targets as { id: string; values: number[] }[]);
  for (const line of changeLines(changes, writeFormer(former), steady && isSteady(former))) run.print(`${line}\n`);
}

function resultOf(
  run: BenchRun,
  judged: readonly Judged[],
  found: ReadonlyMap<string, Measured>,
  peers: PeersResult | undefined,
): object {
  const { rounds, seconds, sizeBytes } = run.options;
  return {
    settings: { rounds, seconds, sizeBytes, compressiblePercent: 50 },
    targets: judged.map(({ target: { id, line, rule, value }, verdict, spread, beside, why }) => {
      const values = (found.get(id)?.values ?? []).map(rounded);
      const { median, least, most } = spread ?? {};
      const middle =
        median === undefined ? {} : { median: rounded(median), least: rounded(least!), most: rounded(most!) };
      return { id, line, rule, target: value, verdict, ...middle, values, beside, ...(why.length > 0 ? { why } : {}) };
    }),
    rates: peers?.samples.summary() ?? [],
  };
}
