import { describe, expect, it } from 'vitest';
import { HoldfastError } from '../../../src/base/index.js';
import { VOLUME_BYTES_MAX } from '../../../src/control/index.js';
import { checkName } from '../../../src/control/names.js';
import { differingParameter, parseClass, parseMutable, resolveClass } from '../../../src/control/parameters.js';
import { chooseSize } from '../../../src/control/size.js';
import { VOLUME_SIZE_MAX } from '../../../src/format/index.js';

const parse = (parameters: Record<string, string>, fsType = '') =>
  parseClass({ parameters, mutableParameters: {}, fsType });

function refusal(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof HoldfastError) return `${error.code}: ${error.message}`;
    throw error;
  }
  throw new Error('accepted, but should have been refused');
}

describe('a storage class', () => {
  it('names the nearest known key for one it does not know', () => {
    expect(refusal(() => parse({ replica: '3' }))).toBe(
      'INVALID_ARGUMENT: unknown parameter "replica"; did you mean replicas?',
    );
    expect(refusal(() => parse({ Compresion: 'lz4' }))).toContain('did you mean compression?');
    expect(refusal(() => parse({ constructor: 'x' }))).toContain('unknown parameter "constructor"');
  });

  it.each([
    ['replicas', '0'],
    ['replicas', '6'],
    ['replicas', '3.0'],
    ['replicas', '-1'],
    ['replicas', ''],
    ['minReplicas', 'two'],
    ['compression', 'gzip'],
    ['compression', 'zstd,lz4'],
    ['encryption', 'true'],
    ['keyProvider', 'vault'],
    ['dataLocality', 'yes'],
    ['fsType', 'ntfs'],
    ['failureDomain', 'a b'],
    ['nodeSelector', 'ssd,,fast'],
    ['mkfsOptions', 'a\nb'],
    ['mountOptions', 'x'.repeat(2000)],
    ['maxReadIops', '-5'],
    ['maxReadBps', '1e400'],
    ['snapshotSchedule', '@daily'],
    ['consistencyGroup', 'db'],
    ['quiesce', 'pg'],
    ['rebuildMaxBps', '1M'],
    ['encrypted', 'yes'],
    ['storageos.com/replicas', '5'],
  ])('refuses %s %s with a sentence that names the key', (key, value) => {
    const said = refusal(() => parse({ [key]: value }));
    expect(said).toMatch(/^INVALID_ARGUMENT: /);
    expect(said).toContain(key);
  });

  it('understands the keys of other drivers and lets reserved ones through', () => {
    expect(parse({ numberOfReplicas: '2' }).explicit.replicas).toBe(2);
    expect(parse({ 'storageos.com/replicas': '2' }).explicit.replicas).toBe(3);
    expect(parse({ encrypted: 'true' }).explicit.encryption).toBe('aes-256-gcm');
    expect(parse({ secure: 'false' }).explicit.encryption).toBe('none');
    expect(parse({ repl: '2' }).notices).toEqual(['parameter repl was understood as replicas']);
    expect(parse({ 'csi.storage.k8s.io/pvc/name': 'x', 'csi.storage.k8s.io/pv/name': 'y' }).explicit).toEqual({});
    expect(refusal(() => parse({ replicas: '3', repl: '2' }))).toContain('replicas');
    expect(refusal(() => parse({ replicas: '1', minReplicas: '2' }))).toContain('minReplicas');
  });

  it('lets the reserved filesystem key win over fsType, and the capability over both', () => {
    expect(parse({ fsType: 'xfs' }).explicit.fsType).toBe('xfs');
    expect(parse({ fsType: 'xfs', 'csi.storage.k8s.io/fstype': 'btrfs' }).explicit.fsType).toBe('btrfs');
    expect(parse({ fsType: 'xfs' }, 'ext4').explicit.fsType).toBe('ext4');
  });

  it('fills in defaults from the cluster', () => {
    const none = parse({});
    expect(resolveClass(none, { usableNodes: 1, zones: 0 }, false)).toMatchObject({
      replicas: 1,
      encryption: 'none',
      fsType: 'ext4',
    });
    expect(resolveClass(none, { usableNodes: 7, zones: 1 }, true)).toMatchObject({
      replicas: 3,
      encryption: 'aes-256-gcm',
      failureDomain: 'node',
    });
    expect(resolveClass(none, { usableNodes: 7, zones: 3 }, false).failureDomain).toBe('topology.kubernetes.io/zone');
    expect(resolveClass(parse({ encryption: 'none' }), { usableNodes: 3, zones: 0 }, true).encryption).toBe('none');
  });

  it('takes every compression that a record can have', () => {
    for (const compression of ['none', 'lz4', 'zstd'] as const)
      expect(resolveClass(parse({ compression }), { usableNodes: 3, zones: 0 }, false).compression).toBe(compression);
  });

  it('compares a repeated request only in what it says', () => {
    const have = resolveClass(parse({ compression: 'none' }), { usableNodes: 3, zones: 0 }, false);
    expect(differingParameter(parse({}), have, {})).toBeUndefined();
    expect(differingParameter(parse({ replicas: '2' }), have, {})).toBe('replicas (has 3, asked for 2)');
    expect(differingParameter(parse({ maxReadIops: '5' }), have, {})).toBe('maxReadIops (has 0, asked for 5)');
  });
});

