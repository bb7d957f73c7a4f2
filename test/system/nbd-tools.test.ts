// Other people's NBD clients against our server: nbdinfo, nbdcopy, qemu-img, fio. Each reads, writes and lists as it would any
// other server's export. A tool that is not installed skips its test and is named.

import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, type TestContext } from 'vitest';
import { realClock, silentLogger } from '../../src/base/index.js';
import type { BlockRequest } from '../../src/engine/index.js';
import { ExportTable, NbdServer } from '../../src/nbd/index.js';
import { openNet } from '../../src/transport/index.js';
import { MemoryDevice } from '../lib/memory-device.js';

const MiB = 1024 * 1024;
const run = promisify(execFile);
const present = new Map<string, boolean>();

/** Skips the test, naming the tool, when it is not installed. */
function need(ctx: TestContext, tool: string): void {
  const found = present.get(tool) ?? spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0;
  present.set(tool, found);
  if (!found) ctx.skip(`${tool} is not installed`);
}

describe('NBD tools', () => {
  let dir = '';
  let server: NbdServer;
  let device: MemoryDevice;
  const uri = (name: string) => `nbd+unix:///${name}?socket=${join(dir, 's')}`;

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nbd-tools-'));
    device = new MemoryDevice(64 * MiB);
    const exports = new ExportTable();
    exports.add({ name: 'vol', description: 'a volume', device });
    exports.add({ name: 'frozen', device: Object.assign(new MemoryDevice(MiB), { readOnly: true }) });
    server = new NbdServer({ exports, logger: silentLogger });
    await server.listen(openNet(realClock), `unix:${join(dir, 's')}`);
  });
  afterEach(async () => {
    await server.close();
    rmSync(dir, { recursive: true });
  });

  /** A file of the device's size with data at its start, in its middle and at its end. */
  function sparseFile(): { path: string; bytes: Buffer } {
    const path = join(dir, 'image');
    writeFileSync(path, '');
    truncateSync(path, 64 * MiB);
    const fd = openSync(path, 'r+');
    for (const at of [0, 20 * MiB + 512, 64 * MiB - 300_000]) {
      const bytes = Buffer.alloc(300_000);
      for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 131 + at + (i >>> 9)) & 0xff;
      writeSync(fd, bytes, 0, bytes.length, at);
    }
    return { path, bytes: readFileSync(path) };
  }

  it('nbdinfo lists the exports and what they can', async (ctx) => {
    need(ctx, 'nbdinfo');
    const about = JSON.parse((await run('nbdinfo', ['--json', uri('vol')])).stdout);
    expect(about).toMatchObject({ protocol: 'newstyle-fixed', TLS: false, structured: true });
    expect(about.exports[0]).toMatchObject({
      'export-name': 'vol',
      description: 'a volume',
      'export-size': 64 * MiB,
      is_read_only: false,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MiB,
    });
    const list = JSON.parse((await run('nbdinfo', ['--json', '--list', uri('')])).stdout);
    expect(list.exports.map((entry: Record<string, unknown>) => [entry['export-name'], entry.is_read_only])).toEqual([
      ['vol', false],
      ['frozen', true],
    ]);
    await expect(run('nbdinfo', [uri('nothing')])).rejects.toMatchObject({ stderr: /no such export/ });
  });

  it('nbdcopy copies in and out over several connections', async (ctx) => {
    need(ctx, 'nbdcopy');
    const { path, bytes } = sparseFile();
    await run('nbdcopy', ['--flush', '--connections=4', path, uri('vol')]);
    expect(device.bytes.equals(bytes)).toBe(true);
    expect(device.log.some(({ op }) => op === 'flush')).toBe(true);
    await run('nbdcopy', ['--connections=4', uri('vol'), join(dir, 'out')]);
    expect(readFileSync(join(dir, 'out')).equals(bytes)).toBe(true);
    await expect(run('nbdcopy', [path, uri('frozen')])).rejects.toThrowError();
  });

  it('qemu-img writes, compares and reads an image', async (ctx) => {
    need(ctx, 'qemu-img');
    const { path, bytes } = sparseFile();
    // Old content, which convert has to overwrite with zeroes where the image has holes.
    device.bytes.fill(0xee);
    const about = JSON.parse((await run('qemu-img', ['info', '--output=json', uri('vol')])).stdout);
    expect(about['virtual-size']).toBe(64 * MiB);
    await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', '-W', '-m', '8', path, uri('vol')]);
    expect(device.bytes.equals(bytes)).toBe(true);
    expect(device.log.some(({ op }) => op === 'zero')).toBe(true);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', path, uri('vol')]);
    device.bytes[30 * MiB]! ^= 1;
    await expect(run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', path, uri('vol')])).rejects.toMatchObject({
      code: 1,
    });
    device.bytes[30 * MiB]! ^= 1;
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri('vol'), join(dir, 'out.qcow2')]);
    await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', join(dir, 'out.qcow2'), join(dir, 'out')]);
    expect(readFileSync(join(dir, 'out')).equals(bytes)).toBe(true);
  });

  // fio writes, reads all back and checks crc32c, while completions come late and out of order.
  const loads: [string, string[]][] = [
    [
      'random requests of 512 bytes to 1 MiB',
      ['--rw=randwrite', '--bsrange=512-1M', '--blockalign=512', '--iodepth=16'],
    ],
    ['4 KiB blocks, read back soon after', ['--rw=randwrite', '--bs=4k', '--iodepth=32', '--verify_backlog=64']],
    ['sequential megabytes with flushes', ['--rw=write', '--bs=1M', '--iodepth=8', '--fsync=4']],
  ];
  for (const [what, options] of loads) {
    it(`fio verifies ${what} over three connections`, async (ctx) => {
      need(ctx, 'fio');
      if (!(await run('fio', ['--enghelp'])).stdout.includes('nbd')) ctx.skip('fio has no nbd engine');
      let waiting: BlockRequest[] = [];
      device.intercept = (request) => {
        if (waiting.push(request) > 1) return true;
        setImmediate(() => {
          const due = waiting.reverse();
          waiting = [];
          for (const each of due) {
            device.apply(each);
            each.complete(null);
          }
        });
        return true;
      };
      const output = join(dir, 'fio.json');
      await run('fio', [
        '--name=verify',
        '--ioengine=nbd',
        `--uri=${uri('vol')}`,
        '--numjobs=3',
        '--size=20M',
        '--offset_increment=20M',
        '--verify=crc32c',
        '--do_verify=1',
        '--verify_fatal=1',
        '--verify_state_save=0',
        '--output-format=json',
        `--output=${output}`,
        ...options,
      ]);
      const report = readFileSync(output, 'utf8');
      const { jobs } = JSON.parse(report.slice(report.indexOf('{')));
      expect(jobs.map((job: { error: number }) => job.error)).toEqual([0, 0, 0]);
      for (const job of jobs) {
        expect(job.write.io_bytes).toBeGreaterThanOrEqual(19 * MiB);
        expect(job.read.io_bytes).toBeGreaterThanOrEqual(19 * MiB);
      }
      const written = device.log.filter(({ op }) => op === 'write').reduce((sum, { length }) => sum + length, 0);
      expect(written).toBeGreaterThanOrEqual(57 * MiB);
      expect(device.log.some(({ op }) => op === 'flush')).toBe(options.includes('--fsync=4'));
    });
  }

  it('fio notices a device that returns other bytes', async (ctx) => {
    need(ctx, 'fio');
    let reads = 0;
    device.intercept = (request) => {
      device.apply(request);
      if (request.op === 'read' && reads++ === 20) request.data![100]! ^= 1;
      request.complete(null);
      return true;
    };
    const args = ['--name=v', '--ioengine=nbd', `--uri=${uri('vol')}`, '--rw=randwrite', '--bs=4k', '--size=1M'];
    const verify = ['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_state_save=0'];
    await expect(run('fio', [...args, ...verify])).rejects.toThrowError();
  });
});
