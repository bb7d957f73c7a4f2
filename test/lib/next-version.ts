// The modules of a next release: this one's with the numbers of its versions raised. Tests import them beside this release's own; the
// two meet over byte streams and files only. To be called in a file of its own, for the modules of a test file are otherwise shared.

import { vi } from 'vitest';

export interface NextVersions {
  /** Of the replica protocol; by default one more than this release speaks. */
  readonly protocol?: { readonly min: number; readonly max: number };
  /** Of the disk format: what it writes, and what it reads. */
  readonly writes?: number;
  readonly reads?: { readonly min: number; readonly max: number };
}

export async function nextRelease(versions: NextVersions) {
  const { protocol = { min: 1, max: 2 }, writes = 1, reads = { min: 1, max: 2 } } = versions;
  vi.resetModules();
  // Its own checks of frames, for the native ones are built with this release's numbers.
  vi.doMock('../../src/hotpath/native.js', () => ({ nativeBinding: () => null }));
  vi.doMock('../../src/wire/versions.js', () => ({ PROTOCOL: protocol, HELLO_VERSION: 1 }));
  vi.doMock('../../src/format/constants.js', async (original) => ({
    ...(await original<typeof import('../../src/format/constants.js')>()),
    FORMAT_VERSION: writes,
    FORMATS_READ: reads,
    isFormatRead: (version: number) => version >= reads.min && version <= reads.max,
  }));
  const release = {
    format: await import('../../src/format/index.js'),
    segment: await import('../../src/segment/index.js'),
    replica: await import('../../src/replica/index.js'),
    wire: await import('../../src/wire/index.js'),
    engine: await import('../../src/engine/index.js'),
    frames: await import('./frame-maker.js'),
    setup: await import('./replica-setup.js'),
    rig: await import('./engine-rig.js'),
  };
  for (const path of ['../../src/hotpath/native.js', '../../src/wire/versions.js', '../../src/format/constants.js'])
    vi.doUnmock(path);
  vi.resetModules();
  return release;
}

export type NextRelease = Awaited<ReturnType<typeof nextRelease>>;
