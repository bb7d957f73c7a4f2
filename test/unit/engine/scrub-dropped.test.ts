// A segment whose files are being deleted is no damage: it leaves the table only some time later.

import { expect, it } from 'vitest';
import { HoldfastError, realClock, silentLogger } from '../../../src/base/index.js';
import type { ReplicaPort } from '../../../src/engine/replica-port.js';
import { Scrubber } from '../../../src/engine/scrubber.js';
import { SegmentTable } from '../../../src/engine/segment-table.js';

function scrubberOf(whileRead: (segment: { dropped: boolean }) => void) {
  const table = new SegmentTable();
  const segment = table.open(1, 1);
  segment.length = 4096;
  segment.closed = true;
  const gone = new HoldfastError('NOT_FOUND', 'there is no such segment');
  const port = {
    nodeId: 'n0',
    read: (_: unknown, done: (error: Error | null) => void) => {
      whileRead(segment);
      done(gone);
    },
  } as unknown as ReplicaPort;
  const parts = { table, references: () => 1, sources: () => [port], closed: () => false };
  return { scrubber: new Scrubber({ ...parts, clock: realClock, logger: silentLogger }), segment };
}

it('takes a segment that was dropped while it was read for no damage', async () => {
  const { scrubber } = scrubberOf((segment) => {
    segment.dropped = true;
  });
  expect((await scrubber.pass()).damage).toEqual([]);
});

it('does not look at one that was dropped before', async () => {
  const { scrubber, segment } = scrubberOf(() => expect.unreachable('it was read'));
  segment.dropped = true;
  expect(await scrubber.pass()).toEqual({ verifiedBytes: 0, repairs: 0, damage: [] });
  expect(scrubber.segments).toBe(0);
});

it('reports one that is gone and was not dropped', async () => {
  const { scrubber } = scrubberOf(() => {});
  expect((await scrubber.pass()).damage.join()).toContain('no replica has an intact copy');
});
