// The records of a metadata store, as far as pools prove them. What they can't know is named, and everything is chosen so that nothing
// stale can win: the in-sync set holds only replicas that stand at the newest end there is, epochs and set versions lie far above all
// that was found, so that also a replica that turns up later is behind.

import {
  type Clock,
  type GroupId,
  HoldfastError,
  precondition,
  type ReplicaId,
  type SnapshotId,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import type { RestingSnapshot } from '../engine/index.js';
import type { Member } from '../format/index.js';
import type { GroupRecord, ReplicaRecord, SnapshotRecord, VolumeParameters, VolumeRecord } from '../meta/index.js';
import { chooseReplica } from './choose-replica.js';
import { encryptionOf, type FoundReplica, type FoundVolume, isMember, logFacts } from './inspect-volume.js';

/** Further than any volume was opened, or its set changed, while a replica was not looked at. */
export const MARGIN: number = 2 ** 20;

/** What a volume's replicas do not tell; a person or Kubernetes must. */
export const unknown: readonly string[] = [
  'claims and publications: every volume is detached',
  'limits (maxReadIops and the like), nodeSelector, diskSelector and the topology it was placed under',
  'names of snapshots and groups; their ids are kept',
  'whether a filesystem was made: a volume with data is never formatted again',
  'what a clone was made from',
  'volumes and snapshots that were being deleted: they are back',
];

/** Who decided what, kept in the store under rescue/<volume id>. */
export interface RescueRecord {
  readonly rescuedMs: number;
  readonly readFrom: string;
  readonly setVersionFound: number;
  readonly epochFound: number;
  /** Members that were not found though the newest set names them, and were given up by command. */
  readonly acceptedLoss: readonly Member[];
  readonly warnings: readonly string[];
}

export interface RebuiltVolume {
  readonly volume: VolumeRecord;
  readonly snapshots: readonly SnapshotRecord[];
  readonly rescue: RescueRecord;
  /** Sentences: what was left out, guessed or not certain. */
  readonly notes: readonly string[];
}

/**
 * Throws FAILED_PRECONDITION when not every replica that may hold newer data was found and the loss was not accepted, UNAVAILABLE or
 * DATA_LOSS when none that was found can be trusted.
 */
export async function rebuildVolume(found: FoundVolume, acceptLoss: boolean, clock: Clock): Promise<RebuiltVolume> {
  refuseCopies(found);
  if (!acceptLoss) refuseAbsence(found);
  const { source, others, warnings, at } = chosen(found, acceptLoss);
  // Where its own copy of the map is damaged an engine would take parts of it from the others.
  const log = at.log ?? (await logFacts(source, others, clock));
  const notes = [...warnings];
  const { volumeId } = found;
  const { superblock } = source.status;
  const inSync = atEnd(found, at);
  const { epoch, setVersion } = highest(found);
  const rescuedMs = clock.wallMs();
  const parameters = parametersOf(found, notes);
  const volume: VolumeRecord = {
    id: volumeId,
    name: superblock.parameters.name ?? '',
    state: 'ready',
    createdMs: source.createdMs ?? rescuedMs,
    sizeBytes: Math.max(log.sizeBytes, superblock.sizeBytes),
    lineageId: superblock.lineageId,
    parameters,
    qos: {},
    replicas: replicaRecords(found, inSync, parameters.replicas, notes),
    inSync,
    setVersion: setVersion + MARGIN,
    epoch: epoch + MARGIN,
    reignId: null,
    engine: null,
    publications: [],
    wrappedKey: encryptionOf(found)?.wrappedKey ?? null,
    // "raw": whatever is in it is left alone; it is mounted as it is.
    formatted: { state: log.allocatedBytes === 0 && log.snapshots.length === 0 ? 'never' : 'raw' },
    flushedPoint: superblock.flushed,
  };
  if (parameters.encryption !== 'none' && volume.wrappedKey === null)
    notes.push('it is encrypted and its wrapped data key is in no superblock: without that its contents are lost');
  const rescue: RescueRecord = {
    rescuedMs,
    readFrom: source.directory,
    setVersionFound: setVersion,
    epochFound: epoch,
    acceptedLoss: acceptLoss ? found.absent : [],
    warnings,
  };
  return { volume, snapshots: log.snapshots.map((snapshot) => snapshotRecord(volumeId, snapshot)), rescue, notes };
}

function refuseCopies({ volumeId, replicas }: FoundVolume): void {
  const directories = new Map<ReplicaId, string>();
  for (const { replica } of replicas) {
    if (replica === null) continue;
    const other = directories.get(replica.replicaId);
    if (other !== undefined)
      throw precondition(
        `volume ${volumeId}: replica ${replica.replicaId} was found twice, in ${other} and ${replica.directory}: one is a copy; name the original only`,
      );
    directories.set(replica.replicaId, replica.directory);
  }
}

function refuseAbsence({ volumeId, set, absent, replicas, superblock }: FoundVolume): void {
  const accept = `--accept-loss ${volumeId} goes on without them, and what they alone hold is lost`;
  if (absent.length > 0)
    throw precondition(
      `volume ${volumeId}: in-sync set ${set!.setVersion} (as ${set!.from} has it) names ${absent.map((member) => member.replicaId).join(', ')}, which is in none of the directories and may hold newer data. Name its pool too; ${accept}`,
      'TooFewReplicas',
    );
  const wanted = Number(superblock?.parameters.replicas);
  if (wanted > replicas.length)
    throw precondition(
      `volume ${volumeId} has ${wanted} replicas, ${replicas.length} were found: one that is missing may have gone on without these. Name its pool too; ${accept}`,
      'TooFewReplicas',
    );
}

/** A damaged or joining log is no start of a volume, whatever is accepted: no engine would open it. */
function chosen(found: FoundVolume, acceptLoss: boolean) {
  const choice = chooseReplica(found, acceptLoss);
  const at = found.replicas.find(({ replica }) => replica === choice.source)!;
  if (at.problem === '') return { ...choice, at };
  const why = found.replicas.map(({ place, problem }) => `${place.directory}: ${problem || 'whole, but no member'}`);
  throw new HoldfastError(
    'DATA_LOSS',
    `volume ${found.volumeId}: no replica of its in-sync set has a whole log, so no engine would open it (${why.join('; ')}); read out what is left with "holdfast rescue read --force"`,
    { reason: 'Corrupt' },
  );
}

/** Those that hold exactly what the chosen one holds: same end, same digest, which stands for the whole chain of frames. */
function atEnd({ replicas, set }: FoundVolume, chosenOne: FoundReplica): ReplicaId[] {
  const { end } = chosenOne.replica!.status;
  return replicas
    .filter((found) => {
      if (found === chosenOne) return true;
      if (found.replica === null || found.problem !== '') return false;
      const other = found.replica.status.end;
      const member = set === null || set.members.some((one) => isMember(found, one));
      return member && other.epoch === end.epoch && other.seq === end.seq && other.digest === end.digest;
    })
    .map(({ replica }) => replica!.replicaId);
}

function highest({ replicas, set }: FoundVolume): { epoch: number; setVersion: number } {
  let epoch = 0;
  let setVersion = set?.setVersion ?? 0;
  for (const { replica } of replicas) {
    if (replica === null) continue;
    const { superblock, end } = replica.status;
    epoch = Math.max(epoch, end.epoch, superblock.promised.epoch);
    for (const reign of superblock.reigns) epoch = Math.max(epoch, reign.epoch);
    setVersion = Math.max(setVersion, superblock.setVersion);
  }
  return { epoch, setVersion };
}

/** In-sync ones, and others that may return to the set by catching up, the set's members first. */
function replicaRecords(found: FoundVolume, inSync: readonly ReplicaId[], most: number, notes: string[]) {
  const rank = (one: FoundReplica) =>
    Number(inSync.includes(one.replica!.replicaId)) * 2 +
    Number(found.set?.members.some((member) => isMember(one, member)) ?? true);
  const usable = found.replicas.filter((one) => {
    if (one.replica === null) notes.push(`${one.place.directory} was left out: ${one.problem}`);
    return one.replica !== null && !isStranger(found, one, notes);
  });
  usable.sort((a, b) => rank(b) - rank(a));
  const records: ReplicaRecord[] = [];
  for (const one of usable) {
    const { replicaId, nodeId, poolId, incarnationId } = one.replica!.status.superblock;
    if (records.length >= Math.max(most, inSync.length)) {
      notes.push(`${one.place.directory} was left out: the volume has ${records.length} replicas without it`);
      continue;
    }
    records.push({ id: replicaId, nodeId, poolId: one.place.poolId ?? poolId, incarnationId, state: 'ok' });
    if (inSync.includes(replicaId)) continue;
    const why = one.problem || 'its log does not end where the newest one does';
    notes.push(`the replica in ${one.place.directory} is not in sync (${why}): it will be brought up to date`);
  }
  return records;
}

/** A directory that belongs elsewhere, or a disk that came back empty in the place of a member. */
function isStranger(found: FoundVolume, one: FoundReplica, notes: string[]): boolean {
  const { superblock } = one.replica!.status;
  const member = found.set?.members.find(({ replicaId }) => replicaId === superblock.replicaId);
  const replaced = member !== undefined && member.incarnationId !== superblock.incarnationId;
  const moved = /^(moved|copied|retired):/.test(one.problem);
  const foreign = superblock.volumeId !== found.volumeId;
  if (replaced) notes.push(`${one.place.directory} was left out: it is not the incarnation that the set names`);
  else if (moved || foreign) notes.push(`${one.place.directory} was left out: ${one.problem}`);
  return replaced || moved || foreign;
}

const words = {
  dataLocality: ['disabled', 'preferred', 'required'],
  compression: ['lz4', 'none', 'zstd'],
  encryption: ['none', 'aes-256-gcm', 'chacha20-poly1305'],
} as const;

/** As the superblocks have them from CreateVolume on; what they don't have is said. */
function parametersOf({ superblock, replicas }: FoundVolume, notes: string[]): VolumeParameters {
  const found = superblock?.parameters ?? {};
  const missing: string[] = [];
  const text = (key: keyof VolumeParameters, fallback: string): string => {
    if (found[key] === undefined) missing.push(`${key} (${fallback || 'none'})`);
    return found[key] ?? fallback;
  };
  const word = <K extends keyof typeof words>(key: K): (typeof words)[K][number] => {
    const known: readonly (typeof words)[K][number][] = words[key];
    const said = text(key, known[0]!);
    return known.find((one) => one === said) ?? known[0]!;
  };
  const count = (key: 'replicas' | 'minReplicas', fallback: number): number => {
    const value = Number(text(key, String(fallback)));
    return Number.isInteger(value) && value >= 1 ? value : fallback;
  };
  const parameters: VolumeParameters = {
    replicas: count('replicas', replicas.length),
    minReplicas: count('minReplicas', 1),
    failureDomain: text('failureDomain', 'node'),
    dataLocality: word('dataLocality'),
    compression: word('compression'),
    encryption: word('encryption'),
    keyProvider: text('keyProvider', 'secret'),
    fsType: text('fsType', ''),
    mkfsOptions: text('mkfsOptions', ''),
    mountOptions: text('mountOptions', ''),
  };
  if (missing.length > 0) notes.push(`its superblocks do not say, so it was assumed: ${missing.join(', ')}`);
  return parameters;
}

function snapshotRecord(volumeId: VolumeId, snapshot: RestingSnapshot): SnapshotRecord {
  const { snapshotId, groupId, wallMs, sizeBytes } = snapshot;
  const group = groupId === (zeroUuid as GroupId) ? {} : { groupId };
  return { id: snapshotId, name: '', volumeId, ...group, state: 'ready', createdMs: wallMs, sizeBytes };
}

/** Groups of what was found; a member whose volume was not is missing in its group. */
export function groupsOf(snapshots: readonly SnapshotRecord[]): GroupRecord[] {
  const members = new Map<GroupId, { volumeId: VolumeId; snapshotId: SnapshotId; createdMs: number }[]>();
  for (const { groupId, volumeId, id, createdMs } of snapshots) {
    if (groupId === undefined) continue;
    const list = members.get(groupId) ?? [];
    list.push({ volumeId, snapshotId: id, createdMs });
    members.set(groupId, list);
  }
  return [...members].map(([id, list]) => ({
    id,
    name: `rescued-${id}`,
    state: 'ready',
    createdMs: Math.min(...list.map((member) => member.createdMs)),
    members: list
      .sort((a, b) => (a.volumeId < b.volumeId ? -1 : 1))
      .map(({ volumeId, snapshotId }) => ({ volumeId, snapshotId })),
  }));
}
