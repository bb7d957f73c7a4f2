// What a thread does that looks for events before it sleeps: it does look while events come quickly, sleeps when none come, and ends.

import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { nativeBinding } from '../../../src/hotpath/index.js';

const path = join(import.meta.dirname, '../../../src/hotpath/native/target/release/libholdfast_native.so');

/** Answers each message; on a number it first says how often its loop turned, then what CPU it takes while it is left alone so long. */
const program = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { performance } = require('node:perf_hooks');
  const loaded = { exports: {} };
  process.dlopen(loaded, workerData.path);
  if (workerData.us > 0) loaded.exports.startBusyPoll(workerData.us);
  parentPort.on('message', (quietMs) => {
    if (quietMs === null) return parentPort.postMessage(null);
    const { loopCount, events } = performance.nodeTiming.uvMetricsInfo;
    const before = performance.eventLoopUtilization();
    setTimeout(() => {
      const { utilization } = performance.eventLoopUtilization(before);
      parentPort.postMessage({ turns: loopCount / events, utilization });
    }, quietMs);
  });
`;

async function pingPong(us: number): Promise<{ turns: number; utilization: number }> {
  const worker = new Worker(program, { eval: true, workerData: { path, us } });
  const failed = new Promise<never>((_, reject) => worker.once('error', reject));
  const ask = (message: unknown) => {
    const answer = new Promise<unknown>((resolve) => worker.once('message', resolve));
    worker.postMessage(message);
    return Promise.race([answer, failed]);
  };
  const end = performance.now() + 200;
  while (performance.now() < end) await ask(null);
  const result = await ask(300);
  // The loop has nothing that keeps it but its port: were the handles counted, or not let go of, it would not end.
  const exited = new Promise((resolve) => worker.once('exit', resolve));
  await worker.terminate();
  await exited;
  return result as { turns: number; utilization: number };
}

it.skipIf(nativeBinding() === null)('looks while events come quickly, and sleeps when none come', async () => {
  const looking = await pingPong(1000);
  const sleeping = await pingPong(0);
  expect(looking.turns).toBeGreaterThan(sleeping.turns * 2);
  expect(looking.utilization).toBeLessThan(0.2);
});
