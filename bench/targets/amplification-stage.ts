// Line 8, first half: bytes written to the pool for each byte of a client, in the steady state, by the cleaner's own policy in a
// simulation of 64 GiB of incompressible blocks; what no cleaner can go below stands beside it.

import { fileURLToPath } from 'node:url';
import { precondition } from '../../src/base/index.js';
import { lastLine } from '../processes.js';
import { short } from '../statistics.js';
import { renderTable } from '../table.js';
import type { Stage, StageRun } from './stage.js';

const FULL = { gib: 64, scale: 1 };
/** What 16 GiB are, with data, segments and marks a sixteenth of it. */
const QUICK = { gib: 1, scale: 16 };
const SIMULATION_MS = 900_000;
const PARALLEL = 2;

interface Case {
  readonly id: string;
  readonly load: string;
  readonly full: number;
  /** How often the whole volume's worth is overwritten. A skewed load takes longer to settle. */
  readonly rounds: number;
  readonly roundsQuick: number;
}

/** bench/cleaning/main.js has more of them. */
const cases: readonly Case[] = [
  { id: 'amplification.skewed-80', load: 'zones 80/20', full: 0.8, rounds: 12, roundsQuick: 3 },
  { id: 'amplification.uniform-80', load: 'uniform', full: 0.8, rounds: 6, roundsQuick: 2 },
  { id: 'amplification.uniform-50', load: 'uniform', full: 0.5, rounds: 6, roundsQuick: 2 },
];

interface Simulated {
  readonly amplification: number;
  readonly moved: number;
  readonly checkpoints: number;
  readonly bound: number;
}

async function simulate(stage: StageRun, one: Case): Promise<Simulated> {
  const { load, full } = one;
  const rounds = stage.options.quick ? one.roundsQuick : one.rounds;
  const { gib, scale } = stage.options.quick ? QUICK : FULL;
  const program = fileURLToPath(new URL('./simulate.js', import.meta.url));
  const args = [gib, scale, load, full, rounds].map(String);
  const { code, stdout, stderr } = await stage.processes.run(process.execPath, [program, ...args], SIMULATION_MS);
  if (code !== 0) throw precondition(`the simulation of the cleaner failed: ${lastLine(stderr)}`);
  return JSON.parse(stdout) as Simulated;
}

export const amplificationStage: Stage = {
  name: 'amplification',
  title: 'line 8: write amplification of the cleaner, simulated',
  async run(stage) {
    const results = new Map<Case, Simulated>();
    const waiting = [...cases];
    const worker = async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        stage.progress(`${next.load}, ${next.full * 100} % full`);
        results.set(next, await simulate(stage, next));
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, worker));
    const rows = cases.map((one) => {
      const { amplification, moved, checkpoints, bound } = results.get(one)!;
      const beside = `bound ${short(bound)}; moved ${short(moved)}, checkpoints ${short(checkpoints)}`;
      // A small volume that is not settled yet says nothing about the target.
      stage.note(one.id, stage.options.quick ? [] : [amplification], beside);
      return [`${one.load}, ${one.full * 100} % full`, ...[amplification, bound, moved, checkpoints].map(short)];
    });
    const { gib, scale } = stage.options.quick ? QUICK : FULL;
    const size = `${gib * scale} GiB`;
    const head = [`bytes to the pool per client byte, ${size}`, 'written', 'bound', 'moved', 'checkpoints'];
    stage.print(`${renderTable(head, rows)}\n`);
  },
};
