// Opens a volume: the common log of its in-sync replicas, the map out of it, and the engine of the new reign over both.

import { type Clock, HoldfastError, type Logger, type VolumeId } from '../base/index.js';
import type { CheckpointPlace, Reign, Superblock } from '../format/index.js';
import { KeyRing, kernel, type PageCache, pageCache } from '../hotpath/index.js';
import { VolumeEngine } from './engine.js';
import type { Engine, EngineOptions } from './engine-api.js';
import { EntrySource } from './entry-source.js';
import { LogReader } from './log-reader.js';
import { type OpenedLog, openLog } from './open.js';
import { type Replayed, replay } from './replay.js';
import type { ReplicaPort, SegmentInfo } from './replica-port.js';
import { SegmentTable } from './segment-table.js';

/** What the log says, once the replicas agree on it. */
export interface LoadedLog {
  readonly table: SegmentTable;
  readonly keys: KeyRing;
  readonly replayed: Replayed;
  /** Every reign that sealed anything in this log, the new one included, oldest first. */
  readonly reigns: readonly Reign[];
}

/**
 * Opens a volume whose reign the store has granted. Rejects with UNAVAILABLE when too few replicas answer (try again), DATA_LOSS naming
 * the place when the log is damaged on all, ABORTED (StaleReign) when a higher epoch was granted meanwhile.
 */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  checkCompression(options.volume);
  const log = await openLog(options);
  const keys = new KeyRing(options.volume.lineageId, options.dataKey);
  let loaded: LoadedLog | undefined;
  try {
    loaded = await load(options, log, keys);
    const engine = new VolumeEngine(options, log, loaded);
    await engine.start();
    return engine;
  } catch (error) {
    loaded?.replayed.map.close();
    keys.destroy();
    for (const member of log.members) member.port.close();
    throw error;
  }
}

/** Only zstd is not everywhere: said before anything is read or written. */
export function checkCompression({
  volumeId,
  compression,
}: Pick<EngineOptions['volume'], 'volumeId' | 'compression'>): void {
  if (kernel.compressions.includes(compression)) return;
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `volume ${volumeId} is compressed with ${compression}, which this node's Holdfast can't do: install cargo and run "npm run build" there, or run it on Node 22.15 or later`,
    { reason: 'ToolMissing' },
  );
}

async function load(options: EngineOptions, log: OpenedLog, keys: KeyRing): Promise<LoadedLog> {
  const { clock, logger, pages, reign, volume } = options;
  const { volumeId } = volume;
  // Of all members: a file that one of them has lost is read from the others, not taken for a dropped one.
  const segments: SegmentInfo[] = [];
  for (const member of log.members) for (const info of await member.port.segments()) segments.push(info);
  const ports = log.members.map((member) => member.port);
  const described = log.members[0]!.status.superblock.reigns;
  const { checkpoint, previousCheckpoint } = newestSuperblock(log);
  const from = { described, reign, checkpoints: [checkpoint, previousCheckpoint], noteSets: false };
  return loadLog({ volumeId, segments, ports, ...from, keys, pages, clock, logger });
}

export interface LoadInput {
  readonly volumeId: VolumeId;
  /** Those of the log; of one that is named twice the first counts. */
  readonly segments: readonly SegmentInfo[];
  /** Nearest first. */
  readonly ports: readonly ReplicaPort[];
  readonly described: readonly Reign[];
  /** The one that begins, if any. */
  readonly reign: Reign | null;
  /** Newest first. */
  readonly checkpoints: readonly (CheckpointPlace | null)[];
  /** See ReplayInput. */
  readonly noteSets: boolean;
  readonly keys: KeyRing;
  readonly pages?: PageCache | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The map out of a log. */
export async function loadLog(input: LoadInput): Promise<LoadedLog> {
  const { volumeId, ports, described, noteSets, keys, clock, logger, pages = pageCache } = input;
  const table = new SegmentTable();
  for (const info of input.segments) if (!table.has(info) && table.bySlot(info.slot) === undefined) table.adopt(info);
  for (const reign of described) keys.addReign(reign);
  const reader = new LogReader(() => ports, logger);
  const checkpoints = input.checkpoints.filter((place): place is CheckpointPlace => place !== null);
  // Nobody waits yet: a replica that is lost now fails the open, which is tried again.
  const source = new EntrySource({ table, reader, nearest: () => ports[0], closed: () => true, clock, logger });
  const replayed = await replay({ volumeId, table, reader, source, pages, keys, noteSets, checkpoints });
  const reigns = mergeReigns(described, replayed.reigns, input.reign === null ? [] : [input.reign]);
  for (const reign of reigns) keys.addReign(reign);
  // Pages that nobody sees any more may name segments that were deleted for that.
  if (replayed.map.sweepsLeft === 0)
    for (const message of table.missing((slot) => replayed.map.references(slot))) logger.error({}, message);
  return { table, keys, replayed, reigns };
}

/** The superblock with the newest checkpoint among replicas that hold the same log. */
function newestSuperblock(log: OpenedLog): Superblock {
  return log.members
    .map((member) => member.status.superblock)
    .reduce((best, next) =>
      (next.checkpoint?.coveredThrough ?? -1) > (best.checkpoint?.coveredThrough ?? -1) ? next : best,
    );
}

function mergeReigns(...lists: (readonly Reign[])[]): Reign[] {
  const byEpoch = new Map<number, Reign>();
  for (const reign of lists.flat()) byEpoch.set(reign.epoch, reign);
  return [...byEpoch.values()].sort((a, b) => a.epoch - b.epoch);
}
