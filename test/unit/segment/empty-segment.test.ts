import { expect, it } from 'vitest';
import { FrameMaker, reignOf } from '../../lib/frame-maker.js';
import { freshHost, localPort, openHost, synced } from '../../lib/replica-setup.js';

it('a segment of which only the header survived is no part of the log', async () => {
  const { disk, host } = await freshHost();
  const { port } = await localPort(host, reignOf(1));
  const maker = new FrameMaker(reignOf(1));
  for (const frame of [maker.next(), maker.seal()])
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
  await synced(port);
  const end = maker.digest.toString('hex');
  const torn = maker.next();
  port.append(torn.segment, torn.offset, torn.bytes, torn.lastSeq);
  const crashed = disk.afterPowerCut(disk.journal.length, (change) => (change.op === 'write' ? [[0, 4096]] : true));
  const again = await localPort((await openHost(crashed)).host, reignOf(2));
  expect(again.status.end).toEqual({ epoch: 1, seq: 2, digest: end });
  expect((await again.port.segments()).map((segment) => segment.ordinal)).toEqual([1]);
});
