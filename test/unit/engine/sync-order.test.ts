// A sync must not be asked for before the frames it is to cover were handed over: its answer would be taken for theirs.

import { describe, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import type { EngineMember, MembershipPort } from '../../../src/engine/engine-api.js';
import type { Frame } from '../../../src/engine/log-writer.js';
import { newLink } from '../../../src/engine/replica-link.js';
import type { ReplicaPort } from '../../../src/engine/replica-port.js';
import { ReplicaSet } from '../../../src/engine/replica-set.js';

function started(acknowledgesAtOnce: boolean, local = true) {
  const member = {
    replicaId: 'r',
    nodeId: 'n',
    incarnationId: 'i',
    inSync: true,
    lost: false,
  } as unknown as EngineMember;
  const link = newLink(member);
  const calls: string[] = [];
  const syncs: ((error: Error | null) => void)[] = [];
  const lones: boolean[] = [];
  const synced: number[] = [];
  let onCommitted = (_: number) => {};
  const other = newLink({ ...member, replicaId: 'other', inSync: false } as unknown as EngineMember);
  const set = new ReplicaSet(
    [link, other],
    { inSync: [member.replicaId], setVersion: 1, committed: 10, synced: 10 },
    {
      leaseMs: 1_000,
      membership: {} as MembershipPort,
      clock: realClock,
      logger: silentLogger,
      events: {
        committed: (seq) => onCommitted(seq),
        synced: (seq) => synced.push(seq),
        setChanged: () => {},
        lost: () => {},
        deposed: () => {},
      },
    },
  );
  const port = {
    local,
    flush: () => calls.push('flush'),
    append: (_segment: unknown, _offset: number, _bytes: Buffer, seq: number) => {
      calls.push(`append ${seq}`);
      if (acknowledgesAtOnce) events.appended(seq);
    },
    sync: (seq: number, done: (error: Error | null) => void, lone = false) => {
      calls.push(`sync ${seq}`);
      lones.push(lone);
      syncs.push(done);
    },
  } as unknown as ReplicaPort;
  const events = set.eventsOf(link, () => port);
  link.state = 'in-sync';
  set.attach(link, port, 10, 10);
  const frames = (...seqs: number[]) =>
    seqs.map((seq) => ({ seq, segment: {}, offset: 0, bytes: Buffer.alloc(0) }) as unknown as Frame);
  const whenCommitted = (action: (seq: number) => void) => {
    onCommitted = action;
  };
  return { set, events, calls, syncs, lones, synced, frames, whenCommitted, other };
}

describe('syncs and frames', () => {
  it('a sync waits for frames that were made and not sent yet', () => {
    const { set, calls, syncs, synced, frames } = started(true);
    set.append(frames(11), false);
    set.sync(13);
    expect(calls).toEqual(['append 11', 'sync 11']);
    set.append(frames(12, 13), false);
    syncs.shift()!(null);
    expect(synced).toEqual([11]);
    expect(calls.slice(2)).toEqual(['append 12', 'append 13', 'sync 13']);
    syncs.shift()!(null);
    expect(synced).toEqual([11, 13]);
  });

  it('also one that is asked for while frames are being handed over', async () => {
    const { set, calls, syncs, synced, frames, whenCommitted } = started(true);
    whenCommitted((seq) => {
      if (seq === 11) set.sync(13);
    });
    set.append(frames(11, 12, 13), false);
    await Promise.resolve();
    expect(calls).toEqual(['append 11', 'append 12', 'append 13', 'sync 13']);
    syncs.shift()!(null);
    expect(synced).toEqual([13]);
  });

  it('covers what was sent before it, also when that is acknowledged later', () => {
    const { set, events, calls, syncs, synced, frames } = started(false);
    set.append(frames(11, 12), false);
    set.sync(12);
    expect(calls.at(-1)).toBe('sync 12');
    events.appended(12);
    syncs.shift()!(null);
    expect(synced).toEqual([12]);
  });

  it('of frames that will be waited for reaches a remote replica with them, and the local one when they were answered', async () => {
    const { set, calls, frames } = started(true, false);
    set.append(frames(11, 12), true);
    expect(calls).toEqual(['append 11', 'append 12', 'sync 12', 'flush']);
    const local = started(true);
    local.set.append(local.frames(11), true);
    expect(local.calls).toEqual(['append 11']);
    await Promise.resolve();
    expect(local.calls).toEqual(['append 11', 'sync 11']);
  });

  it('may keep the thread waiting when no other replica is connected, whose answers it has to hear', () => {
    const { set, syncs, lones, frames, other } = started(true);
    set.append(frames(11), false);
    set.sync(11);
    syncs.shift()!(null);
    const away = { local: false, append: () => {}, sync: () => {}, close: () => {} } as unknown as ReplicaPort;
    other.state = 'catching-up';
    set.attach(other, away, 10, 10);
    set.append(frames(12), false);
    set.sync(12);
    expect(lones).toEqual([true, false]);
  });
});
