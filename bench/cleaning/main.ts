// node dist/bench/cleaning/main.js [GiB]: the table of write amplification, simulated, with the bounds beside it.

import { drawBlocks, type LoadName, loadBound, seededDraw } from './loads.js';
import { simulateCleaning } from './simulation.js';

const gib = Number(process.argv[2] ?? 64);
const rows: [LoadName, number, number][] = [
  ['uniform', 0.5, 6],
  ['uniform', 0.8, 6],
  ['uniform', 0.9, 6],
  ['zones 80/20', 0.8, 16],
  ['self-similar 80/20', 0.8, 16],
];
console.log(`${gib} GiB of incompressible, encrypted 4 KiB blocks; bytes to the pool per client byte`);
for (const [load, full, rounds] of rows) {
  const pick = drawBlocks(load, (gib * 2 ** 30) / 4096, seededDraw(1));
  const result = simulateCleaning({ gib, full, pick, rounds });
  console.log(
    `${load} at ${full * 100} %: ${result.amplification.toFixed(2)} (moved ${result.moved.toFixed(2)}, checkpoints ${result.checkpoints.toFixed(2)}); bound for records alone ${loadBound(load, full).toFixed(2)}`,
  );
}
