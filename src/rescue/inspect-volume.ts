// What some bare replicas prove about their volume: each looked at by itself, then the newest in-sync set that any of them names.
//
// Owner: whoever asked, until close(). Nothing is changed. Memory: the segment list of each replica, and one map at a time.

import { type Clock, type LineageId, messageOf, silentLogger, type VolumeId } from '../base/index.js';
import { openVolumeReader, type RestingSnapshot, type SetNamed } from '../engine/index.js';
import type { Member, Superblock, WrappedKey } from '../format/index.js';
import { BareReplica } from '../replica/index.js';
import { type Disk, directoryUsage } from '../segment/index.js';
import type { ReplicaPlace } from './find-replicas.js';

/** What a log says without the help of other replicas. */
export interface LogFacts {
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly snapshots: readonly RestingSnapshot[];
  readonly set: SetNamed | null;
}

export interface FoundReplica {
  readonly place: ReplicaPlace;
  /** Null when it can't be opened: `problem` says why. */
  readonly replica: BareReplica | null;
  /** Null when its log alone does not tell: `logProblem` says why. */
  readonly log: LogFacts | null;
  readonly logProblem: string;
  readonly usage: { readonly storedBytes: number; readonly sharedBytes: number };
  /** A sentence when it is no source: not opened, damaged, joining, failed, moved. Empty when it is whole. */
  readonly problem: string;
}

export interface KnownSet extends SetNamed {
  /** Directory of the replica that names it. */
  readonly from: string;
}

export interface FoundVolume {
  readonly volumeId: VolumeId;
  /** Null when no replica could be opened. */
  readonly superblock: Superblock | null;
  readonly replicas: readonly FoundReplica[];
  /** The newest one that a superblock or a log names. */
  readonly set: KnownSet | null;
  /** Members of that set that were not found. */
  readonly absent: readonly Member[];
  close(): void;
}

export async function inspectVolume(
  disk: Disk,
  volumeId: VolumeId,
  places: readonly ReplicaPlace[],
  clock: Clock,
): Promise<FoundVolume> {
  const replicas: FoundReplica[] = [];
  const close = () => {
    for (const { replica } of replicas) replica?.close();
  };
  try {
    for (const place of places) replicas.push(await inspectReplica(disk, volumeId, place, clock));
  } catch (error) {
    close();
    throw error;
  }
  const set = newestSet(replicas);
  const superblock = newestSuperblock(replicas);
  const absent = (set?.members ?? []).filter((member) => !replicas.some((found) => isMember(found, member)));
  return { volumeId, superblock, replicas, set, absent, close };
}

async function inspectReplica(
  disk: Disk,
  volumeId: VolumeId,
  place: ReplicaPlace,
  clock: Clock,
): Promise<FoundReplica> {
  let replica: BareReplica | null = null;
  let problem = '';
  try {
    replica = BareReplica.open(disk, place.directory);
    problem = problemOf(replica, volumeId, place);
  } catch (error) {
    problem = messageOf(error);
  }
  let usage = { storedBytes: 0, sharedBytes: 0 };
  let log: LogFacts | null = null;
  let logProblem = '';
  try {
    usage = directoryUsage(disk, place.directory);
    if (replica !== null) log = await logFacts(replica, [], clock);
  } catch (error) {
    logProblem = messageOf(error);
  }
  return { place, replica, log, logProblem, usage, problem };
}

function problemOf({ status, directory }: BareReplica, volumeId: VolumeId, place: ReplicaPlace): string {
  const { superblock } = status;
  if (superblock.volumeId !== volumeId)
    return `moved: ${directory} holds a replica of volume ${superblock.volumeId}, not of ${volumeId}`;
  if (place.poolId !== null && superblock.poolId !== place.poolId)
    return `copied: it belongs to pool ${superblock.poolId}, and lies in pool ${place.poolId}`;
  if (superblock.retired) return 'retired: it was to be deleted';
  if (superblock.joining) return 'joining: it had not been brought up to date';
  return status.damage === null ? '' : `damaged: ${status.damage}`;
}

/** Rejects with DATA_LOSS when the log can't be read from it and the others. */
export async function logFacts(replica: BareReplica, others: readonly BareReplica[], clock: Clock): Promise<LogFacts> {
  const { volumeId, lineageId } = replica.status.superblock;
  const resting = [replica, ...others].map((port) => ({ port, status: port.status }));
  const parts = { volumeId, lineageId, dataKey: null, clock, logger: silentLogger };
  const reader = await openVolumeReader({ ...parts, source: resting[0]!, others: resting.slice(1) });
  try {
    const { sizeBytes, allocatedBytes, set } = reader;
    return { sizeBytes, allocatedBytes, set, snapshots: [...reader.snapshots] };
  } finally {
    reader.close();
  }
}

/** Of the same version a log's entry is the better one: a superblock names those, too, that are about to join. */
function newestSet(replicas: readonly FoundReplica[]): KnownSet | null {
  let newest: KnownSet | null = null;
  for (const { replica, log, place } of replicas) {
    if (replica === null) continue;
    const from = place.directory;
    const { setVersion, members } = replica.status.superblock;
    if (members.length > 0 && setVersion > (newest?.setVersion ?? -1)) newest = { setVersion, members, from };
    const named = log?.set;
    if (named && named.members.length > 0 && named.setVersion >= (newest?.setVersion ?? -1))
      newest = { setVersion: named.setVersion, members: named.members, from };
  }
  return newest;
}

function newestSuperblock(replicas: readonly FoundReplica[]): Superblock | null {
  let newest: Superblock | null = null;
  for (const { replica } of replicas) {
    const found = replica?.status.superblock;
    if (found && (newest === null || isNewer(found, newest))) newest = found;
  }
  return newest;
}

/** One that left the set is not told any more what the volume is to be. */
function isNewer(one: Superblock, other: Superblock): boolean {
  if (one.promised.epoch !== other.promised.epoch) return one.promised.epoch > other.promised.epoch;
  return one.setVersion > other.setVersion;
}

export function isMember({ replica }: FoundReplica, member: Member): boolean {
  const found = replica?.status.superblock;
  return found?.replicaId === member.replicaId && found.incarnationId === member.incarnationId;
}

/** What superblocks say of the encryption of their volume. */
export function encryptionOf(volume: FoundVolume): {
  readonly cipher: string;
  readonly wrappedKey: WrappedKey | null;
  readonly lineageId: LineageId;
} | null {
  if (volume.superblock === null) return null;
  const { lineageId } = volume.superblock;
  let wrappedKey: WrappedKey | null = null;
  let cipher = 'none';
  for (const { replica } of volume.replicas) {
    const found = replica?.status.superblock;
    if (found === undefined) continue;
    wrappedKey ??= found.wrappedKey ?? wrappedKeyIn(found.parameters.wrappedKey);
    if (found.parameters.encryption !== undefined) cipher = found.parameters.encryption;
  }
  if (cipher === 'none' && wrappedKey !== null) cipher = 'unknown';
  return { cipher, wrappedKey, lineageId };
}

/** CreateVolume puts the wrapped key among the parameters; null when what stands there is none. */
function wrappedKeyIn(text: string | undefined): WrappedKey | null {
  if (text === undefined) return null;
  let found: Partial<WrappedKey> | null;
  try {
    found = JSON.parse(text) as Partial<WrappedKey> | null;
  } catch {
    return null;
  }
  const { cipher, wrappedBy, blob } = found ?? {};
  if (typeof cipher !== 'string' || typeof wrappedBy !== 'string' || typeof blob !== 'string') return null;
  return { cipher, wrappedBy, blob };
}
