// One replica given up by command, though its node is there: a lost one whose data is still in the way, one on a disk that nobody trusts.
// The order is a state in the volume's record; the engine takes it out of the set, its data is deleted, and another one is made.

import { type Logger, notFound, precondition, printable } from '../base/index.js';
import { keyOf, moved, type ReplicaRecord, type VolumeRecord } from '../meta/index.js';
import type { KeyedLocks } from '../rpc/index.js';
import { isKept } from './membership-plan.js';
import type { Nodes } from './nodes.js';
import type { Records } from './records.js';
import type { Repairs } from './repairs.js';
import type { Volumes } from './volumes.js';

export interface ReplacementOptions {
  readonly records: Records;
  readonly volumes: Pick<Volumes, 'find'>;
  readonly nodes: Nodes;
  readonly repairs: Repairs;
  readonly locks: KeyedLocks;
  readonly logger: Logger;
}

export class Replacement {
  readonly #options: ReplacementOptions;

  constructor(options: ReplacementOptions) {
    this.#options = options;
  }

  /** Throws FAILED_PRECONDITION for one that is in sync, and when no other one is, on a node that answers. */
  order(volumeId: string, nodeId: string, by: string): Promise<void> {
    const { locks } = this.#options;
    return locks.run('replacing a replica', `volume ${volumeId}`, () => this.#order(volumeId, nodeId, by));
  }

  async #order(volumeId: string, nodeId: string, by: string): Promise<void> {
    const { records, volumes, nodes, repairs, logger } = this.#options;
    const { id } = await volumes.find(volumeId);
    const alive = new Set((await nodes.list()).filter(({ silentMs }) => silentMs === undefined).map((node) => node.id));
    await records.change<VolumeRecord>(keyOf.volume(id), (now) => {
      if (!isKept(now)) throw notFound(`volume ${id} does not exist any more`);
      const replica = now.replicas.find((one) => one.nodeId === nodeId && one.state !== 'leaving');
      if (replica === undefined) throw notFound(`volume ${id} has no replica on node ${printable(nodeId)}`);
      const isInSync = (one: ReplicaRecord) => one.state === 'ok' && now.inSync.includes(one.id);
      const others = now.replicas.filter((one) => one !== replica && isInSync(one) && alive.has(one.nodeId));
      if (isInSync(replica))
        throw precondition(`the replica on node ${nodeId} is in sync: drain its pool, which makes another one first`);
      if (others.length === 0) {
        throw precondition(
          `the replica on node ${nodeId} can't be given up: no other one of volume ${id} is in sync on a node that answers`,
          'TooFewReplicas',
        );
      }
      const next = moved(replica, 'leaving', `replaced by order of ${by}`);
      return { ...now, replicas: now.replicas.map((one) => (one === replica ? next : one)) };
    });
    logger.warn({ volume: id, node: nodeId, by }, 'replica to be replaced by order');
    repairs.lookSoon();
  }
}
