import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { VolumeId } from '../../../../src/base/index.js';
import {
  describe as describeDevice,
  findDevice,
  identifierOf,
} from '../../../../src/platform/attach/kernel-nbd/block-files.js';
import { attachPaths } from '../../../../src/platform/attach/paths.js';
import { parseDeviceChoice } from '../../../../src/platform/index.js';

const root = mkdtempSync(join(tmpdir(), 'hf-sys-'));
afterAll(() => rmSync(root, { recursive: true }));

function device(name: string, files: Readonly<Record<string, string>>): void {
  mkdirSync(join(root, name));
  for (const [file, text] of Object.entries(files)) writeFileSync(join(root, name, file), text);
}

const a = 'holdfast/0123456789abcdef/11111111-2222-4333-8444-555555555555';
device('loop0', { backend: `${a}\n`, size: '8\n', ro: '0\n' });
device('nbd0', { size: '0\n', ro: '0\n' });
device('nbd1', { backend: '\n', size: '8\n', ro: '0\n' });
device('nbd2', { backend: `${a}0\n`, size: '16\n', ro: '0\n' });
device('nbd10', { backend: `${a}\n`, size: '8388616\n', ro: '1\n' });
device('nbd10p1', { backend: `${a}\n`, size: '8\n', ro: '0\n' });
device('nbd11', { backend: 'twice\n', size: '8\n', ro: '0\n' });
device('nbd12', { backend: 'twice\n', size: '8\n', ro: '0\n' });
device('nbd13', { backend: 'odd\n', size: 'many\n', ro: '0\n' });

describe('nbd devices in /sys/block', () => {
  it('are found by the whole identifier and nothing else', async () => {
    const found = { index: 10, devicePath: '/dev/nbd10', sizeBytes: 8_388_616 * 512, readOnly: true };
    expect(await findDevice(a, root)).toEqual(found);
    expect((await findDevice(`${a}0`, root))?.index).toBe(2);
    for (const other of [a.slice(0, -1), `${a}00`, '', '\n']) expect(await findDevice(other, root)).toBeUndefined();
    expect(await findDevice(a, join(root, 'nothing'))).toBeUndefined();
    expect([await identifierOf(0, root), await identifierOf(1, root), await identifierOf(99, root)]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  it('are not chosen from when two bear one name, nor believed when they make no sense', async () => {
    await expect(findDevice('twice', root)).rejects.toThrow('/dev/nbd11 and /dev/nbd12');
    await expect(findDevice('odd', root)).rejects.toThrow('holds no number');
    await expect(describeDevice(99, root)).rejects.toThrow();
  });

  it('are named after run directory and volume', () => {
    const volume = '11111111-2222-4333-8444-555555555555' as VolumeId;
    const { identifier } = attachPaths('/run/holdfast', volume);
    expect(identifier).toMatch(/^holdfast\/[0-9a-f]{16}\/11111111-2222-4333-8444-555555555555$/);
    expect(attachPaths('/run/holdfast', volume).identifier).toBe(identifier);
    expect(attachPaths('/tmp/n2/run', volume).identifier).not.toBe(identifier);
  });
});

describe('--device', () => {
  it('takes the kinds and auto', () => {
    for (const choice of ['auto', 'kernel-nbd', 'fuse-loop'])
      expect(parseDeviceChoice(choice, '--device')).toBe(choice);
    expect(() => parseDeviceChoice('nbd', '--device')).toThrow('--device must be one of auto, kernel-nbd, fuse-loop');
  });
});
