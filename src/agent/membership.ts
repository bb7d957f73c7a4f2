// What the engines of the workers ask of the metadata store, on the main thread: the in-sync set by compare-and-swap, lost
// replicas, flushed points. All of it counts only while the asking engine's reign is the record's.

import { type Logger, messageOf } from '../base/index.js';
import type { RpcHandlers } from './port-rpc.js';
import { changeSet, markLost, noteFlushed } from './reigns.js';
import type { ReplicaAddresses } from './replica-addresses.js';
import type { VolumeRecords } from './volume-records.js';
import type { Volumes } from './volumes.js';
import type { MainMethods } from './worker-api.js';

export interface MembershipOptions {
  readonly records: VolumeRecords;
  readonly addresses: ReplicaAddresses;
  /** Late: the workers exist before it does. */
  readonly volumes: () => Volumes | undefined;
  readonly logger: Logger;
}

export function mainHandlers(options: MembershipOptions): RpcHandlers<MainMethods> {
  const { records, logger } = options;
  return {
    async changeSet({ volumeId, reign, reason, ...change }) {
      let refusal: 'deposed' | 'conflict' | null = null;
      const record = await records.update(volumeId, (current) => {
        const next = changeSet(current, reign, change);
        refusal = next === 'deposed' || next === 'conflict' ? next : null;
        return next === 'deposed' || next === 'conflict' ? undefined : next;
      });
      if (refusal === 'deposed') return { outcome: 'deposed' };
      if (refusal === 'conflict') return { outcome: 'conflict', setVersion: record.setVersion, inSync: record.inSync };
      const fields = {
        volume: volumeId,
        epoch: reign.epoch,
        setVersion: record.setVersion,
        inSync: change.inSync,
        reason,
      };
      logger.warn(fields, 'in-sync set changed');
      return { outcome: 'done', setVersion: record.setVersion };
    },
    async markLost({ volumeId, reign, replicaId, message }) {
      await records.tryUpdate(volumeId, (current) => markLost(current, reign, replicaId, message));
      logger.error({ volume: volumeId, replica: replicaId, reason: message }, 'replica lost');
      return null;
    },
    async noteFlushed({ volumeId, reign, point }) {
      let isOver = false;
      try {
        await records.tryUpdate(volumeId, (current) => {
          isOver = current.epoch > reign.epoch;
          return noteFlushed(current, reign, point);
        });
        // An engine whose replicas are not those of the next reign hears it from nobody else.
        if (isOver) await options.volumes()?.stopDeposed({ volumeId, epoch: reign.epoch });
      } catch (error) {
        // Best effort: the next point, or the one at close, covers this one.
        logger.warn({ volume: volumeId, error: messageOf(error) }, 'flushed point was not kept');
      }
      return null;
    },
    async replicaAddress({ nodeId, volumeId, refresh }) {
      return { address: await options.addresses.find(nodeId, volumeId, refresh) };
    },
    engineEnded({ volumeId, epoch, why }) {
      options.volumes()?.engineEnded({ volumeId, epoch }, why);
      return null;
    },
  };
}