describe('mutable parameters', () => {
  it('are the limits of the volume, as quantities', () => {
    expect(parseMutable({ maxReadIops: '5k', maxWriteBps: '100Mi' })).toEqual({
      qos: { maxReadIops: 5000, maxWriteBps: 104857600 },
      copies: {},
    });
    expect(parseMutable({ maxReadIops: '0' }).qos).toEqual({ maxReadIops: 0 });
  });

  it('are the numbers of copies, by every name they have', () => {
    expect(parseMutable({ replicas: '2', minReplicas: '2' })).toEqual({
      qos: {},
      copies: { replicas: 2, minReplicas: 2 },
    });
    expect(parseMutable({ numberOfReplicas: '4' }).copies).toEqual({ replicas: 4 });
    expect(refusal(() => parseMutable({ replicas: '6' }))).toContain('from 1 to 5');
  });

  it('refuse what is fixed, with the reason', () => {
    expect(refusal(() => parseMutable({ compression: 'none' }))).toContain('fixed');
    expect(refusal(() => parseMutable({ maxReadIop: '2' }))).toContain('did you mean maxReadIops?');
  });
});

describe('sizes', () => {
  it('are whole blocks within what was asked', () => {
    expect(chooseSize(null)).toBe(1024 ** 3);
    expect(chooseSize({ requiredBytes: 1, limitBytes: 0 })).toBe(1024 ** 2);
    expect(chooseSize({ requiredBytes: 10_000_001, limitBytes: 0 })).toBe(10_002_432);
    expect(chooseSize({ requiredBytes: 0, limitBytes: 5_000_000 })).toBe(4_997_120);
  });

  it.each([
    [0, 0, 'INVALID_ARGUMENT'],
    [-1, 0, 'INVALID_ARGUMENT'],
    [0, -1, 'INVALID_ARGUMENT'],
    [2, 1, 'INVALID_ARGUMENT'],
    [1, 4095, 'OUT_OF_RANGE'],
    [1, 1024 ** 2 - 1, 'OUT_OF_RANGE'],
    [10_000_001, 10_000_001, 'OUT_OF_RANGE'],
    [VOLUME_BYTES_MAX + 1, 0, 'OUT_OF_RANGE'],
    [Number.MAX_SAFE_INTEGER, 0, 'OUT_OF_RANGE'],
  ])('required %d, limit %d is %s', (requiredBytes, limitBytes, code) => {
    expect(refusal(() => chooseSize({ requiredBytes, limitBytes }))).toMatch(new RegExp(`^${code}: `));
  });

  it('end where the disk format ends', () => {
    expect(VOLUME_BYTES_MAX).toBe(VOLUME_SIZE_MAX);
  });
});

describe('names', () => {
  it('are free text of at most 128 bytes', () => {
    for (const name of ['pvc-1', 'a'.repeat(128), 'Größe 😀', 'a/b', 'v..1', 'tab\tis fine'])
      expect(checkName(name, 'name')).toBe(name);
  });

  it.each([
    '',
    'a'.repeat(129),
    'é'.repeat(65),
    'x'.repeat(10_000),
    'a\0b',
    'a\u001bb',
    'a\u0085',
    '../etc',
    'a/../b',
    '..',
    '..\\x',
  ])('refuses one of the bad ones (%#)', (name) => {
    const said = refusal(() => checkName(name, 'volume name'));
    expect(said).toMatch(/^INVALID_ARGUMENT: .*volume name/);
    expect(said.length).toBeLessThan(400);
  });
});
