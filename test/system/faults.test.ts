// The short form of `npm run faults`: real processes in network namespaces on small disks, a verified load and SQLite on a mounted
// volume, and one each of the faults that take the longest ways through membership and recovery. No bounds on pauses: this machine may
// be busy with other things.

import { beforeEach, describe, expect, it } from 'vitest';
import { runFaults } from '../faults/run.js';
import { missingFor } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'mount', 'umount', 'findmnt', 'mkfs.ext4', 'mkfs.xfs', 'e2fsck', 'xfs_io']);
if (reason !== '') process.stderr.write(`faults.test.ts is SKIPPED: ${reason}\n`);

const kinds = [
  'kill -9 storage daemon, again',
  'kill -9 all storage daemons',
  'kill -9 controller',
  'bridge',
  'restart storage daemon',
  'SIGSTOP storage daemon',
  'partition, one way',
  'connections reset',
  "power cut of a node's disk",
  'power cut of all nodes',
  'node lost',
  'rolled back under a closed volume',
  'bits of a replica',
];

describe('a cluster under faults', () => {
  beforeEach((context) => context.skip(reason !== '', reason));

  it('loses nothing that was acknowledged and is whole at the end', { timeout: 300_000 }, async () => {
    const result = await runFaults(
      {
        ...{ nodes: 3, faults: kinds.length, minutes: 3, seed: 20_261_122, network: '', only: kinds },
        ...{ slack: Number.POSITIVE_INFINITY, light: true, verbose: true },
      },
      (text) => process.stderr.write(`${text}\n`),
      new AbortController().signal,
    );
    expect(result.violations).toEqual([]);
    expect(result.faults).toBe(kinds.length);
    expect(result.acknowledged).toBeGreaterThan(500);
  });
});
