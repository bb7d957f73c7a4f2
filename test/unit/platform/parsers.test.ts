// Outputs as util-linux 2.38.1 wrote them.

import { describe, expect, it } from 'vitest';
import { parseLosetup } from '../../../src/platform/attach/loop-device.js';
import { parseBlkid, parseFindmnt, parseFsType } from '../../../src/platform/index.js';

describe('parseFindmnt', () => {
  it('separates a bind mount of a device node from its subdirectory, and knows read-only of the mount', () => {
    const text = JSON.stringify({
      filesystems: [
        {
          target: '/var/lib/pods/a b/vol',
          source: 'devtmpfs[/loop3]',
          fstype: 'devtmpfs',
          options: 'rw,size=4k',
          'vfs-options': 'rw',
          propagation: 'private',
          fsroot: '/loop3',
        },
        {
          target: '/stage',
          source: '/dev/loop3',
          fstype: 'ext4',
          options: 'ro,relatime',
          'vfs-options': 'ro,relatime',
          propagation: 'shared',
          fsroot: '/',
        },
        {
          target: '/odd',
          source: 'name[x]',
          fstype: 'tmpfs',
          options: 'ro',
          'vfs-options': 'rw',
          propagation: '',
          fsroot: '/',
        },
        {
          target: '/none',
          source: null,
          fstype: 'tmpfs',
          options: 'rw',
          'vfs-options': 'rw',
          propagation: '',
          fsroot: '/',
        },
      ],
    });
    const entries = parseFindmnt(text);
    expect(entries[0]).toMatchObject({ target: '/var/lib/pods/a b/vol', source: 'devtmpfs', fsRoot: '/loop3' });
    expect(entries[1]).toMatchObject({ source: '/dev/loop3', fsType: 'ext4', readOnly: true });
    expect(entries[1]!.options).toEqual(['ro', 'relatime']);
    expect(entries[2]).toMatchObject({ source: 'name[x]', readOnly: false });
    expect(entries[3]!.source).toBe('');
  });

  it.each(['', 'no json', '{}', '[]', '{"filesystems":[{"target":"/"}]}', '{"filesystems":"x"}'])(
    'refuses %j instead of finding nothing mounted',
    (text) => {
      expect(() => parseFindmnt(text)).toThrow(/findmnt/);
    },
  );
});

describe('parseBlkid', () => {
  it('reads a filesystem', () => {
    const text =
      'DEVNAME=/dev/loop0\nUUID=3c1d\nLABEL=a\\ b\nVERSION=1.0\nBLOCK_SIZE=4096\nUSAGE=filesystem\nTYPE=ext4\n';
    expect(parseBlkid(text)).toEqual({ kind: 'filesystem', fsType: 'ext4', uuid: '3c1d', label: 'a b' });
  });

  it('calls anything else present by its name, never nothing', () => {
    expect(parseBlkid('DEVNAME=/dev/x\nUSAGE=crypto\nTYPE=crypto_LUKS\n')).toEqual({
      kind: 'other',
      what: 'crypto_LUKS',
    });
    expect(parseBlkid('DEVNAME=/dev/x\nPTTYPE=gpt\n')).toEqual({ kind: 'other', what: 'a partition table (gpt)' });
    expect(parseBlkid('').kind).toBe('other');
  });
});

describe('parseLosetup', () => {
  it('lists devices and strips the mark of a deleted file; no output is no device', () => {
    expect(parseLosetup('')).toEqual([]);
    const text =
      '{"loopdevices": [{"name":"/dev/loop1","back-file":"/r/a.disk (deleted)"},{"name":"/dev/loop2","back-file":"/r/b"},{"name":"/dev/loop3","back-file":null}]}';
    expect(parseLosetup(text)).toEqual([
      { devicePath: '/dev/loop1', backingFile: '/r/a.disk' },
      { devicePath: '/dev/loop2', backingFile: '/r/b' },
    ]);
    expect(() => parseLosetup('{')).toThrow(/losetup/);
    expect(() => parseLosetup('{"x":1}')).toThrow(/losetup/);
  });
});

describe('parseFsType', () => {
  it('knows three filesystems', () => {
    expect(['ext4', 'xfs', 'btrfs'].map(parseFsType)).toEqual(['ext4', 'xfs', 'btrfs']);
    expect(() => parseFsType('ext4 -o x')).toThrow(/none of ext4, xfs, btrfs/);
  });
});
