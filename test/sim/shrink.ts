// Makes a failing run smaller: faults that are not needed for it are left out, then time and work are halved as long as it fails.

import { type Options, settingsFor } from './options.js';
import { Sim } from './sim.js';

type Reduced = Pick<Options, 'without' | 'writes' | 'safetyMs'>;

async function failureOf(reduced: Reduced, seed: number): Promise<string | null> {
  try {
    await new Sim(settingsFor(reduced, seed)).run();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message.split('\n')[0]! : String(error);
  }
}

export async function shrink(options: Options, seed: number): Promise<void> {
  let best: Reduced = { without: options.without, writes: options.writes, safetyMs: options.safetyMs };
  let last = '';
  const attempt = async (candidate: Reduced): Promise<boolean> => {
    const failure = await failureOf(candidate, seed);
    if (failure === null) return false;
    best = candidate;
    last = failure;
    return true;
  };
  for (const kind of settingsFor(best, seed).faults) await attempt({ ...best, without: [...best.without, kind] });
  const full = settingsFor(best, seed);
  for (let safetyMs = full.safetyMs / 2; safetyMs >= 100; safetyMs /= 2)
    if (!(await attempt({ ...best, safetyMs: Math.round(safetyMs) }))) break;
  for (let writes = full.writesMost / 2; writes >= 1; writes /= 2)
    if (!(await attempt({ ...best, writes: Math.round(writes) }))) break;
  const parts = [
    best.without.length > 0 ? `--without ${best.without.join(',')}` : '',
    best.safetyMs === null ? '' : `--safety ${best.safetyMs}`,
    best.writes === null ? '' : `--writes ${best.writes}`,
  ].filter((part) => part !== '');
  process.stdout.write(`\nsmaller: npm run sim -- --seed ${seed} ${parts.join(' ')}\n  ${last}\n`);
}
