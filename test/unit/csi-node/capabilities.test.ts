// Each capability that the Node service advertises has a scenario here, and each scenario is run once more with each of its
// calls replaced by an empty success: it has to notice.

import { afterEach, describe, expect, it } from 'vitest';
import { nodeA, volumeId, volumeRecord } from '../agent/fakes.js';
import { FakeNode } from './fakes.js';

type Mode = 'SINGLE_NODE_WRITER' | 'SINGLE_NODE_MULTI_WRITER';
const open: FakeNode[] = [];
afterEach(async () => {
  for (const node of open.splice(0)) await node.stop();
});

async function start(emptied: readonly string[] = []) {
  const node = new FakeNode();
  open.push(node);
  const client = await node.serve(emptied);
  await node.put(volumeRecord());
  const at = { staging_target_path: node.path('staging'), volume_id: volumeId };
  const capability = (mode: Mode) => ({ access_mode: { mode }, mount: { fs_type: 'ext4', mount_flags: [] } });
  const target = (name: string) => node.path(name);
  return {
    node,
    client,
    target,
    stage: (mode: Mode = 'SINGLE_NODE_WRITER') =>
      client.NodeStageVolume({ ...at, volume_capability: capability(mode) }),
    unstage: () => client.NodeUnstageVolume(at),
    publish: (name: string, mode: Mode = 'SINGLE_NODE_WRITER') =>
      client.NodePublishVolume({ ...at, target_path: target(name), volume_capability: capability(mode) }),
    unpublish: (name: string) => client.NodeUnpublishVolume({ volume_id: volumeId, target_path: target(name) }),
    mounted: () => node.mounts.map((mount) => mount.target),
  };
}
type Bench = Awaited<ReturnType<typeof start>>;

const scenarios: Record<string, { calls: readonly string[]; run: (bench: Bench) => Promise<void> }> = {
  STAGE_UNSTAGE_VOLUME: {
    calls: ['NodeStageVolume', 'NodePublishVolume', 'NodeUnpublishVolume', 'NodeUnstageVolume'],
    async run({ node, stage, unstage, publish, unpublish, mounted, target }) {
      await stage();
      expect(node.devices.size).toBe(1);
      expect(mounted()).toEqual([node.path('staging')]);
      await publish('pod');
      expect(mounted()).toEqual([node.path('staging'), target('pod')]);
      await unpublish('pod');
      expect(mounted()).toEqual([node.path('staging')]);
      await unstage();
      expect([mounted(), node.devices.size]).toEqual([[], 0]);
    },
  },
  GET_VOLUME_STATS: {
    calls: ['NodeGetVolumeStats'],
    async run({ client, stage, publish, target }) {
      await stage();
      await publish('pod');
      const { usage } = await client.NodeGetVolumeStats({ volume_id: volumeId, volume_path: target('pod') });
      expect(usage.map((one) => [one.unit, one.total])).toEqual([
        ['BYTES', 100],
        ['INODES', 10],
      ]);
    },
  },
  EXPAND_VOLUME: {
    calls: ['NodeExpandVolume'],
    async run({ node, client, stage, publish, target }) {
      await stage();
      await publish('pod');
      await node.put({ ...(await node.record(volumeId)), sizeBytes: 8 << 20 });
      const range = { required_bytes: 8 << 20 };
      await client.NodeExpandVolume({ volume_id: volumeId, volume_path: target('pod'), capacity_range: range });
      expect(node.log).toContain(`grow ${8 << 20}`);
      expect(node.log.at(-1)).toBe('growMounted ext4');
    },
  },
  SINGLE_NODE_MULTI_WRITER: {
    calls: ['NodePublishVolume'],
    async run({ stage, publish, mounted, target }) {
      await stage('SINGLE_NODE_MULTI_WRITER');
      await publish('one', 'SINGLE_NODE_MULTI_WRITER');
      await publish('two', 'SINGLE_NODE_MULTI_WRITER');
      expect(mounted()).toEqual(expect.arrayContaining([target('one'), target('two')]));
    },
  },
  GET_VOLUME_HEALTH: {
    calls: ['NodeGetVolumeHealth'],
    async run({ node, client, stage }) {
      await stage();
      const device = node.devices.get(volumeId)!;
      device.status = { ...device.status, state: 'failed', lastError: 'another node has it' };
      const { volume_health } = await client.NodeGetVolumeHealth({ volume_id: volumeId });
      expect(volume_health?.health_statuses).toMatchObject([{ status: 'INACCESSIBLE' }]);
    },
  },
  GET_STORAGE_HEALTH: {
    calls: ['NodeGetStorageHealth'],
    async run({ client }) {
      const { backend_health } = await client.NodeGetStorageHealth({});
      expect(backend_health).toMatchObject([{ status: 'STORAGE_DEGRADED' }]);
    },
  },
};

describe('each advertised node capability', () => {
  it('has a scenario', async () => {
    const { client } = await start();
    const advertised = (await client.NodeGetCapabilities({})).capabilities.map((one) => one.rpc?.type);
    expect(advertised.sort()).toEqual(Object.keys(scenarios).sort());
    expect((await client.NodeGetInfo({})).node_id).toBe(nodeA);
  });
  it.each(['NodeGetCapabilities', 'NodeGetInfo'])('%s that says nothing is noticed', async (call) => {
    const { client } = await start([call]);
    const answers = [
      (await client.NodeGetCapabilities({})).capabilities.length > 0,
      (await client.NodeGetInfo({})).node_id !== '',
    ];
    expect(answers).toContain(false);
  });
  for (const [capability, { calls, run }] of Object.entries(scenarios)) {
    it(`${capability} does what it says`, async () => {
      await run(await start());
    });
    it.each(calls)(`${capability} is missed when %s is an empty success`, async (call) => {
      await expect(run(await start([call]))).rejects.toThrow();
    });
  }
});
