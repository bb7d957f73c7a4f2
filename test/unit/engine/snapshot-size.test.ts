import { expect, it } from 'vitest';
import type { SnapshotId } from '../../../src/base/index.js';
import { EngineRig } from '../../lib/engine-rig.js';

it('a snapshot keeps its size when the volume grew and the log is replayed from its beginning', async () => {
  const rig = new EngineRig(1);
  const snapshotId = '50000000-0000-4000-8000-000000000001' as SnapshotId;
  const engine = await rig.open();
  await engine.freeze({ snapshotId, groupId: null, holdToken: null });
  await engine.resize(rig.options.sizeBytes + 4096);
  engine.depose('test');
  const again = await rig.open();
  expect(again.sizeBytes).toBe(rig.options.sizeBytes + 4096);
  const changed = await again.changed({ base: null, target: snapshotId, startingOffset: 0, maxResults: 1 });
  expect(changed.volumeSizeBytes).toBe(rig.options.sizeBytes);
});
