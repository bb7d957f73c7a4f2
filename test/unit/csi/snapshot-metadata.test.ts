// csi.v1.SnapshotMetadata over a real gRPC connection, with fake daemons whose answers are short and end in the middle of extents.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HoldfastError, MiB, realClock, silentLogger } from '../../../src/base/index.js';
import { snapshotMetadataService } from '../../../src/csi/index.js';
import { type Client, createClient, createServer, type csi, csiServices } from '../../../src/rpc/index.js';
import { TestCluster } from '../control/cluster.js';

type Message = csi.GetMetadataAllocatedResponse__Output;
type Range = readonly [offset: number, bytes: number];

const BLOCKS = 512;
const SIZE = BLOCKS * 4096;
let cluster: TestCluster;
let client: Client<csi.SnapshotMetadataDefinition, csi.SnapshotMetadataHandlers>;
let volumeId: string;
let close: () => Promise<void>;

beforeEach(async () => {
  cluster = await TestCluster.make();
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-csi-metadata-'));
  const address = `unix://${folder}/csi.sock`;
  const services = [snapshotMetadataService(cluster.control)];
  const server = await createServer({ address, services, logger: silentLogger, clock: realClock });
  client = createClient(address, csiServices.snapshotMetadata(), { clock: realClock });
  close = async () => {
    client.close();
    await server.close(0);
    rmSync(folder, { recursive: true });
  };
  volumeId = await makeVolume('v');
});
afterEach(() => close());

async function makeVolume(name: string): Promise<string> {
  return (await cluster.create(name, { range: { requiredBytes: 2 * MiB, limitBytes: 0 } })).id;
}

let writes = 0;
function write(...ranges: readonly (readonly [block: number, count: number])[]): void {
  const { blocks } = cluster.daemons.volumes.get(volumeId)!;
  for (const [first, count] of ranges) for (let i = 0; i < count; i++) blocks.set(first + i, ++writes);
}

const snapshot = async (name: string, id = volumeId): Promise<string> =>
  (await cluster.control.snapshots.create(name, id)).id;

async function all(stream: AsyncIterable<Message>): Promise<Message[]> {
  const messages: Message[] = [];
  for await (const message of stream) messages.push(message);
  return messages;
}

const rangesOf = (messages: readonly Message[]): Range[] =>
  messages.flatMap((message) => message.block_metadata.map((one) => [one.byte_offset, one.size_bytes] as const));
const inBlocks = (ranges: readonly Range[]) => ranges.map(([offset, bytes]) => [offset / 4096, bytes / 4096]);

async function codeOf(stream: AsyncIterable<Message>): Promise<string> {
  try {
    await all(stream);
    return 'OK';
  } catch (error) {
    if (error instanceof HoldfastError) return error.code;
    throw error;
  }
}

