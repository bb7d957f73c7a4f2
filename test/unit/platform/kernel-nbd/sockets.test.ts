// What only real sockets show: a connection that is handed over holds every byte of what follows the handshake, and the kernel
// of this machine understands what is sent to it. Needs the native crate; without it there is no kernel nbd either.

import { existsSync, mkdtempSync, readSync, rmSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { HoldfastError, realClock, silentLogger } from '../../../../src/base/index.js';
import { nativeBinding } from '../../../../src/hotpath/index.js';
import { ExportTable, NbdServer } from '../../../../src/nbd/index.js';
import { dialExport, SocketHub } from '../../../../src/platform/attach/kernel-nbd/handover.js';
import { kernelFits } from '../../../../src/platform/attach/kernel-nbd/kernel.js';
import { NetlinkNbd } from '../../../../src/platform/attach/kernel-nbd/netlink-nbd.js';
import { openKernelNbd } from '../../../../src/platform/index.js';
import { openNet } from '../../../../src/transport/index.js';
import { MemoryDevice } from '../../../lib/memory-device.js';
import { request } from '../../nbd/raw-peer.js';

const binding = nativeBinding();
if (binding === null) process.stderr.write('\nSKIPPED: sockets of kernel nbd: the native crate was not built\n\n');
const clientId = '11111111-2222-4333-8444-555555555555';
const never = new AbortController().signal;
const undo: (() => unknown)[] = [];

afterEach(async () => {
  for (const act of undo.splice(0).reverse()) await act();
});

async function serve() {
  const directory = mkdtempSync(join(tmpdir(), 'hf-nbd-'));
  undo.push(() => rmSync(directory, { recursive: true }));
  const socketPath = join(directory, 's');
  const device = new MemoryDevice(1 << 20);
  const exports = new ExportTable();
  exports.add({ name: 'vol', device });
  const server = new NbdServer({ exports, logger: silentLogger });
  await server.listen(openNet(realClock), `unix:${socketPath}`);
  undo.push(() => server.close());
  return { server, device, address: { socketPath, exportName: 'vol', sizeBytes: 1 << 20 } };
}

/** Reads as the kernel would: nobody else takes bytes from the descriptor. */
async function readAll(descriptor: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  for (let filled = 0; filled < length; ) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    try {
      const read = readSync(descriptor, bytes, filled, length - filled, null);
      if (read === 0) throw new Error(`ended after ${filled} bytes`);
      filled += read;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    }
  }
  return bytes;
}

describe.skipIf(binding === null)('a connection that is handed over', () => {
  it('holds every byte that follows the handshake, and ends when it is cut', async () => {
    const { server, device, address } = await serve();
    device.bytes.fill('holdfast');
    const hub = new SocketHub(binding!);
    const socket = await dialExport(hub, realClock, address, clientId, never);
    expect(socket).toMatchObject({ sizeBytes: 1 << 20, flags: 0x96d });
    for (let handle = 1n; handle <= 50n; handle++) {
      writeSync(socket.descriptor, request({ command: 0, handle, offset: 8n * handle, length: 4096 }));
      const reply = await readAll(socket.descriptor, 16 + 4096);
      expect(reply.readUInt32BE(0)).toBe(0x67446698);
      expect(reply.readBigUInt64BE(8)).toBe(handle);
      expect(reply.toString('latin1', 16, 24)).toBe('holdfast');
    }
    expect(server.connections.size).toBe(1);
    socket.cut();
    await expect.poll(() => server.connections.size).toBe(0);
    socket.release();
    socket.release();
    socket.cut();
  });

  it('takes the place of the one before it', async () => {
    const { server, address } = await serve();
    const hub = new SocketHub(binding!);
    const first = await dialExport(hub, realClock, address, clientId, never);
    const second = await dialExport(hub, realClock, address, clientId, never);
    await expect(readAll(first.descriptor, 1)).rejects.toThrow(/ended|ECONNRESET/);
    expect(server.connections.size).toBe(1);
    first.release();
    second.release();
    await expect.poll(() => server.connections.size).toBe(0);
  });

  it('is refused with the reason, and nothing stays open: no export, no server, no NBD, an end', async () => {
    const { server, address } = await serve();
    const hub = new SocketHub(binding!);
    const dial = (more: object, signal = never) =>
      dialExport(hub, realClock, { ...address, ...more }, clientId, signal);
    await expect(dial({ exportName: 'other' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(dial({ socketPath: `${address.socketPath}x` })).rejects.toThrow(/ENOENT/);
    await expect(dial({ socketPath: 'x'.repeat(200) })).rejects.toBeInstanceOf(HoldfastError);
    const liar = createServer((one) => one.end('NBDMAGIC is not what this is about'));
    const path = `${address.socketPath}-liar`;
    await new Promise<void>((resolve) => liar.listen(path, resolve));
    undo.push(() => liar.close());
    await expect(dial({ socketPath: path })).rejects.toMatchObject({ reason: 'Protocol' });
    const mute = createServer(() => {});
    const mutePath = `${address.socketPath}-mute`;
    await new Promise<void>((resolve) => mute.listen(mutePath, resolve));
    undo.push(() => mute.close());
    const stop = new AbortController();
    const stopped = dial({ socketPath: mutePath }, stop.signal);
    setTimeout(() => stop.abort(), 20);
    await expect(stopped).rejects.toMatchObject({ code: 'CANCELLED' });
    await expect(dial({ socketPath: mutePath }, stop.signal)).rejects.toMatchObject({ code: 'CANCELLED' });
    await expect.poll(() => server.connections.size).toBe(0);
  });
});

describe.skipIf(binding === null)('netlink', () => {
  it("is answered by this machine's kernel, with a driver or without", async () => {
    const hub = new SocketHub(binding!);
    const netlink = new NetlinkNbd(hub, realClock, silentLogger);
    undo.push(() => netlink.close());
    const there = await netlink.open();
    if (!existsSync('/sys/module/nbd')) expect(there).toBe(false);
    if (there) expect(await netlink.isConnected(1_000_000)).toBe(false);
  });

  it('says why where there is no kernel nbd', async () => {
    const exec = { run: () => Promise.reject(new Error('modprobe: not found')) };
    const parts = { exec: exec as never, clock: realClock, logger: silentLogger };
    await expect(openKernelNbd({ ...parts, binding: null })).rejects.toThrow(/native crate was not built/);
    const opened = await openKernelNbd({ ...parts, binding }).then(
      (kernel) => kernel.close(),
      (error) => error,
    );
    if (opened !== undefined) expect(String(opened)).toContain('modprobe: not found');
    expect(['4.18.0-553.el8', '5.9.16', '5.10.0-34-amd64', '6.1.0-56-amd64', '10.0'].map(kernelFits)).toEqual([
      false,
      false,
      true,
      true,
      true,
    ]);
  });
});
