// Every region of every kind of file, damaged on one replica and on all: repaired, or an error that names the place; never other
// bytes, never a hang. What can't be told from a write that a crash cut short may be cut like one.

import { describe, expect, it, vi } from 'vitest';
import { type Damage, keptFiles, meet, type Outcome } from '../lib/crash/damage.js';
import { bitDamages, fileDamages } from '../lib/crash/damages.js';
import { makeSpecimen, type Specimen } from '../lib/crash/specimen.js';

vi.mock('../../src/format/constants.js', async (original) => ({
  ...(await original<object>()),
  SEGMENT_SIZE_DEFAULT: 192 * 1024,
}));
vi.mock('../../src/engine/limits.js', async (original) => ({
  ...(await original<object>()),
  CHECKPOINT_DIRTY_PAGES: 1,
}));

/** Which replicas: the engine's own, another, all. */
const victimsOf: Record<string, readonly number[]> = {
  'its own replica': [0],
  'another replica': [1],
  'its only replica': [0],
  'all replicas': [0, 1, 2],
};

const specimens = [
  {
    name: 'plain, closed',
    thorough: true,
    encrypted: false,
    ending: 'closed',
    replicas: 3,
    victims: ['another replica', 'all replicas'],
  },
  {
    name: 'plain, open tail',
    thorough: false,
    encrypted: false,
    ending: 'crashed',
    replicas: 3,
    victims: ['its own replica', 'all replicas'],
  },
  {
    name: 'encrypted, closed',
    thorough: false,
    encrypted: true,
    ending: 'closed',
    replicas: 3,
    victims: ['its own replica', 'all replicas'],
  },
  {
    name: 'encrypted, open tail',
    thorough: true,
    encrypted: true,
    ending: 'crashed',
    replicas: 3,
    victims: ['another replica', 'all replicas'],
  },
  {
    name: 'plain, open tail, one replica',
    thorough: false,
    encrypted: false,
    ending: 'crashed',
    replicas: 1,
    victims: ['its only replica'],
  },
] as const;

describe.each(specimens)('damage to a volume: $name', ({ encrypted, ending, replicas, victims, thorough }) => {
  const made = makeSpecimen({ seed: 7, encrypted, ending, replicas }).then((specimen) => {
    specimen.world.forgetPast();
    return specimen;
  });

  it.each(victims)('one bit, on %s', async (victim) => {
    const specimen = await made;
    // One replica takes longer, since it is repaired, and its outcome depends less on the place.
    const every = process.env.HOLDFAST_PLACES === 'all' || (victimsOf[victim]!.length === replicas && thorough);
    const ends = every ? 2 : 1;
    const counts = await meetAll(specimen, bitDamages(specimen, ends), victimsOf[victim]!);
    expect(counts.places).toBeGreaterThan(150);
    if (victimsOf[victim]!.length < replicas) expect(counts.cut).toBe(0);
  });

  it.each(victims)('whole sectors and files, on %s', async (victim) => {
    const specimen = await made;
    const counts = await meetAll(specimen, fileDamages(specimen), victimsOf[victim]!);
    expect(counts.places).toBeGreaterThan(20);
  });
});

async function meetAll(
  specimen: Specimen,
  damages: readonly Damage[],
  victims: readonly number[],
): Promise<Record<Outcome['kind'] | 'places' | 'opened', number>> {
  const counts = { places: damages.length, repaired: 0, reported: 0, cut: 0, opened: 0 };
  const failures: string[] = [];
  const kept = await keptFiles(specimen);
  for (const damage of damages) {
    try {
      const outcome = await meet(specimen, damage, victims, kept);
      counts[outcome.kind]++;
      if (outcome.opened) counts.opened++;
    } catch (error) {
      failures.push(`${damage.what}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  console.log(
    `${expect.getState().currentTestName}: ${counts.places} places: ${counts.repaired} repaired, ${counts.reported} reported, ${counts.cut} cut as a torn tail; ${counts.opened} times the volume opened`,
  );
  expect(failures.slice(0, 5), `${failures.length} of ${damages.length}`).toEqual([]);
  return counts;
}
