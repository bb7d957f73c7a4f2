import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const script = join(import.meta.dirname, '../../../src/hotpath/build-native.mjs');

describe('the build of the native kernel', () => {
  let place: string;
  beforeEach(() => {
    place = mkdtempSync(join(tmpdir(), 'holdfast-build-'));
  });
  afterEach(() => rmSync(place, { recursive: true, force: true }));

  /** With a PATH on which `cargo` is this script, or nothing. */
  function build(cargo: string | null) {
    if (cargo !== null) {
      writeFileSync(join(place, 'cargo'), `#!/bin/sh\n${cargo}\n`);
      chmodSync(join(place, 'cargo'), 0o755);
    }
    return spawnSync(process.execPath, [script, join(place, 'dist')], {
      env: { PATH: cargo === null ? place : `${place}:/usr/bin:/bin` },
      encoding: 'utf8',
    });
  }

  it('goes on without cargo, and says so in one line', () => {
    const { status, stderr } = build(null);
    expect(status).toBe(0);
    expect(stderr).toMatch(/^native kernel not built: cargo was not found.*TypeScript twins.*\n$/);
    expect(existsSync(join(place, 'dist'))).toBe(false);
  });

  it('goes on when cargo fails, with what it said', () => {
    const { status, stderr } = build('[ "$1" = --version ] && exit 0; echo no network >&2; exit 101');
    expect(status).toBe(0);
    expect(stderr).toMatch(/^(building .*\n)?no network\nnative kernel not built: cargo failed.*\n$/);
  });

  // What an earlier build left is as good as a new one here.
  const made = join(import.meta.dirname, '../../../src/hotpath/native/target/release/libholdfast_native.so');
  it.skipIf(!existsSync(made))('puts what cargo made beside the loader, whole or not at all', () => {
    const { status, stderr } = build('exit 0');
    expect([status, stderr]).toEqual([0, '']);
    expect(readdirSync(join(place, 'dist/src/hotpath'))).toEqual(['holdfast-native.node']);
  });
});
