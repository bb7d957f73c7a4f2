// A log has rotten since it was read at the start of its daemon, and shows it only when an open compares the logs: the members that are
// whole stay members, the rotten one is no source, and nothing that was durable is taken off a member before what replaces it is there.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { NodeId } from '../../../src/base/index.js';
import { chooseSource, type ReplicaPort, type ReplicaStatus } from '../../../src/engine/index.js';
import { DiskRig } from '../../lib/disk-rig.js';
import { eventually, flush, read, request, rigVolume, write } from '../../lib/engine-rig.js';

type Node = DiskRig['nodes'][0];
const MiB = 1024 * 1024;

/** The port, but for the calls that `change` has a stand-in for. */
function changed<T extends ReplicaPort>(port: T, change: (key: string | symbol) => unknown): T {
  return new Proxy(port, {
    get(target, key) {
      const instead = change(key);
      if (instead !== undefined) return instead;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** 20 MiB flushed on all; the first node alone has one frame more. */
async function partedLogs(count: number): Promise<{ rig: DiskRig; data: Buffer }> {
  const rig = await DiskRig.make(count);
  const [first, ...others] = rig.nodes as [Node, ...Node[]];
  let deaf = false;
  const swallow = (key: string | symbol) =>
    deaf && (key === 'append' || key === 'appendBatch') ? () => {} : undefined;
  for (const node of others) node.tamper = (port) => changed(port, swallow);
  const engine = await rig.open();
  const data = randomBytes(20 * MiB);
  for (let at = 0; at < data.length; at += MiB) await write(engine, at, data.subarray(at, at + MiB));
  await flush(engine);
  const newest = () => first.disk.contents(`${first.directory}/${first.segmentFiles().at(-1)!}`);
  const before = newest();
  deaf = true;
  void request(engine, 'write', data.length, 4096, randomBytes(4096));
  await eventually(() => !newest().equals(before), 'the first node has it');
  engine.depose('test');
  for (const node of others) node.tamper = (port) => port;
  return { rig, data };
}

function rotSecondFrame(node: Node): void {
  const file = `${node.directory}/${node.segmentFiles().at(-1)!}`;
  const bytes = node.disk.contents(file);
  node.disk.flipBit(file, 4096 + 128 + bytes.readUInt32LE(4096 + 16) + 10, 3);
}

describe('an open that finds a log rotten', () => {
  it('takes another one for the source, and keeps the members that are whole', async () => {
    const { rig, data } = await partedLogs(3);
    rotSecondFrame(rig.nodes[0]!);
    const engine = await rig.open();
    expect((await read(engine, 0, data.length)).equals(data)).toBe(true);
    expect(rig.inSync).toEqual(expect.arrayContaining([rig.id(1), rig.id(2)]));
    await eventually(() => rig.inSync.length === 3, 'the rotten one is whole again');
    await engine.close();
  }, 60_000);

  it('does not open from a member that was cut for it, when the source died before the rest was there', async () => {
    const { rig, data } = await partedLogs(2);
    const [source, rotten] = rig.nodes as [Node, Node];
    rotSecondFrame(rotten);
    let dead = false;
    source.tamper = (port) =>
      changed(port, (key) => {
        if (!dead || !['read', 'readParts', 'sync', 'frames'].includes(String(key))) return undefined;
        if (key === 'frames') return () => Promise.reject(new Error('gone'));
        if (key === 'readParts')
          return (_: unknown, ended: (error: Error, rows: null) => void) => ended(new Error('gone'), null);
        return (_: unknown, done: (error: Error) => void) => done(new Error('gone'));
      });
    rotten.tamper = (port) =>
      changed(port, (key) => {
        if (key !== 'cut') return undefined;
        return async (...args: Parameters<ReplicaPort['cut']>) => {
          await port.cut(...args);
          dead = true;
        };
      });
    const first = await rig.open().catch(() => undefined);
    first?.depose('test');
    source.reachable = false;
    await expect(rig.open()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    dead = false;
    source.tamper = (port) => port;
    source.reachable = true;
    const engine = await rig.open();
    expect((await read(engine, 0, data.length)).equals(data)).toBe(true);
    await engine.close();
  }, 60_000);
});

describe('the choice of a source', () => {
  const candidate = (node: string, seq: number, flushedThrough: number) => ({
    member: { nodeId: node as NodeId },
    port: { local: false },
    status: {
      superblock: { joining: false },
      end: { epoch: 1, seq, digest: '00'.repeat(16) },
      cacheSurvived: false,
      damage: null,
      flushedThrough,
      stoppedEngine: false,
    } as unknown as ReplicaStatus,
  });

  it('does not wait for one that merely ends early when all have lost their page cache', () => {
    const [short, long] = [candidate('a', 10, 0), candidate('b', 20, 20)];
    expect(chooseSource(rigVolume, [short, long], [], [], 20).source).toBe(long);
  });
});
