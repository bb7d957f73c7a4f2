// The size in a superblock, against filesystems made by their own tools.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { filesystemSize } from '../../../src/agent/index.js';

test('ext4, xfs and nothing', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'hf-fs-size-'));
  try {
    const file = join(dir, 'image');
    for (const [fsType, bytes, options] of [
      ['ext4', 20 << 20, ['-q', '-F', '-b', '1024']],
      ['ext4', 24 << 20, ['-q', '-F', '-O', '64bit']],
      ['xfs', 320 << 20, ['-q', '-f']],
    ] as const) {
      writeFileSync(file, '');
      truncateSync(file, bytes);
      execFileSync(`mkfs.${fsType}`, [...options, file]);
      truncateSync(file, bytes * 2);
      expect(await filesystemSize(file, fsType)).toBe(bytes);
      expect(await filesystemSize(file, fsType === 'xfs' ? 'ext4' : 'xfs')).toBe(undefined);
    }
    truncateSync(file, 1000);
    expect(await filesystemSize(file, 'ext4')).toBe(undefined);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
