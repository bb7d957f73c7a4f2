// Calls between threads: results, errors as they were, deadlines, ends.

import { MessageChannel } from 'node:worker_threads';
import { afterEach, expect, test } from 'vitest';
import { PortRpc } from '../../../src/agent/index.js';
import { assert, HoldfastError, realClock } from '../../../src/base/index.js';

interface Api {
  add: { readonly params: { readonly a: number; readonly b: Uint8Array }; readonly result: number };
  fail: { readonly params: null; readonly result: null };
  hang: { readonly params: null; readonly result: null };
  bug: { readonly params: null; readonly result: null };
  odd: { readonly params: null; readonly result: unknown };
}
type None = Record<never, never>;

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

function pair() {
  const { port1, port2 } = new MessageChannel();
  const fatal: string[] = [];
  const caller = new PortRpc<Api, None>(port1, {
    clock: realClock,
    handlers: {},
    onFatal: (e) => fatal.push(`caller ${e.name}`),
  });
  new PortRpc<None, Api>(port2, {
    clock: realClock,
    onFatal: (e) => fatal.push(`callee ${e.name}`),
    handlers: {
      add: ({ a, b }) => a + b.length,
      fail: () => Promise.reject(new HoldfastError('RESOURCE_EXHAUSTED', 'pool full', { reason: 'NoSpace' })),
      hang: () => new Promise(() => {}),
      bug: () => {
        assert(false, 'seq went back');
      },
      odd: () => () => 'a function does not cross threads',
    },
  });
  closers.push(() => {
    port1.close();
    port2.close();
  });
  return { caller, fatal };
}

test('answers, and errors with code, reason and text', async () => {
  const { caller } = pair();
  const params = { a: 3, b: new Uint8Array(4) };
  const asked = caller.call('add', params, 1_000);
  params.b.fill(1); // the other side has its own copy
  expect(await asked).toBe(7);
  await expect(caller.call('fail', null, 1_000)).rejects.toMatchObject({
    name: 'HoldfastError',
    code: 'RESOURCE_EXHAUSTED',
    reason: 'NoSpace',
    message: 'pool full',
  });
  await expect(caller.call('toString' as 'fail', null, 1_000)).rejects.toMatchObject({ code: 'UNIMPLEMENTED' });
  await expect(caller.call('odd', null, 1_000)).rejects.toMatchObject({ code: 'INTERNAL' });
});

test('a deadline ends the wait, close() ends all', async () => {
  const { caller } = pair();
  await expect(caller.call('hang', null, 20)).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED', reason: 'Deadline' });
  const hanging = caller.call('hang', null, 10_000);
  caller.close('the worker ended');
  await expect(hanging).rejects.toMatchObject({ code: 'UNAVAILABLE', message: 'the worker ended' });
  await expect(caller.call('add', { a: 1, b: new Uint8Array(1) }, 1_000)).rejects.toMatchObject({ reason: 'Closed' });
});

test('a failed assertion is fatal on both sides and no answer', async () => {
  const { caller, fatal } = pair();
  await expect(caller.call('bug', null, 200)).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  expect(fatal.sort()).toEqual(['callee AssertionError', 'caller AssertionError']);
});
