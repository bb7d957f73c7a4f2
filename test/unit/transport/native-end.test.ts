// A native stream whose end has words of its own: when there is no room for them, they wait, and nothing is shut before they have left.

import { constants } from 'node:os';
import { expect, it } from 'vitest';
import { Inbox } from '../../../src/transport/inbox.js';
import { NativeStream, type NativeStreamOwner, READABLE, WRITABLE } from '../../../src/transport/native-stream.js';
import { SlabPool } from '../../../src/transport/slab-pool.js';
import { Probe } from './probe.js';

it('an end waits for room for its last words', async () => {
  const calls: string[] = [];
  let room = false;
  const pool = new SlabPool();
  const sockets = {
    send: (_id: number, _bytes: Uint8Array, from: number, to: number) => to - from,
    shutdown() {
      calls.push(room ? 'shut' : 'no room');
      return room ? 0 : -constants.errno.EAGAIN;
    },
    watch: (_id: number, events: number) => calls.push(`watch ${events}`) * 0,
    receive: () => 0,
    close: () => calls.push('close') * 0,
  };
  const owner = {
    sockets,
    inbox: () => new Inbox(pool),
    flushLater() {},
    forget() {},
    errorOf: (_id: number, _errno: number, what: string) => new Error(what),
  } as unknown as NativeStreamOwner;
  const stream = new NativeStream(owner, 1, 'peer');
  const probe = new Probe(stream);
  stream.write(Buffer.from('data'));
  stream.end();
  expect(calls).toEqual([`watch ${READABLE}`, 'no room', `watch ${READABLE | WRITABLE}`]);
  stream.ready(WRITABLE);
  room = true;
  stream.ready(WRITABLE);
  expect(calls.slice(3)).toEqual(['no room', 'shut', `watch ${READABLE}`]);
  // The peer's end after ours is the end of both.
  stream.ready(READABLE);
  await probe.until(() => probe.closes.length === 1);
  expect([probe.ends, probe.closes, calls.at(-1)]).toEqual([1, [null], 'close']);
});
