// Puts the parts of the control plane together around one store and one set of daemons.

import type { Clock, Logger, Random } from '../base/index.js';
import type { MetadataStore, VolumeRecord } from '../meta/index.js';
import { KeyedLocks } from '../rpc/index.js';
import { LossAcceptance } from './accept-loss.js';
import { ChangedBlocks } from './changed-blocks.js';
import type { Daemons } from './daemons.js';
import { Drains } from './drains.js';
import { EngineOrders } from './engine-orders.js';
import { Groups } from './groups.js';
import { type HealthEntry, healthOf } from './health.js';
import { VOLUME_BYTES_MAX } from './limits.js';
import { Nodes } from './nodes.js';
import { resolveClass, type VolumeClass } from './parameters.js';
import { type Capacity, capacityFor } from './placement.js';
import { Reconciler } from './reconcile.js';
import { Records } from './records.js';
import { Repairs } from './repairs.js';
import { Replacement } from './replacement.js';
import { ReplicaSteps } from './replica-steps.js';
import { SerialQueue } from './serial-queue.js';
import { Snapshots } from './snapshots.js';
import { Tombstones } from './tombstones.js';
import type { TopologyWish } from './topology.js';
import { VolumeCreation } from './volume-create.js';
import { clusterFacts, rulesFor, VolumePlanner } from './volume-plan.js';
import { Volumes } from './volumes.js';

export interface ControlOptions {
  readonly store: MetadataStore;
  readonly daemons: Daemons;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Volumes that may be published on one node; 0 = no limit. */
  readonly maxVolumesPerNode: number;
  /** How many times its size a pool may be promised to volumes; at least 1. */
  readonly overcommit: number;
  /** A node that was silent for so long is taken for gone, and its replicas are replaced; 0: never. */
  readonly goneAfterMs: number;
}

export interface Control {
  readonly nodes: Nodes;
  readonly creation: VolumeCreation;
  readonly volumes: Volumes;
  readonly snapshots: Snapshots;
  readonly groups: Groups;
  readonly changedBlocks: ChangedBlocks;
  readonly reconciler: Reconciler;
  readonly repairs: Repairs;
  readonly drains: Drains;
  readonly replacement: Replacement;
  readonly lossAcceptance: LossAcceptance;
  /** Of each record, in their order. */
  health(records: readonly VolumeRecord[]): Promise<HealthEntry[][]>;
  /** Room for new volumes of this class; the class's defaults are those of the moment. */
  capacity(volumeClass: VolumeClass, wish: TopologyWish): Promise<Capacity>;
}

export function createControl(options: ControlOptions): Control {
  const { store, daemons, clock, random, logger, maxVolumesPerNode, overcommit } = options;
  const records = new Records(store, clock);
  const nodes = new Nodes(records, clock, logger);
  const orders = new EngineOrders(records, daemons, nodes);
  const tombstones = new Tombstones({ records, daemons, nodes, orders, logger });
  const locks = new KeyedLocks(clock);
  const intents = new SerialQueue();
  const planner = new VolumePlanner({ records, nodes, random, wallMs: () => clock.wallMs(), overcommit });
  const creation = new VolumeCreation({
    records,
    planner,
    daemons,
    nodes,
    orders,
    tombstones,
    locks,
    intents,
    random,
    logger,
  });
  const common = { records, orders, tombstones, locks, intents, clock, random, logger };
  const steps = new ReplicaSteps({ ...common, nodes, daemons, overcommit });
  const repairs = new Repairs({ records, nodes, steps, goneAfterMs: options.goneAfterMs, clock, logger });
  const volumes = new Volumes({ ...common, nodes, steps, repairs, maxVolumesPerNode, overcommit });
  const snapshots = new Snapshots(common);
  const groups = new Groups(common);
  const reconciler = new Reconciler({ ...common, nodes, daemons, creation, snapshots, groups });
  return {
    nodes,
    creation,
    volumes,
    snapshots,
    groups,
    changedBlocks: new ChangedBlocks(snapshots, orders),
    reconciler,
    repairs,
    drains: new Drains({ ...common, nodes, daemons, steps, repairs, wallMs: () => clock.wallMs() }),
    replacement: new Replacement({ ...common, volumes, nodes, steps, repairs }),
    lossAcceptance: new LossAcceptance({ ...common, nodes, daemons, wallMs: () => clock.wallMs() }),
    async health(volumeRecords) {
      const known = await nodes.list();
      return volumeRecords.map((record) => healthOf(record, known, repairs.noteOf(record.id)));
    },
    async capacity(volumeClass, wish) {
      const known = await nodes.forPlacement();
      const parameters = resolveClass(volumeClass, clusterFacts(known), false);
      const found = capacityFor(known, rulesFor(volumeClass, parameters, wish, overcommit));
      return { ...found, maximumBytes: Math.min(found.maximumBytes, VOLUME_BYTES_MAX) };
    },
  };
}
