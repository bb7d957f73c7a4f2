// Disks that another release has written to: this one opens what it knows, and refuses the rest with both numbers, what to do, and not
// a byte changed.

import { beforeAll, expect, it } from 'vitest';
import { crc32c, type HoldfastError } from '../../../src/base/index.js';
import { Pool } from '../../../src/segment/index.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { type NextRelease, nextRelease } from '../../lib/next-version.js';
import type { RecordingDisk } from '../../lib/recording-disk.js';
import { freshHost, localPort, openHost, synced } from '../../lib/replica-setup.js';

const directory = `/pool/replicas/${volumeA}`;
let reader: NextRelease;
let writer: NextRelease;
beforeAll(async () => {
  reader = await nextRelease({});
  writer = await nextRelease({ writes: 2 });
});

/** A replica with two segments; what `release` appends last is of its format. */
async function written(release: Pick<NextRelease, 'setup' | 'frames'> = writer): Promise<RecordingDisk> {
  const { disk, host, pool } = await freshHost();
  const maker = new FrameMaker(reignOf(1));
  const { port } = await localPort(host, reignOf(1));
  for (const { segment, offset, bytes, lastSeq } of [maker.next(), maker.next(), maker.seal()])
    port.append(segment, offset, bytes, lastSeq);
  await synced(port);
  await host.close();
  pool.close();
  const again = disk.afterKill(disk.journal.length);
  const opened = await release.setup.openHost(again);
  const next = await release.setup.localPort(opened.host, reignOf(2));
  const newer = new release.frames.FrameMaker(reignOf(2), maker);
  for (const { segment, offset, bytes, lastSeq } of [newer.next(), newer.next()])
    next.port.append(segment, offset, bytes, lastSeq);
  await release.setup.synced(next.port);
  await opened.host.close();
  opened.pool.close();
  return again.afterKill(again.journal.length);
}

/** What this release says, having changed nothing. */
async function refusal(disk: RecordingDisk): Promise<string> {
  const { host, pool } = await openHost(disk);
  const before = disk.fingerprint();
  const error = await localPort(host, reignOf(3)).then(
    () => expect.fail('it was opened'),
    (thrown: HoldfastError) => thrown,
  );
  expect([error.code, error.reason]).toEqual(['FAILED_PRECONDITION', 'UnknownVersion']);
  expect(disk.fingerprint()).toBe(before);
  await host.close();
  pool.close();
  return error.message;
}

/** This release's own replica, with some of the newer one's bytes. */
async function mixed(
  names: (name: string) => boolean,
  change: (bytes: Buffer) => Buffer = (bytes) => bytes,
): Promise<RecordingDisk> {
  const ours = await written({
    setup: await import('../../lib/replica-setup.js'),
    frames: await import('../../lib/frame-maker.js'),
  } as never);
  const theirs = await written();
  for (const name of ours.list(directory).filter(names))
    ours.overwrite(`${directory}/${name}`, change(theirs.contents(`${directory}/${name}`)));
  return ours;
}

it('a release that only reads the next format works on this one and on that', async () => {
  for (const disk of [await written(reader), await written(writer)]) {
    const { host, pool } = await reader.setup.openHost(disk);
    const { status, port } = await reader.setup.localPort(host, reignOf(3));
    expect([status.damage, status.end.seq]).toEqual([null, 5]);
    port.close();
    await host.close();
    pool.close();
  }
  // It has written nothing that this release does not read.
  const { host, pool } = await openHost(await written(reader));
  expect((await localPort(host, reignOf(3))).status).toMatchObject({ damage: null, end: { seq: 5 } });
  await host.close();
  pool.close();
});

it('a superblock of the next format is refused, also beside a good one of this', async () => {
  const sentence =
    /superblock\.\d is of version 2, this program knows version 1: use a release of Holdfast that knows version 2.*nothing was changed/;
  expect(await refusal(await written())).toMatch(sentence);
  for (const slot of ['superblock.0', 'superblock.1'])
    expect(await refusal(await mixed((name) => name === slot))).toMatch(sentence);
});

it('a segment of the next format is refused, and none of it is cut off as if a crash had left it', async () => {
  expect(await refusal(await mixed((name) => name.startsWith('000000000002')))).toMatch(
    /disk format of .*000000000002-\w+\.seg is of version 2/,
  );
});

it('so is a segment of this format with frames of the next', async () => {
  const first = (
    await written({
      setup: await import('../../lib/replica-setup.js'),
      frames: await import('../../lib/frame-maker.js'),
    } as never)
  ).contents(`${directory}/000000000002-00000002.seg`);
  const disk = await mixed(
    (name) => name.startsWith('000000000002'),
    (bytes) => Buffer.concat([first.subarray(0, 4096), bytes.subarray(4096)]),
  );
  expect(await refusal(disk)).toMatch(/frame at 4096 of .*000000000002-\w+\.seg is of version 2/);
});

it('a pool of another format is refused before anything in it is tidied up', async () => {
  const disk = await written(reader);
  const { crc32c: _, ...body } = JSON.parse(disk.contents('/pool/pool.json').toString()) as Record<string, unknown>;
  const changed = { ...body, format: 2 };
  const checksum = crc32c(Buffer.from(JSON.stringify(changed)))
    .toString(16)
    .padStart(8, '0');
  disk.overwrite('/pool/pool.json', Buffer.from(JSON.stringify({ ...changed, crc32c: checksum })));
  const before = disk.fingerprint();
  const error = await Pool.open(disk, '/pool', { nodeId: 'node-a' as never, exclusive: true }).catch(
    (thrown: HoldfastError) => thrown,
  );
  expect(error).toMatchObject({
    reason: 'UnknownVersion',
    message: expect.stringMatching(/pool\.json is of version 2, this program knows version 1/),
  });
  expect(disk.fingerprint()).toBe(before);
});
