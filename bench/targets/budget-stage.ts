// Line 5, last part: where the CPU time of a write goes, stage by stage; and of every other request whose target was missed.

import { type Budget, budgeted, budgetTable, measureBudgets } from '../micro/budget.js';
import { targets } from './catalogue.js';
import type { Stage, StageRun } from './stage.js';
import { judge } from './target.js';

/** Workloads of which a profile is wanted, because some figure of theirs was missed in this run. */
function missed({ found }: StageRun): string[] {
  return targets.flatMap((target) =>
    target.compares !== undefined && judge(target, found.get(target.id)).verdict === 'missed'
      ? [target.compares.workload]
      : [],
  );
}

export function budgetStage(keep: (budgets: readonly Budget[]) => void): Stage {
  return {
    name: 'budget',
    title: 'line 5: the budget of a request, one process with all replicas',
    async run(stage) {
      const budgets = await measureBudgets(stage, [...new Set([...budgeted, ...missed(stage)])]);
      keep(budgets);
      stage.print(`${budgetTable(budgets)}\n`);
      const whole = budgets.every(({ parts, cpuUs }) => cpuUs > 0 && parts.size > 1);
      const written = budgets.slice(0, budgeted.length).map(({ cpuUs }) => `${cpuUs.toFixed(1)} us`);
      stage.note('cpu.budget', [whole ? 1 : 0], written.join(', '));
    },
  };
}
