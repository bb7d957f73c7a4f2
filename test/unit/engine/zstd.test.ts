import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

/** Text that LZ4 and zstd shrink by different amounts. */
const text = readFileSync(new URL('../../../src/format/FORMAT.md', import.meta.url)).subarray(0, 8192);

beforeEach(() => void vi.resetModules());
afterEach(() => void vi.unstubAllEnvs());

/** Engine and kernel as a process sees them that begins now. */
async function fresh() {
  const { EngineRig, read, write } = await import('../../lib/engine-rig.js');
  const { kernel } = await import('../../../src/hotpath/index.js');
  return { EngineRig, read, write, able: kernel.compressions.includes('zstd') };
}

describe('a volume compressed with zstd', () => {
  it('takes less room than with lz4, and either opens after the other', async (context) => {
    const { EngineRig, read, write, able } = await fresh();
    context.skip(!able, 'neither the native kernel nor this Node has zstd');
    const storedBytes = async (compression: 'lz4' | 'zstd') => {
      const rig = new EngineRig(1, { encrypted: true });
      rig.volume = { compression };
      const engine = await rig.open();
      await write(engine, 0, text);
      await write(engine, 40_960 + 100, text);
      const stored = engine.status().counters.storedWriteBytes;
      await engine.close();
      // A volume keeps opening what it has, whatever its class says now: a clone may be of another.
      rig.volume = { compression: compression === 'zstd' ? 'lz4' : 'zstd' };
      const again = await rig.open();
      expect((await read(again, 0, text.length)).equals(text)).toBe(true);
      expect((await read(again, 41_060 + 4_000, 3_000)).equals(text.subarray(4_000, 7_000))).toBe(true);
      await again.close();
      return stored;
    };
    expect(await storedBytes('zstd')).toBeLessThan((await storedBytes('lz4')) * 0.9);
  });

  it('is refused where nothing can open it, with what to install', async (context) => {
    vi.stubEnv('HOLDFAST_NATIVE', 'off');
    const { EngineRig, able } = await fresh();
    context.skip(able, 'this Node has zstd itself');
    const rig = new EngineRig(1);
    rig.volume = { compression: 'zstd' };
    await expect(rig.open()).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringMatching(/cargo.*Node 22\.15/),
    });
  });
});
