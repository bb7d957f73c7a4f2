// No reply leaves an engine that cannot know any more that it still reigns.

import { describe, expect, it } from 'vitest';
import type { Clock, ReplicaId } from '../../../src/base/index.js';
import { HoldfastError, realClock } from '../../../src/base/index.js';
import type { ReplicaPort } from '../../../src/engine/index.js';
import { ReignLease } from '../../../src/engine/reign-lease.js';
import { type Link, newLink } from '../../../src/engine/replica-link.js';
import { EngineRig, flush, read, request, write } from '../../lib/engine-rig.js';
import { ManualClock } from '../nbd/manual-clock.js';

/** The real clock, with pauses of the whole process put in: timers run on, the time is later than they think. */
class PausedClock implements Clock {
  pausedMs = 0;
  monotonicMs = () => realClock.monotonicMs() + this.pausedMs;
  wallMs = () => realClock.wallMs();
  after: Clock['after'] = (delayMs, fn) => realClock.after(delayMs, fn);
  sleep = (ms: number) => realClock.sleep(ms);
}

const turns = async (count = 20) => {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

describe('an engine that was stopped between a write and its last acknowledgement', () => {
  async function stoppedInAWrite(fua: boolean) {
    const clock = new PausedClock();
    const rig = new EngineRig(2);
    const engine = await rig.open({ clock });
    await write(engine, 0, Buffer.alloc(4096, 1));
    rig.replicas[1]!.paused = true;
    let outcome: string | null | undefined;
    const pending = request(engine, 'write', 4096, 4096, Buffer.alloc(4096, 2), fua).then((error) => {
      outcome = error;
    });
    await turns();
    clock.pausedMs += 1_200;
    return { rig, engine, pending, outcome: () => outcome };
  }

  it.each([false, true])('answers once its replicas say that it still reigns (FUA %s)', async (fua) => {
    const { rig, engine, pending, outcome } = await stoppedInAWrite(fua);
    const confirm = deferred<() => void>();
    const port = rig.replicas[1]!.current!;
    const ask = port.confirm.bind(port);
    port.confirm = (done) => confirm.resolve(() => ask(done));
    rig.replicas[1]!.resume();
    const goOn = await confirm.promise;
    await turns();
    expect(outcome()).toBeUndefined();
    goOn();
    await pending;
    expect(outcome()).toBe(null);
    await engine.close();
  });

  it('does not tell success when another engine has taken over meanwhile, though all replicas had the write', async () => {
    const { rig, engine, pending, outcome } = await stoppedInAWrite(false);
    const port = rig.replicas[1]!.current!;
    port.confirm = (done) =>
      done(new HoldfastError('ABORTED', 'a higher reign was promised', { reason: 'StaleReign' }));
    rig.replicas[1]!.resume();
    await pending;
    expect(outcome()).toBe('ESHUTDOWN');
    expect(engine.status().state).toBe('failed');
    const heir = await rig.open();
    expect((await read(heir, 4096, 1))[0]).toBe(2);
    await heir.close();
  });

  it('does not tell success of what a group snapshot held back when it was deposed', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    await engine.hold('t', 10_000);
    const held = request(engine, 'write', 0, 4096, Buffer.alloc(4096, 3));
    await turns();
    const heir = await rig.open();
    await turns();
    engine.depose('another node opened the volume');
    expect(await held).toBe('ESHUTDOWN');
    await heir.close();
  });

  it('asks for a flush too, and nothing at all while it writes steadily', async () => {
    const clock = new PausedClock();
    const rig = new EngineRig(2);
    const engine = await rig.open({ clock });
    let questions = 0;
    const port = rig.replicas[1]!.current!;
    const ask = port.confirm.bind(port);
    port.confirm = (done) => {
      questions++;
      ask(done);
    };
    for (let i = 0; i < 40; i++) {
      clock.pausedMs += 300;
      await write(engine, 4096 * i, Buffer.alloc(4096, i));
      await read(engine, 4096 * i, 4096);
    }
    expect(questions).toBe(0);
    clock.pausedMs += 1_200;
    await flush(engine);
    expect(questions).toBe(1);
    await engine.close();
  });
});

describe('the lease', () => {
  function leaseOf(leaseMs: number) {
    const clock = new ManualClock();
    const questions: ((error: Error | null) => void)[] = [];
    const link: Link = {
      ...newLink({ replicaId: 'r' as ReplicaId, incarnationId: 'i', nodeId: 'n', inSync: true, lost: false } as never),
      counted: true,
      port: {
        local: false,
        confirm: (done: (error: Error | null) => void) => questions.push(done),
      } as unknown as ReplicaPort,
    };
    const lease = new ReignLease([link], { clock, leaseMs, failed: () => {} });
    const answers: string[] = [];
    const ask = (name: string) => lease.ask((error) => answers.push(`${name} ${error?.message ?? 'stands'}`));
    return { clock, questions, link, lease, answers, ask };
  }

  it('counts from when the question was sent, not from when it was answered', () => {
    const { clock, questions, lease, ask, answers } = leaseOf(1000);
    ask('a');
    clock.pass(900);
    questions.shift()!(null);
    expect(answers).toEqual(['a stands']);
    clock.pass(101);
    expect(lease.held()).toBe(false);
  });

  it('is not renewed by an answer that is looked at too late, though it was asked for by who waits', () => {
    const { clock, questions, ask, answers } = leaseOf(1000);
    ask('a');
    clock.pass(1001);
    questions.shift()!(null);
    expect(answers).toEqual([]);
    questions.shift()!(null);
    expect(answers).toEqual(['a stands']);
  });

  it('takes the acknowledgement of frames for an answer as of when the first of them was sent', () => {
    const { clock, link, lease } = leaseOf(1000);
    lease.sends(link, 10);
    clock.pass(600);
    lease.sends(link, 20);
    lease.acknowledged(link, 9);
    expect(lease.held()).toBe(false);
    lease.acknowledged(link, 20);
    expect(lease.held()).toBe(true);
    clock.pass(401);
    expect(lease.held()).toBe(false);
  });

  it('of no length lets no answer serve whoever asked after its question was sent', () => {
    const { clock, questions, ask, answers, lease } = leaseOf(0);
    ask('a');
    clock.pass(1);
    ask('b');
    questions.shift()!(null);
    expect(answers).toEqual(['a stands']);
    clock.pass(1);
    questions.shift()!(null);
    expect(answers).toEqual(['a stands', 'b stands']);
    ask('c');
    lease.close();
    expect(answers[2]).toMatch(/^c the volume is closed/);
  });
});

function deferred<T>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
