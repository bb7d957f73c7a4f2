// A replica that comes back: what may be believed of its log, and what happens when its return fails half way.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId } from '../../../src/base/index.js';
import type { ReplicaEvents, ReplicaPort } from '../../../src/wire/index.js';
import { DiskRig } from '../../lib/disk-rig.js';
import { EngineRig, eventually, flush, read, request, write } from '../../lib/engine-rig.js';
import { memoryConnector } from '../../lib/memory-replica.js';
import { dropAll } from '../../lib/recording-disk.js';

/** A port's methods as own members, so that some can be replaced. */
function bound(port: ReplicaPort): ReplicaPort {
  const members = { replicaId: port.replicaId, nodeId: port.nodeId, local: port.local } as Record<string, unknown>;
  for (let at: object = port; at !== Object.prototype; at = Object.getPrototypeOf(at) as object)
    for (const name of Object.getOwnPropertyNames(at)) {
      if (name === 'constructor' || name in members) continue;
      const member = (port as unknown as Record<string, unknown>)[name];
      if (typeof member === 'function') members[name] = member.bind(port);
    }
  return members as unknown as ReplicaPort;
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('a replica that returns', () => {
  it('is marked lost when its node says that it holds no such replica', async () => {
    const rig = new EngineRig(2);
    const c = rig.replicas[1]!;
    const { replicaId } = c.superblock;
    let wiped = false;
    let asked = 0;
    const reach = memoryConnector(rig.replicas, 'n0' as NodeId);
    const engine = await rig.open({
      connector: {
        connect: async (member, timeoutMs) => {
          if (!wiped || member.replicaId !== replicaId) return reach.connect(member, timeoutMs);
          asked++;
          throw new HoldfastError('NOT_FOUND', 'no pool of this node holds it', { reason: 'ReplicaLost' });
        },
      },
    });
    await write(engine, 0, Buffer.alloc(4096, 1));
    wiped = true;
    c.disconnect();
    await eventually(() => rig.lost.includes(replicaId), 'its loss is recorded');
    await write(engine, 0, Buffer.alloc(4096, 2));
    expect(rig.inSync).toEqual([rig.replicas[0]!.superblock.replicaId]);
    await sleep(400);
    expect(asked).toBe(1);
    engine.depose('test');
  });

  it('is looked for again when it was lost by the very frames that it lacked', async () => {
    const rig = new EngineRig(1);
    let full = false;
    const reach = memoryConnector(rig.replicas, 'n0' as NodeId);
    const engine = await rig.open({
      connector: {
        connect: async (member, timeoutMs) => {
          const port = await reach.connect(member, timeoutMs);
          let events: ReplicaEvents | undefined;
          return {
            ...bound(port),
            listen(listener) {
              events = listener;
              port.listen(listener);
            },
            append(...args) {
              if (full)
                events?.lost(new HoldfastError('RESOURCE_EXHAUSTED', 'the disk is full', { reason: 'NoSpace' }));
              else port.append(...args);
            },
          };
        },
      },
    });
    await write(engine, 0, Buffer.alloc(4096, 1));
    full = true;
    const waiting = write(engine, 4096, Buffer.alloc(4096, 2));
    await sleep(400);
    full = false;
    await waiting;
    expect(await read(engine, 4096, 4096)).toEqual(Buffer.alloc(4096, 2));
    engine.depose('test');
  });

  it('holds nothing back when it is gone again before it has joined', async () => {
    const rig = new EngineRig(3);
    const c = rig.replicas[2]!;
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    c.reachable = false;
    c.disconnect();
    await eventually(() => rig.inSync.length === 2, 'it leaves the set');
    await write(engine, 4096, Buffer.alloc(4096, 2));
    // It catches up, takes part, and stops answering.
    const top = rig.replicas[0]!.end.seq;
    await sleep(300);
    c.paused = true;
    c.reachable = true;
    await eventually(() => c.end.seq >= top, 'it has what it lacked');
    await sleep(200);
    let answered = false;
    const waiting = request(engine, 'write', 8192, 4096, Buffer.alloc(4096, 3)).then(() => {
      answered = true;
    });
    await sleep(200);
    expect(answered).toBe(false);
    c.reachable = false;
    c.disconnect();
    await waiting;
    engine.depose('test');
  }, 20_000);

  it('does not take the place of the only member with a longer log of its own', async () => {
    const rig = new EngineRig(2);
    const [a, c] = rig.replicas as [EngineRig['replicas'][0], EngineRig['replicas'][0]];
    const first = await rig.open();
    await write(first, 0, Buffer.alloc(4096, 1));
    // Replica 1 alone takes frames that are never acknowledged.
    a.reachable = false;
    rig.storeDown = true;
    a.disconnect();
    for (let i = 0; i < 20; i++) void request(first, 'write', 0, 4096, Buffer.alloc(4096, 7));
    await sleep(50);
    for (let i = 0; i < 20; i++) void request(first, 'write', 0, 4096, Buffer.alloc(4096, 7));
    await sleep(50);
    first.depose('test');
    rig.storeDown = false;
    a.reachable = true;
    c.reachable = false;
    const second = await rig.open();
    expect(rig.inSync).toEqual([a.superblock.replicaId]);
    await write(second, 0, Buffer.alloc(4096, 2));
    // The only member is cut off; the other one comes back.
    a.reachable = false;
    a.disconnect();
    c.reachable = true;
    await sleep(1500);
    expect(c.end.seq).toBeGreaterThan(a.end.seq);
    expect(rig.inSync).toEqual([a.superblock.replicaId]);
    second.depose('test');
  }, 20_000);

  it('is repaired and joins again when its log ends in damage', async () => {
    const rig = await DiskRig.make(2);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(40960, 1));
    await flush(engine);
    await engine.close();
    const again = await rig.open();
    await write(again, 0, Buffer.alloc(4096, 2));
    await flush(again);
    const node = rig.nodes[1]!;
    node.reachable = false;
    await node.restart((disk) => {
      const next = disk.afterKill(disk.journal.length);
      const file = `${node.directory}/${node.segmentFiles()[0]!}`;
      const second = 4096 + 128 + next.contents(file).readUInt32LE(4096 + 16);
      next.flipBit(file, second + 10, 1);
      return next;
    });
    await eventually(() => rig.inSync.length === 1, 'it leaves');
    node.reachable = true;
    await eventually(() => rig.inSync.length === 2, 'it joins', 8000);
    await again.close();
  }, 30_000);

  it('holds nothing up when the last step of its return fails', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    const back = rig.replicas[1]!;
    back.reachable = false;
    back.disconnect();
    await write(engine, 0, Buffer.alloc(4096, 2));
    let failures = 1;
    let superblock = back.superblock;
    Object.defineProperty(back, 'superblock', {
      get: () => superblock,
      set: (next: typeof superblock) => {
        if (superblock.joining && !next.joining && failures-- > 0) throw new Error('no room for the superblock');
        superblock = next;
      },
    });
    back.reachable = true;
    await eventually(() => failures === 0, 'the last step fails');
    await write(engine, 0, Buffer.alloc(4096, 3));
    await eventually(() => rig.inSync.length === 2, 'it joins', 8000);
    await engine.close();
  }, 20_000);

  it('is no proof of the log while it lacks what it had acknowledged before a power loss', async () => {
    const rig = await DiskRig.make(2);
    const node = rig.nodes[1]!;
    const engine = await rig.open();
    await flush(engine);
    const cut = node.disk.journal.length;
    const data = randomBytes(24 * 1024 * 1024);
    for (let at = 0; at < data.length; at += 1024 * 1024) await write(engine, at, data.subarray(at, at + 1024 * 1024));
    // The store can't remove it; it loses power, comes back, and gets some of what it lacks before the engine ends.
    rig.storeDown = true;
    let appends = 22;
    node.tamper = (port) =>
      new Proxy(port, {
        get(target, key) {
          if (key === 'append')
            return (...args: Parameters<typeof target.append>) => {
              if (appends-- > 0) target.append(...args);
            };
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    await node.restart((disk) => disk.afterPowerCut(cut, dropAll));
    await eventually(() => appends <= 0, 'it gets a part');
    await sleep(100);
    engine.depose('test');
    rig.storeDown = false;
    node.tamper = (port) => port;
    rig.nodes[0]!.reachable = false;
    await expect(rig.open()).rejects.toThrow();
    rig.nodes[0]!.reachable = true;
    const again = await rig.open();
    expect((await read(again, 0, data.length)).equals(data)).toBe(true);
    await again.close();
  }, 60_000);
});

describe('an open', () => {
  it('takes a file that one replica has lost from the other, and leaves it there', async () => {
    const rig = await DiskRig.make(2);
    const engine = await rig.open();
    const data = randomBytes(18 * 1024 * 1024);
    for (let at = 0; at < data.length; at += 1024 * 1024) await write(engine, at, data.subarray(at, at + 1024 * 1024));
    await engine.close();
    const [loser, keeper] = rig.nodes as [(typeof rig.nodes)[0], (typeof rig.nodes)[0]];
    const file = loser.segmentFiles()[0]!;
    await loser.disk.unlink(`${loser.directory}/${file}`);
    for (const node of rig.nodes) await node.restart();
    const again = await rig.open();
    expect((await read(again, 0, data.length)).equals(data)).toBe(true);
    expect(keeper.segmentFiles()).toContain(file);
    await again.close();
  }, 30_000);

  it('refuses a log whose beginning is gone when no checkpoint stands for it', async () => {
    const rig = new EngineRig(1);
    const engine = await rig.open();
    for (let i = 0; i < 18; i++) await write(engine, i * 1024 * 1024, randomBytes(1024 * 1024));
    await engine.close();
    const replica = rig.replicas[0]!;
    replica.superblock = { ...replica.superblock, checkpoint: null, previousCheckpoint: null };
    replica.segments.delete([...replica.segments.keys()].sort()[0]!);
    await expect(rig.open()).rejects.toThrow(/^the beginning of the log and segment .* is on no replica/);
  });
});

describe('frames', () => {
  it('go out in their order although an answer at once brings the next request', async () => {
    const rig = await DiskRig.make(1);
    let ports = 0;
    rig.nodes[0]!.tamper = (port) => {
      ports++;
      return port;
    };
    const engine = await rig.open();
    const big = randomBytes(1024 * 1024);
    const small = randomBytes(4096);
    const answered: (string | null)[] = [];
    await new Promise<void>((resolve) => {
      const done = (error: string | null) => {
        if (answered.push(error) === 4) resolve();
      };
      const make = (offset: number, data: Buffer, complete: (error: string | null) => void) => ({
        op: 'write' as const,
        offset,
        length: data.length,
        data,
        dataAt: 0,
        fua: false,
        cancelled: false,
        complete,
      });
      const next = make(8 * big.length, small, done);
      engine.submit(
        [0, 1, 2].map((i) =>
          make(i * big.length, big, (error) => {
            if (i === 0) engine.submit([next]);
            done(error);
          }),
        ),
      );
    });
    expect(answered).toEqual([null, null, null, null]);
    expect(ports).toBe(1);
    expect((await read(engine, 8 * big.length, 4096)).equals(small)).toBe(true);
    await engine.close();
  }, 20_000);
});
