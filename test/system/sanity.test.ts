// csi-sanity v5.6.0 against a cluster of real processes, controller and node on endpoints of their own, once with mounted and
// once with block volumes. Every spec but the one its authors switched off has to run and pass. Needs root, /dev/fuse and Go.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../../src/base/index.js';
import { findCsiSanity, runCsiSanity } from '../lib/csi-sanity.js';
import { DevCluster, leftovers } from '../lib/dev-cluster.js';

const here = process.getuid?.() !== 0 ? 'not root' : !existsSync('/dev/fuse') ? 'no /dev/fuse' : '';
const sanity = here === '' ? findCsiSanity() : { missing: here };
const missing = 'missing' in sanity ? sanity.missing : '';
if (missing !== '') process.stderr.write(`\nSKIPPED: csi-sanity cannot run here: ${missing}\n\n`);

const SPECS = 103;
const TIMEOUT_MS = 240_000;
const key = '5c'.repeat(32);
const socketOf = (address: string) => address.replace(/^unix:\/\//, '');

describe.skipIf(missing !== '')('csi-sanity', () => {
  let cluster: DevCluster;
  let workDir: string;

  beforeAll(async () => {
    workDir = mkdtempSync(join(tmpdir(), 'hfsanity-'));
    // One spec attaches as many volumes as a node may have, and one more.
    cluster = await DevCluster.start(['--nodes', '3', '--max-volumes-per-node', '3']);
  });
  afterAll(async () => {
    // Undefined when the cluster did not start: beforeAll says why.
    if (cluster === undefined) return;
    expect(await cluster.stop()).toBe(0);
    expect(leftovers(cluster.dir)).toEqual([]);
    rmSync(cluster.dir, { recursive: true, force: true });
    rmSync(workDir, { recursive: true, force: true });
  });

  it.each(['mount', 'block'] as const)(
    'passes with %s volumes',
    async (accessType) => {
      if (!('path' in sanity)) throw new Error('csi-sanity is missing');
      const ready = cluster.events.find((event) => event.event === 'ready') as unknown as {
        controller: { csi: string };
      };
      const result = await runCsiSanity({
        path: sanity.path,
        workDir: mkdtempSync(join(workDir, `${accessType}-`)),
        controllerSocket: socketOf(ready.controller.csi),
        nodeSocket: socketOf(cluster.nodes[0]!.csi),
        accessType,
        volumeBytes: 64 * MiB,
        expandBytes: 96 * MiB,
        parameters: { replicas: '3', compression: 'lz4', encryption: 'aes-256-gcm' },
        mutableParameters: { maxReadIops: '5000', maxWriteBps: '200Mi' },
        secret: { encryptionKey: key },
        timeoutMs: TIMEOUT_MS - 10_000,
      });
      const { specs, passed, failed, skipped, pending } = result;
      process.stdout.write(
        `csi-sanity ${accessType}: ${specs} specs, ${passed} passed, ${failed} failed, ${skipped} skipped, ${pending} pending\n`,
      );
      expect(result.complaints, cluster.logs()).toEqual([]);
      expect({ specs, passed, failed, skipped, pending }).toEqual({
        specs: SPECS,
        passed: SPECS - 1,
        failed: 0,
        skipped: 0,
        pending: 1,
      });
      const { entries } = await cluster.controller.ListVolumes({});
      expect(entries).toEqual([]);
    },
    TIMEOUT_MS,
  );
});