describe('GetMetadataAllocated', () => {
  it('names what the snapshot holds, whatever was written since, in messages of bounded length', async () => {
    write([0, 1], [3, 200], [210, 1], [212, 1], [214, 1], [216, 1], [218, 1], [220, 1], [511, 1]);
    const snapshot_id = await snapshot('s');
    write([300, 5]);
    const whole = await all(client.GetMetadataAllocated({ snapshot_id }));
    expect(whole.map((one) => [one.block_metadata_type, one.volume_capacity_bytes])).toEqual([
      ['VARIABLE_LENGTH', SIZE],
    ]);
    const wanted = [
      [0, 1],
      [3, 200],
      [210, 1],
      [212, 1],
      [214, 1],
      [216, 1],
      [218, 1],
      [220, 1],
      [511, 1],
    ];
    expect(inBlocks(rangesOf(whole))).toEqual(wanted);
    for (const max_results of [1, 2, 4]) {
      const messages = await all(client.GetMetadataAllocated({ snapshot_id, max_results }));
      expect(rangesOf(messages)).toEqual(rangesOf(whole));
      expect(messages.map((one) => one.block_metadata.length)).toEqual(
        Array.from({ length: Math.ceil(9 / max_results) }, (_, i) => Math.min(max_results, 9 - i * max_results)),
      );
      expect(new Set(messages.map((one) => `${one.block_metadata_type} ${one.volume_capacity_bytes}`)).size).toBe(1);
    }
  });

  it('goes on from any point with what a whole answer holds behind it', async () => {
    write([0, 1], [3, 130], [140, 1], [142, 1], [200, 312]);
    const snapshot_id = await snapshot('s');
    const whole = rangesOf(await all(client.GetMetadataAllocated({ snapshot_id })));
    for (let cut = 0; cut <= whole.length; cut++) {
      const last = whole[cut - 1];
      const starting_offset = last === undefined ? 0 : last[0] + last[1];
      const rest = rangesOf(await all(client.GetMetadataAllocated({ snapshot_id, starting_offset, max_results: 2 })));
      expect([...whole.slice(0, cut), ...rest]).toEqual(whole);
    }
    // In the middle of a block of a range: nothing ends before it, and nothing behind it is missed.
    const starting_offset = 50 * 4096 + 17;
    const rest = rangesOf(await all(client.GetMetadataAllocated({ snapshot_id, starting_offset })));
    expect(rest[0]![0] + rest[0]![1]).toBe(133 * 4096);
    expect(rest[0]![0]).toBeLessThanOrEqual(starting_offset);
    expect(rest.slice(1)).toEqual(whole.slice(2));
  });

  it('says of an empty snapshot how large it is', async () => {
    const snapshot_id = await snapshot('s');
    const empty = { block_metadata_type: 'VARIABLE_LENGTH', volume_capacity_bytes: SIZE, block_metadata: [] };
    expect(await all(client.GetMetadataAllocated({ snapshot_id }))).toEqual([empty]);
    expect(await all(client.GetMetadataAllocated({ snapshot_id, starting_offset: SIZE }))).toEqual([empty]);
  });

  it('keeps the size that the snapshot had when the volume grows', async () => {
    const before = await snapshot('before');
    await cluster.control.volumes.expand(volumeId, { requiredBytes: 4 * MiB, limitBytes: 0 });
    cluster.daemons.volumes.get(volumeId)!.sizeBytes = 4 * MiB;
    write([1000, 2]);
    const after = await snapshot('after');
    const sizes = async (snapshot_id: string) =>
      (await all(client.GetMetadataAllocated({ snapshot_id }))).map((one) => one.volume_capacity_bytes);
    expect(await sizes(before)).toEqual([2 * MiB]);
    expect(await sizes(after)).toEqual([4 * MiB]);
    expect(await codeOf(client.GetMetadataAllocated({ snapshot_id: before, starting_offset: 3 * MiB }))).toBe(
      'OUT_OF_RANGE',
    );
    const delta = await all(client.GetMetadataDelta({ base_snapshot_id: before, target_snapshot_id: after }));
    expect(delta.map((one) => one.volume_capacity_bytes)).toEqual([4 * MiB]);
    expect(inBlocks(rangesOf(delta))).toEqual([[1000, 2]]);
  });

  it('asks the engine for more only when the caller takes more, and stops when the caller does', async () => {
    write(...Array.from({ length: BLOCKS / 2 }, (_, i) => [2 * i, 1] as const));
    const snapshot_id = await snapshot('s');
    cluster.daemons.calls.length = 0;
    const asked = () => cluster.daemons.calls.filter((call) => call.startsWith('Changed')).length;
    for await (const message of client.GetMetadataAllocated({ snapshot_id, max_results: 1 })) {
      expect(message.block_metadata).toHaveLength(1);
      break;
    }
    await realClock.sleep(50);
    // gRPC's own window takes some of these small messages; 256 of them are not even 10 KB.
    expect(asked()).toBeLessThanOrEqual(256 / 5 + 1);
    const parts = cluster.control.changedBlocks.list(
      { baseId: null, targetId: snapshot_id, startingOffset: 0, maxResults: 1 },
      new AbortController().signal,
    );
    cluster.daemons.calls.length = 0;
    for (let i = 0; i < 4; i++) expect((await parts.next()).value.extents).toHaveLength(1);
    expect(asked()).toBe(1);
    await parts.return(undefined);
    const aborted = new AbortController();
    const cut = cluster.control.changedBlocks.list(
      { baseId: null, targetId: snapshot_id, startingOffset: 0, maxResults: 1 },
      aborted.signal,
    );
    await cut.next();
    aborted.abort(new HoldfastError('CANCELLED', 'enough'));
    await expect(
      (async () => {
        for await (const _ of cut);
      })(),
    ).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('GetMetadataDelta', () => {
  it('names what was written or cleared between the two, and nothing else', async () => {
    write([0, 10], [100, 100]);
    const one = await snapshot('one');
    write([4, 2], [150, 100]);
    for (let block = 100; block < 110; block++) cluster.daemons.volumes.get(volumeId)!.blocks.delete(block);
    const two = await snapshot('two');
    write([0, 1]);
    const delta = await all(client.GetMetadataDelta({ base_snapshot_id: one, target_snapshot_id: two }));
    expect(inBlocks(rangesOf(delta))).toEqual([
      [4, 2],
      [100, 10],
      [150, 100],
    ]);
    const starting_offset = 110 * 4096;
    const rest = { base_snapshot_id: one, target_snapshot_id: two, starting_offset, max_results: 1 };
    expect(inBlocks(rangesOf(await all(client.GetMetadataDelta(rest))))).toEqual([[150, 100]]);
    const three = await snapshot('three');
    const four = await snapshot('four');
    const nothing = await all(client.GetMetadataDelta({ base_snapshot_id: three, target_snapshot_id: four }));
    expect(rangesOf(nothing)).toEqual([]);
  });
});

it('refuses what it must, with the code of the specification', async () => {
  write([0, 10]);
  const one = await snapshot('one');
  const two = await snapshot('two');
  const other = await snapshot('other', await makeVolume('w'));
  const gone = await snapshot('gone');
  await cluster.control.snapshots.delete(gone);
  const none = '../../etc/passwd';
  const allocated = (request: csi.GetMetadataAllocatedRequest) => client.GetMetadataAllocated(request);
  const delta = (base_snapshot_id: string, target_snapshot_id: string, more: csi.GetMetadataDeltaRequest = {}) =>
    client.GetMetadataDelta({ base_snapshot_id, target_snapshot_id, ...more });
  const calls: [AsyncIterable<Message>, string][] = [
    [allocated({}), 'INVALID_ARGUMENT'],
    [allocated({ snapshot_id: 'x'.repeat(1_000) }), 'INVALID_ARGUMENT'],
    [allocated({ snapshot_id: one, max_results: -1 }), 'INVALID_ARGUMENT'],
    [allocated({ snapshot_id: none }), 'NOT_FOUND'],
    [allocated({ snapshot_id: gone }), 'NOT_FOUND'],
    [allocated({ snapshot_id: volumeId }), 'NOT_FOUND'],
    [allocated({ snapshot_id: one, starting_offset: -1 }), 'OUT_OF_RANGE'],
    [allocated({ snapshot_id: one, starting_offset: SIZE + 1 }), 'OUT_OF_RANGE'],
    [allocated({ snapshot_id: one, starting_offset: Number.MAX_SAFE_INTEGER }), 'OUT_OF_RANGE'],
    [allocated({ snapshot_id: one, starting_offset: SIZE, secrets: { key: 'x' } }), 'OK'],
    [delta('', two), 'INVALID_ARGUMENT'],
    [delta(one, ''), 'INVALID_ARGUMENT'],
    [delta(two, one), 'INVALID_ARGUMENT'],
    [delta(one, one), 'INVALID_ARGUMENT'],
    [delta(one, other), 'INVALID_ARGUMENT'],
    [delta(one, two, { max_results: -1 }), 'INVALID_ARGUMENT'],
    [delta(none, two), 'NOT_FOUND'],
    [delta(one, gone), 'NOT_FOUND'],
    [delta(gone, two), 'NOT_FOUND'],
    [delta(one, two, { starting_offset: -1 }), 'OUT_OF_RANGE'],
    [delta(one, two, { starting_offset: SIZE + 1 }), 'OUT_OF_RANGE'],
    [delta(one, two, { starting_offset: SIZE }), 'OK'],
  ];
  const codes: string[] = [];
  for (const [stream] of calls) codes.push(await codeOf(stream));
  expect(codes).toEqual(calls.map(([, code]) => code));
});

it('ends with an error, never as if complete, when the snapshot goes or the engine can’t be reached on the way', async () => {
  write(...Array.from({ length: 100 }, (_, i) => [3 * i, 1] as const));
  const snapshot_id = await snapshot('s');
  const record = await cluster.control.volumes.get(volumeId);
  let answers = 0;
  cluster.daemons.hook = (call, _node, when) => {
    if (call !== 'Changed' || when !== 'before' || ++answers !== 3) return;
    cluster.daemons.volumes.get(volumeId)!.snapshots.delete(snapshot_id);
  };
  expect(await codeOf(client.GetMetadataAllocated({ snapshot_id }))).toBe('NOT_FOUND');
  const second = await snapshot('second');
  for (const replica of record.replicas) cluster.daemons.nodes.get(replica.nodeId)!.up = false;
  expect(await codeOf(client.GetMetadataAllocated({ snapshot_id: second }))).toBe('UNAVAILABLE');
});
