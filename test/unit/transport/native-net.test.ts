// What only the native sockets can get wrong: the end of a thread that has some open, exceptions on the way from the event loop,
// and arguments that no caller here would pass.

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { nativeBinding } from '../../../src/hotpath/index.js';

const crate = join(import.meta.dirname, '../../../src/hotpath/native/target/release/libholdfast_native.so');
const native = nativeBinding();

/** A thread with a listener, connected streams, one that can't send on, one that is refused, and no other work. */
const busyThread = `
  const { parentPort, workerData } = require('node:worker_threads');
  const native = { exports: {} };
  process.dlopen(native, workerData.crate);
  const sockets = native.exports.openNet((id) => {
    if (id !== listener) return;
    if (workerData.fail) throw new Error('thrown in an event');
    for (let one; (one = sockets.accept(listener)) >= 0; ) sockets.watch(one, 1);
    parentPort.postMessage('busy');
  });
  const listener = sockets.listenTcp('127.0.0.1', 0);
  sockets.watch(listener, 1);
  const bytes = new Uint8Array(1 << 20);
  for (let i = 0; i < 4; i++) {
    const id = sockets.connectTcp('127.0.0.1', sockets.port(listener));
    sockets.watch(id, 3);
    while (sockets.send(id, bytes, 0, bytes.length) > 0);
  }
  sockets.watch(sockets.connectTcp('127.0.0.1', 1), 2);
  parentPort.once('message', () => process.exit(0));
`;

function startThread(fail: boolean): { worker: Worker; heard: Promise<string> } {
  const worker = new Worker(busyThread, { eval: true, workerData: { crate, fail } });
  const heard = new Promise<string>((resolve) => {
    worker.once('message', resolve);
    worker.once('error', (error) => resolve(error.message));
  });
  return { worker, heard };
}

if (native !== null) {
  describe('native sockets', () => {
    it('are closed when their thread ends, whatever they were doing', async () => {
      const descriptors = () => readdirSync('/proc/self/fd').length;
      const warm = startThread(false);
      await warm.heard;
      await warm.worker.terminate();
      const before = descriptors();
      for (let round = 0; round < 8; round++) {
        const { worker, heard } = startThread(false);
        expect(await heard).toBe('busy');
        // From outside, or by itself.
        if (round % 2 === 0) expect(await worker.terminate()).toBe(1);
        else {
          const ended = new Promise((resolve) => worker.once('exit', resolve));
          worker.postMessage('end');
          expect(await ended).toBe(0);
        }
      }
      expect(descriptors()).toBeLessThanOrEqual(before);
    });

    it('pass on what a handler throws', async () => {
      const { worker, heard } = startThread(true);
      expect(await heard).toBe('thrown in an event');
      await worker.terminate();
    });

    it('take no argument that reaches outside a buffer or names no socket', () => {
      const sockets = native.openNet(() => {});
      const bytes = new Uint8Array(10);
      const id = sockets.listenTcp('127.0.0.1', 0);
      expect(id).toBeGreaterThanOrEqual(0);
      const spans = [
        [0, 11],
        [5, 4],
        [-1, 3],
        [0, 2 ** 32],
        [Number.NaN, 20],
      ] as const;
      for (const [from, to] of spans) {
        expect(sockets.receive(id, bytes, from, to), `${from}..${to}`).toBeLessThan(0);
        expect(sockets.send(id, bytes, from, to), `${from}..${to}`).toBeLessThan(0);
        expect(sockets.sendAll(id, [bytes], Uint32Array.of(from, to), 0, 1)).toBeLessThan(0);
      }
      expect(sockets.sendAll(id, [bytes], Uint32Array.of(0, 1), 0, 2)).toBeLessThan(0);
      expect(sockets.sendAll(id, [bytes], Uint32Array.of(0, 1), 1, 1)).toBeLessThan(0);
      expect(sockets.sendAll(id, [], new Uint32Array(200), 0, 65)).toBeLessThan(0);
      expect(sockets.receive(id, new Uint16Array(8) as unknown as Uint8Array, 0, 8)).toBeLessThan(0);
      for (const none of [99, -1, 2 ** 31]) {
        const answers = [
          sockets.watch(none, 1),
          sockets.receive(none, bytes, 0, 10),
          sockets.send(none, bytes, 0, 10),
          sockets.shutdown(none),
          sockets.failure(none),
          sockets.accept(none),
          sockets.port(none),
        ];
        expect(answers.every((answer) => answer < 0)).toBe(true);
        expect(sockets.close(none)).toBe(0);
      }
      for (const host of ['', 'localhost', '1.2.3', '::1::', 'x'.repeat(300), '127.0.0.1\0'])
        expect(sockets.connectTcp(host, 1), host).toBeLessThan(0);
      expect(sockets.connectTcp('127.0.0.1', 65_536)).toBeLessThan(0);
      for (const path of ['', 'x'.repeat(200), '/tmp/a\0b']) expect(sockets.listenUnix(path)).toBeLessThan(0);
      expect(sockets.close(id)).toBe(0);
      expect(sockets.receive(id, bytes, 0, 10)).toBeLessThan(0);
    });
  });
}
