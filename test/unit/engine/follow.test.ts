// The replicas of an open volume change under writes: who comes is copied from first and counted last, who goes counts until the store
// has confirmed a set without it.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { IncarnationId, NodeId, ReplicaId } from '../../../src/base/index.js';
import type { Engine, EngineMember } from '../../../src/engine/index.js';
import { EngineRig, eventually, flush, read, request, rigLineage, rigVolume, write } from '../../lib/engine-rig.js';
import { emptySuperblock, MemoryReplica } from '../../lib/memory-replica.js';

/** How many there are to be; writes need one. */
const copies = (replicas: number) => ({ replicas, minReplicas: 1 });
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const newId = '30000000-0000-4000-8000-0000000000ff' as ReplicaId;
const newIncarnation = '40000000-0000-4000-8000-0000000000ff' as IncarnationId;

/** Adds an empty replica, marked as a new one is. */
function addReplica(rig: EngineRig): MemoryReplica {
  const ids = { volumeId: rigVolume, lineageId: rigLineage, replicaId: newId, incarnationId: newIncarnation };
  const made = new MemoryReplica({
    ...emptySuperblock({ ...ids, nodeId: 'n9' as NodeId, sizeBytes: rig.options.sizeBytes }),
    joining: true,
  });
  rig.replicas.push(made);
  return made;
}

const newMember: EngineMember = {
  replicaId: newId,
  incarnationId: newIncarnation,
  nodeId: 'n9' as NodeId,
  inSync: false,
  lost: false,
};

const without = (members: readonly EngineMember[], index: number): EngineMember[] =>
  members.map((member, i) => (i === index ? { ...member, leaving: true } : member));

/** Writes all over until told to stop; remembers what each block must read as. */
function writer(engine: Engine) {
  const blocks = new Map<number, Buffer>();
  let stop = false;
  const done = (async () => {
    for (let i = 0; !stop; i++) {
      const block = (i * 37) % 512;
      const data = randomBytes(4096);
      await write(engine, block * 4096, data);
      blocks.set(block, data);
      if (i % 16 === 15) await flush(engine);
      await sleep(0);
    }
  })();
  return {
    async end() {
      stop = true;
      await done;
      for (const [block, data] of blocks) expect(await read(engine, block * 4096, 4096)).toEqual(data);
      return blocks;
    },
  };
}

const sameLog = (a: MemoryReplica, b: MemoryReplica) => {
  const needed = b.list().map(({ info, bytes }) => ({ name: `${info.epoch}/${info.ordinal}`, bytes }));
  for (const { name, bytes } of needed) {
    const mine = a.list().find(({ info }) => `${info.epoch}/${info.ordinal}` === name);
    expect(mine?.bytes.subarray(0, mine.info.length).equals(bytes.subarray(0, mine.info.length))).toBe(true);
  }
  expect(b.end).toEqual(a.end);
};

