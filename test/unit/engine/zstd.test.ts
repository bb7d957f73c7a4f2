import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { kernel } from '../../../src/hotpath/index.js';
import { EngineRig, read, write } from '../../lib/engine-rig.js';

const able = kernel.compressions.includes('zstd');
if (!able) console.warn('neither the native kernel nor this Node has zstd: only the refusal is tested');

/** Text that LZ4 and zstd shrink by different amounts. */
const text = readFileSync(new URL('../../../src/format/FORMAT.md', import.meta.url)).subarray(0, 8192);

async function storedBytes(compression: 'lz4' | 'zstd'): Promise<number> {
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
}

describe('a volume compressed with zstd', () => {
  it.skipIf(!able)('takes less room than with lz4, and either opens after the other', async () => {
    expect(await storedBytes('zstd')).toBeLessThan((await storedBytes('lz4')) * 0.9);
  });

  it.skipIf(able)('is refused where nothing can open it, with what to install', async () => {
    const rig = new EngineRig(1);
    rig.volume = { compression: 'zstd' };
    await expect(rig.open()).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringMatching(/cargo.*Node 22\.15/),
    });
  });
});
