// Line 8, first half: bytes written to the pool for each byte of a client, in the steady state, by the cleaner's own policy in a
// simulation of 64 GiB of incompressible blocks; what no cleaner can go below stands beside it.

import { fileURLToPath } from 'node:url';
import { MiB, precondition } from '../../src/base/index.js';
import type { SimulationResult } from '../cleaning/tally.js';
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

interface Simulated extends SimulationResult {
  readonly bound: number;
}

/** What the written bytes are, and what keeps them above the bound. */
export function whyWritten({ full }: Pick<Case, 'full'>, result: Simulated): string[] {
  const { amplification, bound, written, moved, movedBefore, checkpoints, checkpointParts, segments, headers } = result;
  const [first, second, later] = movedBefore.map(short);
  const { whole, deltas, lists } = checkpointParts;
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  return [
    `of ${short(amplification)} bytes: clients' records ${short(written)}; moved ${short(moved)} (for the first time since they were written ${first}, the second ${second}, later ${later}); checkpoints ${short(checkpoints)} (pages whole ${short(whole)}, deltas ${short(deltas)}, lists ${short(lists)}); headers and indexes of segments ${short(segments)}`,
    `in records that is ${short(headers)} of headers, tags, index items and frames: a record of 4 KiB fills 65 units of 64 bytes, so nothing is padding; the bound of ${short(bound)} is for data alone, ${short((bound * (written + moved)) / (written + moved - headers))} with these`,
    `victims are ${percent(result.victimsLive)} alive; ${percent(result.unused)} of the pool is kept free (reserve and marks): the cleaner works as if it were ${percent(full / (1 - result.unused))} full; a checkpoint each ${short(result.checkpointEvery / MiB)} MiB of log`,
  ];
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
      const result = results.get(one)!;
      const { amplification, moved, checkpoints, bound } = result;
      const beside = `bound ${short(bound)}; moved ${short(moved)}, checkpoints ${short(checkpoints)}`;
      // A small volume that is not settled yet says nothing about the target.
      stage.note(one.id, stage.options.quick ? [] : [amplification], beside, whyWritten(one, result));
      return [`${one.load}, ${one.full * 100} % full`, ...[amplification, bound, moved, checkpoints].map(short)];
    });
    const { gib, scale } = stage.options.quick ? QUICK : FULL;
    const size = `${gib * scale} GiB`;
    const head = [`bytes to the pool per client byte, ${size}`, 'written', 'bound', 'moved', 'checkpoints'];
    stage.print(`${renderTable(head, rows)}\n`);
  },
};
