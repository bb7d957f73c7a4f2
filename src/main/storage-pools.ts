// The pools of a storage daemon. The main thread opens them only to hold their locks; the workers open them for themselves.

import { type Logger, messageOf, realClock, realRandom } from '../base/index.js';
import type { UnopenedPool } from '../replica/index.js';
import { NodeDisk, Pool } from '../segment/index.js';
import type { StorageConfig } from './storage-config.js';

export interface OpenedPools {
  readonly pools: readonly Pool[];
  readonly unopened: readonly UnopenedPool[];
}

/**
 * Opens each pool and holds its lock for as long as the daemon lives. One that can't be opened is reported, and the others
 * serve; when there is none that could, its error is thrown.
 */
export async function openPools(config: StorageConfig, logger: Logger): Promise<OpenedPools> {
  const disk = new NodeDisk();
  const pools: Pool[] = [];
  const unopened: UnopenedPool[] = [];
  let failure: unknown;
  for (const path of config.pools) {
    try {
      if (config.formatPools && disk.stat(path)?.directory && !disk.list(path).includes('pool.json')) {
        const identity = await Pool.format(disk, path, { nodeId: config.nodeId, random: realRandom, clock: realClock });
        logger.info({ pool: path, poolId: identity.poolId }, 'pool formatted');
      }
      pools.push(await Pool.open(disk, path, { nodeId: config.nodeId, exclusive: true }));
    } catch (error) {
      failure ??= error;
      const problem = `not opened: ${messageOf(error)}; mend it and restart the storage daemon`;
      unopened.push({ path, problem });
      logger.error({ pool: path, error: messageOf(error) }, 'a pool can not be opened');
    }
  }
  if (pools.length === 0 && failure !== undefined) throw failure;
  return { pools, unopened };
}
