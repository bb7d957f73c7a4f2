// Line 8, first half: bytes written to the pool for each byte of a client, in the steady state, by the cleaner's own policy in a
// simulation of 64 GiB of incompressible blocks; what no cleaner can go below stands beside it.

import { fileURLToPath } from 'node:url';
import { precondition } from '../../src/base/index.js';
import { lastLine } from '../processes.js';
import { short } from '../statistics.js';
import { renderTable } from '../table.js';
import type { Stage, StageRun } from './stage.js';

const GIB = 64;
/** Quick: a sixteenth of it, with segments and marks that are as much smaller. */
const SCALE_QUICK = 16;
const SIMULATION_MS = 900_000;
const PARALLEL = 2;

interface Case {
  /** '' = shown only. */
  readonly id: string;
  readonly load: string;
  readonly full: number;
  readonly rounds: number;
}

/** A skewed load takes longer to settle. */
const cases: readonly Case[] = [
  { id: 'amplification.uniform-50', load: 'uniform', full: 0.5, rounds: 6 },
  { id: 'amplification.uniform-80', load: 'uniform', full: 0.8, rounds: 6 },
  { id: '', load: 'uniform', full: 0.9, rounds: 6 },
  { id: 'amplification.skewed-80', load: 'zones 80/20', full: 0.8, rounds: 12 },
  { id: '', load: 'self-similar 80/20', full: 0.8, rounds: 12 },
];

interface Simulated {
  readonly amplification: number;
  readonly moved: number;
  readonly checkpoints: number;
  readonly bound: number;
}

async function simulate(stage: StageRun, { load, full, rounds }: Case): Promise<Simulated> {
  const scale = stage.options.quick ? SCALE_QUICK : 1;
  const program = fileURLToPath(new URL('./simulate.js', import.meta.url));
  const args = [GIB / scale, scale, load, full, rounds].map(String);
  const { code, stdout, stderr } = await stage.processes.run(process.execPath, [program, ...args], SIMULATION_MS);
  if (code !== 0) throw precondition(`the simulation of the cleaner failed: ${lastLine(stderr)}`);
  return JSON.parse(stdout) as Simulated;
}

export const amplificationStage: Stage = {
  name: 'amplification',
  title: 'line 8: write amplification of the cleaner, simulated',
  async run(stage) {
    const chosen = stage.options.quick ? cases.filter(({ id }) => id !== '') : cases;
    const results = new Map<Case, Simulated>();
    const waiting = [...chosen];
    const worker = async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        stage.progress(`${next.load}, ${next.full * 100} % full`);
        results.set(next, await simulate(stage, next));
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, worker));
    const rows = chosen.map((one) => {
      const { amplification, moved, checkpoints, bound } = results.get(one)!;
      const beside = `bound ${short(bound)}; moved ${short(moved)}, checkpoints ${short(checkpoints)}`;
      if (one.id !== '') stage.note(one.id, [amplification], beside);
      return [`${one.load}, ${one.full * 100} % full`, ...[amplification, bound, moved, checkpoints].map(short)];
    });
    const size = stage.options.quick ? `${GIB / SCALE_QUICK} GiB, scaled` : `${GIB} GiB`;
    const head = [`bytes to the pool per client byte, ${size}`, 'written', 'bound', 'moved', 'checkpoints'];
    stage.print(`${renderTable(head, rows)}\n`);
  },
};
