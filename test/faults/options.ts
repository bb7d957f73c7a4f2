// Command line of `npm run faults`.

import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';

export const usage = `npm run faults -- [flags]: a cluster of real processes under load and random faults

  --nodes 3|5       nodes of the cluster (3)
  --faults N        how many (60)
  --minutes M       no new fault after so long (unlimited)
  --seed S          repeats a run's choice of faults; printed by each
  --network KIND    namespaces or proxy (namespaces where they can be had)
  --only TEXT       kinds whose name holds it; repeatable
  --limits KIND     of pauses: strict (design and issue), loose (five times that) or none (strict)
  --light           fewer loads, for a short run
  --verbose         the last lines of every log when it fails
`;

export interface Options {
  readonly nodes: number;
  readonly faults: number;
  readonly minutes: number;
  readonly seed: number;
  /** Empty: what can be had. */
  readonly network: '' | 'namespaces' | 'proxy';
  readonly only: readonly string[];
  /** What limits are multiplied by. */
  readonly slack: number;
  readonly light: boolean;
  readonly verbose: boolean;
}

const slacks: Readonly<Record<string, number>> = { strict: 1, loose: 5, none: Number.POSITIVE_INFINITY };

/** Throws for people. */
export function parseOptions(argv: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      nodes: { type: 'string', default: '3' },
      faults: { type: 'string', default: '60' },
      minutes: { type: 'string', default: '1e9' },
      seed: { type: 'string', default: String(randomInt(1, 2 ** 31)) },
      network: { type: 'string', default: '' },
      only: { type: 'string', multiple: true, default: [] },
      limits: { type: 'string', default: 'strict' },
      light: { type: 'boolean', default: false },
      verbose: { type: 'boolean', default: false },
    },
  });
  const number = (name: 'nodes' | 'faults' | 'minutes' | 'seed', min: number, max: number): number => {
    const value = Number(values[name]);
    if (value >= min && value <= max) return value;
    throw new Error(`--${name} must be from ${min} to ${max}, not ${values[name]}`);
  };
  const { network } = values;
  if (network !== '' && network !== 'namespaces' && network !== 'proxy')
    throw new Error(`--network must be namespaces or proxy, not ${network}`);
  const slack = slacks[values.limits];
  if (slack === undefined) throw new Error(`--limits must be ${Object.keys(slacks).join(', ')}, not ${values.limits}`);
  return {
    nodes: number('nodes', 3, 9),
    faults: number('faults', 1, 100_000),
    minutes: number('minutes', 0.1, 1e9),
    seed: number('seed', 0, 2 ** 32),
    network,
    only: values.only,
    slack,
    light: values.light,
    verbose: values.verbose,
  };
}