describe('a new replica of an open volume', () => {
  it('is copied to under writes, joins when it has everything, and is then as good as the others', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    for (let i = 0; i < 200; i++) await write(engine, i * 8192, randomBytes(8192));
    const made = addReplica(rig);
    const load = writer(engine);
    const states = engine.follow([...rig.members().slice(0, 2), newMember], copies(1));
    expect(states.find(({ replicaId }) => replicaId === newId)!.behindBytes).toBeGreaterThan(200 * 4096);
    await eventually(() => rig.inSync.includes(newId), 'it joins');
    expect(made.superblock.joining).toBe(false);
    const blocks = await load.end();
    await flush(engine);
    await eventually(() => made.end.seq === rig.replicas[0]!.end.seq, 'it has the end');
    sameLog(rig.replicas[0]!, made);
    await engine.close();
    // What was read before may have come from the others: now it is the only one.
    rig.replicas[0]!.reachable = false;
    rig.replicas[1]!.reachable = false;
    const alone = await rig.open({ members: [...rig.members().slice(0, 2), { ...newMember, inSync: true }] });
    for (const [block, data] of blocks) expect(await read(alone, block * 4096, 4096)).toEqual(data);
    expect(rig.inSync).toEqual([newId]);
    alone.depose('test');
  }, 20_000);

  it('does not count and is not in the set before it has everything, also when it is interrupted', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    for (let i = 0; i < 600; i++) await write(engine, i * 8192, randomBytes(8192));
    const made = addReplica(rig);
    made.paused = true;
    engine.follow([...rig.members().slice(0, 2), newMember], copies(1));
    await eventually(() => made.end.seq > 0, 'it is being copied to');
    await sleep(100);
    // Unacknowledged copies hold nobody back.
    await write(engine, 0, Buffer.alloc(4096, 1));
    expect(rig.inSync).toHaveLength(2);
    expect(made.superblock.joining).toBe(true);
    const copied = made.bytesWritten;
    expect(copied).toBeGreaterThan(0);
    made.paused = false;
    made.disconnect();
    await eventually(() => rig.inSync.includes(newId), 'it joins after all');
    // What it had is not sent a second time.
    expect(made.bytesWritten).toBeLessThan(
      copied + rig.replicas[0]!.list().reduce((sum, one) => sum + one.info.length, 0),
    );
    await flush(engine);
    sameLog(rig.replicas[0]!, made);
    engine.depose('test');
  }, 20_000);

  it('is let go on its way in, and asked for no more', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    for (let i = 0; i < 300; i++) await write(engine, i * 8192, randomBytes(8192));
    const made = addReplica(rig);
    made.paused = true;
    engine.follow([...rig.members().slice(0, 2), newMember], copies(1));
    await eventually(() => made.end.seq > 0, 'it is being copied to');
    const states = engine.follow(rig.members().slice(0, 2), copies(1));
    expect(states.map(({ replicaId }) => replicaId)).not.toContain(newId);
    expect(made.current).toBeUndefined();
    made.paused = false;
    await sleep(300);
    await write(engine, 0, Buffer.alloc(4096, 1));
    expect(made.current).toBeUndefined();
    expect(rig.inSync).toHaveLength(2);
    engine.depose('test');
  }, 20_000);
});

