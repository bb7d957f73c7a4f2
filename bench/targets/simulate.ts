// One simulation of the cleaner in a process of its own, so that two run at once and an interrupt ends them.
//
//   simulate.js GIB SCALE LOAD FULL ROUNDS    prints {"amplification", "moved", "checkpoints", "bound"}

import { BLOCK_SIZE, GiB } from '../../src/base/index.js';
import { drawBlocks, type LoadName, loadBound, seededDraw } from '../cleaning/loads.js';
import { simulateCleaning } from '../cleaning/simulation.js';

const loads: readonly LoadName[] = ['uniform', 'zones 80/20', 'self-similar 80/20'];
const SEED = 1;

const [gib, scale, name, full, rounds] = process.argv.slice(2);
const load = loads.find((one) => one === name);
if (load === undefined || rounds === undefined) {
  process.stderr.write(`usage: simulate.js GIB SCALE "${loads.join('" | "')}" FULL ROUNDS\n`);
  process.exit(2);
}
const pick = drawBlocks(load, (Number(gib) * GiB) / BLOCK_SIZE, seededDraw(SEED));
const result = simulateCleaning({
  gib: Number(gib),
  scale: Number(scale),
  full: Number(full),
  pick,
  rounds: Number(rounds),
});
process.stdout.write(`${JSON.stringify({ ...result, bound: loadBound(load, Number(full)) })}\n`);
