// A machine without descriptors left, played by sockets of the test's own.

import { constants } from 'node:os';
import { expect, it } from 'vitest';
import type { NativeSockets } from '../../../src/hotpath/index.js';
import { NativeNet } from '../../../src/transport/index.js';
import { ManualClock } from '../nbd/manual-clock.js';

it('a listener waits while descriptors have run out, and passes over who went away', async () => {
  const listenerId = 0;
  const answers = [-constants.errno.ECONNABORTED, -constants.errno.EMFILE, 7, -constants.errno.EAGAIN];
  const watched: number[] = [];
  const sockets: Partial<NativeSockets> = {
    listenTcp: () => listenerId,
    port: () => 5,
    peer: () => 'peer:1',
    watch: (_id, events) => watched.push(events) && 0,
    accept: () => answers.shift()!,
    close: () => 0,
  };
  let event: (id: number, events: number) => void = () => {};
  const clock = new ManualClock();
  const openNet = (ready: typeof event) => {
    event = ready;
    return sockets as NativeSockets;
  };
  const accepted: string[] = [];
  const net = new NativeNet({ openNet }, clock);
  const listener = await net.listen('127.0.0.1:0', (stream) => accepted.push(stream.peer));
  event(listenerId, 1);
  // Not watched: else the loop would turn and turn.
  expect([accepted, watched]).toEqual([[], [1, 0]]);
  clock.pass(100);
  expect(watched).toEqual([1, 0, 1]);
  event(listenerId, 1);
  expect([accepted, answers]).toEqual([['peer:1'], []]);
  await listener.close();
});
