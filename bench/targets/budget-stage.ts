// Line 5, last part: where the CPU time of a write goes, stage by stage.

import { budgetTable, measureBudgets } from '../micro/budget.js';
import type { Stage } from './stage.js';

export const budgetStage: Stage = {
  name: 'budget',
  title: 'line 5: the budget of a write, one process with all replicas',
  async run(stage) {
    const budgets = await measureBudgets(stage);
    stage.print(`${budgetTable(budgets)}\n`);
    const whole = budgets.every(({ parts, cpuUs }) => cpuUs > 0 && parts.size > 1);
    stage.note('cpu.budget', [whole ? 1 : 0], budgets.map(({ cpuUs }) => `${cpuUs.toFixed(1)} us`).join(', '));
  },
};