describe('a replica that is to leave', () => {
  it('leaves the set under writes, and then gets nothing more', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    const load = writer(engine);
    await sleep(20);
    engine.follow(without(rig.members(), 0), copies(1));
    await eventually(() => rig.inSync.length === 2, 'it leaves');
    expect(rig.inSync).not.toContain(rig.replicas[0]!.superblock.replicaId);
    const { seq } = rig.replicas[0]!.end;
    await sleep(50);
    await load.end();
    expect(rig.replicas[0]!.end.seq).toBe(seq);
    expect(engine.status().replicas).toHaveLength(2);
    expect(rig.setChanges.at(-1)).toContain('it is to leave');
    await engine.close();
  }, 20_000);

  it('counts until the store has confirmed that it left', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    const leaving = rig.replicas[2]!;
    rig.storeDown = true;
    leaving.paused = true;
    engine.follow(without(rig.members(), 2), copies(1));
    let answered = false;
    const waiting = request(engine, 'write', 4096, 4096, Buffer.alloc(4096, 2)).then(() => {
      answered = true;
    });
    await sleep(300);
    // The store still names it: an acknowledgement without it could be lost by an open that trusts it alone.
    expect(answered).toBe(false);
    expect(rig.inSync).toHaveLength(3);
    rig.storeDown = false;
    await waiting;
    expect(rig.inSync).toHaveLength(2);
    expect(leaving.current).toBeUndefined();
    engine.depose('test');
  }, 20_000);

  it('is told to the store as lost until the store knows', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    const wiped = rig.replicas[2]!;
    wiped.disconnect();
    wiped.reachable = false;
    await write(engine, 0, Buffer.alloc(4096, 1));
    await eventually(() => rig.inSync.length === 2, 'it is out of the set');
    const { incarnationId } = newMember;
    wiped.superblock = { ...wiped.superblock, incarnationId };
    rig.storeDown = true;
    wiped.reachable = true;
    await eventually(() => engine.status().replicas.some(({ state }) => state === 'lost'), 'it is found to be lost');
    expect(rig.lost).toEqual([]);
    rig.storeDown = false;
    for (let i = 0; i < 3; i++) await engine.follow(rig.members(), copies(3));
    expect(rig.lost).toEqual([wiped.superblock.replicaId]);
    await engine.close();
  });

  it('stays in the place of one that is lost meanwhile, until there are as many others as there are to be', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    const [, gone, leaving] = rig.replicas as [MemoryReplica, MemoryReplica, MemoryReplica];
    gone.reachable = false;
    gone.disconnect();
    await eventually(() => rig.inSync.length === 2, 'the lost one is out');
    engine.follow(without(rig.members(), 2), copies(2));
    await sleep(50);
    expect(rig.inSync).toContain(leaving.superblock.replicaId);
    await write(engine, 4096, Buffer.alloc(4096, 2));
    await sleep(100);
    expect(rig.inSync).toContain(leaving.superblock.replicaId);
    gone.reachable = true;
    await eventually(() => !rig.inSync.includes(leaving.superblock.replicaId), 'it leaves when the other is back');
    expect(rig.inSync).toHaveLength(2);
    engine.depose('test');
  }, 20_000);

  it('is not asked for again when it comes back while its removal is unknown', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    const leaving = rig.replicas[2]!;
    rig.storeDown = true;
    engine.follow(without(rig.members(), 2), copies(2));
    await sleep(50);
    leaving.disconnect();
    await sleep(300);
    rig.storeDown = false;
    await eventually(() => rig.inSync.length === 2, 'it leaves');
    await sleep(300);
    expect(rig.setChanges.filter((change) => change.includes('with n2'))).toEqual([]);
    expect(leaving.current).toBeUndefined();
    expect(engine.status().replicas).toHaveLength(2);
    engine.depose('test');
  }, 20_000);

  it('stays in the place of a member that is back and not durable yet', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    const [, back, leaving] = rig.replicas as [MemoryReplica, MemoryReplica, MemoryReplica];
    rig.storeDown = true;
    const held: (() => void)[] = [];
    back.heldSyncs = held;
    back.disconnect();
    engine.follow(without(rig.members(), 2), copies(2));
    await eventually(() => held.length > 0, 'it has everything again, in its page cache');
    rig.storeDown = false;
    await sleep(500);
    expect(rig.inSync).toContain(leaving.superblock.replicaId);
    back.heldSyncs = null;
    for (const sync of held) sync();
    await eventually(() => !rig.inSync.includes(leaving.superblock.replicaId), 'it leaves when the other is durable');
    expect(rig.inSync).toContain(back.superblock.replicaId);
    engine.depose('test');
  }, 20_000);

  it('comes back when it is called, after it has left', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    engine.follow(without(rig.members(), 2), copies(2));
    await eventually(() => rig.inSync.length === 2, 'it leaves');
    const data = randomBytes(4096);
    await write(engine, 0, data);
    engine.follow(rig.members(), copies(3));
    await eventually(() => rig.inSync.length === 3, 'it is back');
    sameLog(rig.replicas[0]!, rig.replicas[2]!);
    engine.depose('test');
  }, 20_000);

  it('stays while too few others are in sync', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    engine.follow(without(rig.members(), 1), copies(2));
    await write(engine, 0, Buffer.alloc(4096, 1));
    await sleep(100);
    expect(rig.inSync).toHaveLength(2);
    const made = addReplica(rig);
    engine.follow([...without(rig.members().slice(0, 2), 1), newMember], copies(2));
    await eventually(() => rig.inSync.length === 2 && rig.inSync.includes(newId), 'another takes its place');
    expect(made.superblock.joining).toBe(false);
    engine.follow(
      [
        { ...rig.members()[0]!, leaving: true },
        { ...newMember, leaving: true },
      ],
      copies(1),
    );
    await sleep(100);
    expect(rig.inSync.length).toBeGreaterThan(0);
    await write(engine, 0, Buffer.alloc(4096, 3));
    engine.depose('test');
  }, 20_000);
});
