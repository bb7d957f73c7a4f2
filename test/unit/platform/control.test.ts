import { chmodSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { HoldfastError, type VolumeId } from '../../../src/base/index.js';
import { askHolder, NoHolderError } from '../../../src/platform/attach/control-client.js';
import {
  type ControlRequest,
  encodeRequest,
  LineReader,
  lineBytesMax,
  parseRequest,
} from '../../../src/platform/attach/control-protocol.js';
import { type ControlServer, listenControl } from '../../../src/platform/attach/control-server.js';

const volumeId = '11111111-2222-4333-8444-555555555555' as VolumeId;
const directory = mkdtempSync(join(tmpdir(), 'holdfast-control-'));
const path = join(directory, 'h.sock');
let server: ControlServer | undefined;
afterEach(async () => {
  await server?.close();
  server = undefined;
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Sends raw bytes, returns all that comes back until the other side closes. */
function raw(bytes: string | Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    socket.on('close', () => resolve(text));
    socket.on('error', reject);
    socket.write(bytes);
  });
}

describe('requests', () => {
  it('survive the line format, the key byte for byte', () => {
    const key = Buffer.from([0, 255, 10, 13, 34]);
    const open: ControlRequest = { op: 'open', id: 7, volumeId, key, readOnly: true };
    const line = encodeRequest(open).toString();
    expect(line.indexOf('\n')).toBe(line.length - 1);
    expect(parseRequest(line)).toEqual(open);
    for (const request of [
      { op: 'status', id: 1 },
      { op: 'grow', id: 2, sizeBytes: 2 ** 45 },
      { op: 'detach', id: 3, force: true },
    ] as const) {
      expect(parseRequest(encodeRequest(request).toString())).toEqual(request);
    }
  });

  it.each([
    'null',
    '[]',
    '{"id":-1,"op":"status"}',
    '{"id":1.5,"op":"status"}',
    '{"id":1,"op":"reboot"}',
    '{"id":1,"op":"open","volumeId":"../../etc"}',
    `{"id":1,"op":"open","volumeId":"${volumeId}","key":"xyz"}`,
    `{"id":1,"op":"open","volumeId":"${volumeId}","key":"abc"}`,
    `{"id":1,"op":"open","volumeId":"${volumeId}","readOnly":"no"}`,
    '{"id":1,"op":"grow","sizeBytes":-4096}',
    '{"id":1,"op":"grow","sizeBytes":1e300}',
    '{"id":1,"op":"detach","force":1}',
  ])('refuses %s', (line) => {
    expect(() => parseRequest(line)).toThrow(HoldfastError);
  });

  it('never quotes a refused key', () => {
    const secret = 'feedface'.repeat(300);
    try {
      parseRequest(`{"id":1,"op":"open","volumeId":"${volumeId}","key":"${secret}"}`);
      expect.unreachable();
    } catch (error) {
      expect(String(error)).not.toContain('feedface');
    }
  });
});

describe('LineReader', () => {
  it('finds the same lines however the bytes arrive, and wipes what it took', () => {
    const text = 'one\ntwo two\n\nthree\n';
    for (let size = 1; size <= text.length; size++) {
      const reader = new LineReader();
      const lines: string[] = [];
      const chunks: Buffer[] = [];
      for (let at = 0; at < text.length; at += size) {
        const chunk = Buffer.from(text.slice(at, at + size));
        chunks.push(chunk);
        reader.push(chunk, (line) => lines.push(line));
      }
      expect(lines).toEqual(['one', 'two two', '', 'three']);
      expect(Buffer.concat(chunks).every((byte) => byte === 0)).toBe(true);
    }
  });

  it('gives up on a line without end', () => {
    const reader = new LineReader();
    reader.push(Buffer.alloc(lineBytesMax, 97), () => {});
    expect(() => reader.push(Buffer.from('aa'), () => {})).toThrow(/bytes/);
  });
});

describe('the socket', () => {
  it('is private and carries results and errors as they were', async () => {
    server = await listenControl(path, async (request) => {
      if (request.op === 'status') return { state: 'attached' };
      throw new HoldfastError('FAILED_PRECONDITION', 'still mounted at /x', { reason: 'Busy' });
    });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(await askHolder(path, { op: 'status' }, 2000)).toEqual({ state: 'attached' });
    await expect(askHolder(path, { op: 'detach', force: false }, 2000)).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'Busy',
      message: 'still mounted at /x',
    });
  });

  it('closes after garbage, an endless line and too many requests at once, and goes on serving others', async () => {
    server = await listenControl(path, (request) =>
      request.op === 'status' ? Promise.resolve({}) : new Promise(() => {}),
    );
    expect(await raw('\0\x01garbage\n')).toContain('INVALID_ARGUMENT');
    expect(await raw(Buffer.alloc(lineBytesMax + 1, 97))).toContain('INVALID_ARGUMENT');
    expect(await raw('{"id":1,"op":"detach"}\n'.repeat(17))).toContain('RESOURCE_EXHAUSTED');
    expect(await askHolder(path, { op: 'status' }, 2000)).toEqual({});
  });

  it('tells nobody there from one that goes away and one that is slow', async () => {
    await expect(askHolder(join(directory, 'none.sock'), { op: 'status' }, 1000)).rejects.toThrow(NoHolderError);
    server = await listenControl(path, () => new Promise(() => {}));
    await expect(askHolder(path, { op: 'status' }, 100)).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    const asked = askHolder(path, { op: 'status' }, 5000).catch((error: unknown) => error);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await server.close();
    server = undefined;
    expect(await asked).toBeInstanceOf(NoHolderError);
  });

  it('replaces the file of a dead holder', async () => {
    const dead = await listenControl(path, async () => ({}));
    chmodSync(path, 0o777);
    server = await listenControl(path, async () => ({ fresh: true }));
    expect(await askHolder(path, { op: 'status' }, 2000)).toEqual({ fresh: true });
    await dead.close();
  });
});
