// The text of a StorageClass: understood or refused with INVALID_ARGUMENT; what was understood is within its range, and fits the
// record that it goes into.

import { HoldfastError } from '../../../src/base/index.js';
import { parseClass, parseMutable, resolveClass } from '../../../src/control/parameters.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

const classes: readonly Record<string, string>[] = [
  { replicas: '3', minReplicas: '2', compression: 'lz4', encryption: 'aes-256-gcm', fsType: 'xfs' },
  { numberOfReplicas: '2', dataLocality: 'best-effort', diskSelector: 'ssd,fast', nodeSelector: 'storage' },
  {
    failureDomain: 'topology.kubernetes.io/zone',
    mkfsOptions: '-E nodiscard -b 4096',
    mountOptions: 'noatime,discard',
  },
  { maxReadIops: '1000', maxWriteIops: '500', maxReadBps: '100Mi', maxWriteBps: '1G', replicas: '1' },
  {
    'csi.storage.k8s.io/fstype': 'ext4',
    'csi.storage.k8s.io/pvc/name': 'data',
    compression: 'zstd',
    keyProvider: 'secret',
  },
];
const values = [
  '',
  '0',
  '-1',
  '1',
  '5',
  '6',
  '3.5',
  '1e3',
  '0x3',
  '٣',
  ' 3',
  '3 ',
  '99999999999999999999',
  '1Ki',
  '16Ei',
  'true',
];
const odd = [
  'none',
  'LZ4',
  '../x',
  '-o exec',
  '; rm -rf /',
  '$(id)',
  'a,b,,c',
  ',',
  '\0',
  '\n',
  '--',
  '-F',
  'ssd',
  'a'.repeat(5000),
];
const keys = [
  '__proto__',
  'constructor',
  'toString',
  'Replicas',
  'replica',
  '',
  'csi.storage.k8s.io/',
  'x'.repeat(300),
  'hasOwnProperty',
];

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const controls = /[\x00-\x1f]/;

type Pairs = [string, string][];

class ParameterBench implements FuzzBench {
  readonly seeds = classes.map((parameters) => Buffer.from(JSON.stringify(Object.entries(parameters))));
  readonly #keys = [...new Set(classes.flatMap((parameters) => Object.keys(parameters)))];

  mutate(input: Buffer, chance: Chance): Buffer {
    const pairs = JSON.parse(input.toString()) as Pairs;
    for (let i = chance.between(1, 4); i > 0; i--) {
      const pair: [string, string] = [
        chance.pick(chance.hit(0.7) ? this.#keys : keys),
        chance.pick([...values, ...odd]),
      ];
      const at = chance.below(pairs.length + 1);
      if (chance.hit(0.3) || at === pairs.length) pairs.splice(at, 0, pair);
      else if (chance.hit(0.2)) pairs.splice(at, 1);
      else pairs[at] = [pairs[at]![0], pair[1]];
    }
    return Buffer.from(JSON.stringify(pairs.slice(0, 30)));
  }

  run(input: Buffer): string {
    const parameters = Object.fromEntries(JSON.parse(input.toString()) as Pairs);
    return `${judged(() => understood(parameters))} / ${judged(() => changeable(parameters))}`;
  }

  async close(): Promise<void> {}
}

function judged(work: () => string): string {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    must(error.code === 'INVALID_ARGUMENT', () => `refused with ${error.code}: ${error.message}`);
    must(error.message.length < 1200, () => `a sentence of ${error.message.length} characters`);
    must(!controls.test(error.message), () => `control characters in ${JSON.stringify(error.message)}`);
    return error.message.replaceAll(/"[^"]*"|\d+/g, '#').slice(0, 60);
  }
}

function understood(parameters: Record<string, string>): string {
  const parsed = parseClass({ parameters, mutableParameters: {}, fsType: '' });
  const full = resolveClass(parsed, { usableNodes: 3, zones: 0 }, false);
  must(full.replicas >= 1 && full.replicas <= 5 && full.minReplicas >= 1 && full.minReplicas <= full.replicas, () =>
    JSON.stringify(full),
  );
  must(['none', 'lz4', 'zstd'].includes(full.compression), () => `compression ${full.compression}`);
  must(['none', 'aes-256-gcm', 'chacha20-poly1305'].includes(full.encryption), () => `encryption ${full.encryption}`);
  must(['ext4', 'xfs', 'btrfs'].includes(full.fsType), () => `filesystem ${full.fsType}`);
  // No shell ever sees these.
  for (const text of [full.mkfsOptions, full.mountOptions])
    must(typeof text === 'string' && !controls.test(text), () => `took ${JSON.stringify(text)}`);
  for (const tag of [...parsed.nodeSelector, ...parsed.diskSelector])
    must(/^[\w./-]{1,63}$/.test(tag), () => `took the tag ${JSON.stringify(tag)}`);
  return `replicas ${full.replicas} ${limits(parsed.qos)}`;
}

function changeable(parameters: Record<string, string>): string {
  const { qos, copies } = parseMutable(parameters);
  for (const count of Object.values(copies))
    must(Number.isInteger(count) && count >= 1 && count <= 5, `${count} copies`);
  return `${limits(qos)} ${Object.keys(copies).sort().join()}`;
}

function limits(qos: object): string {
  for (const value of Object.values(qos))
    must(Number.isSafeInteger(value) && (value as number) >= 0, () => `a limit of ${String(value)}`);
  return Object.keys(qos).sort().join();
}

export const parameters: FuzzTarget = {
  name: 'parameters',
  sources: ['control/parameters', 'control/class-keys', 'control/nearest-key'],
  open: async () => new ParameterBench(),
};
