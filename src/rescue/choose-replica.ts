// Whose log counts, by the rule of an open (engine/open.ts): among members of the newest known in-sync set that are whole, those whose
// page cache survived, and of these the one with the highest end. `force` takes what an open would refuse, in the order of what is left.

import { HoldfastError, messageOf, type NodeId, precondition } from '../base/index.js';
import { chooseSource, durableThrough } from '../engine/index.js';
import type { BareReplica } from '../replica/index.js';
import { type FoundReplica, type FoundVolume, isMember } from './inspect-volume.js';

export interface Choice {
  readonly source: BareReplica;
  /** Give what the source can't: whole ones first. */
  readonly others: readonly BareReplica[];
  /** Sentences that must be shown: what is not certain about this choice. */
  readonly warnings: readonly string[];
}

/** Throws FAILED_PRECONDITION, UNAVAILABLE or DATA_LOSS saying why no replica can be trusted and what `force` would do. */
export function chooseReplica(volume: FoundVolume, force: boolean): Choice {
  const opened = volume.replicas.filter((found) => found.replica !== null);
  if (opened.length === 0) {
    const why = volume.replicas.map(({ place, problem }) => `${place.directory}: ${problem}`).join('; ');
    throw new HoldfastError('DATA_LOSS', `volume ${volume.volumeId}: no replica can be opened (${why})`, {
      reason: 'Corrupt',
    });
  }
  if (!force) refuseAbsence(volume);
  const warnings = absenceWarnings(volume);
  try {
    const source = trusted(volume, opened);
    warnings.push(...longerWarnings(volume, opened, source));
    return { source, others: othersOf(opened, source, force), warnings };
  } catch (error) {
    if (!(error instanceof HoldfastError) || (error.code !== 'UNAVAILABLE' && error.code !== 'DATA_LOSS')) throw error;
    if (!force)
      throw new HoldfastError(
        error.code,
        `${error.message}. Name the pools that are missing, or read what is here with --force, which may be old`,
        { reason: error.reason, cause: error },
      );
    const found = bestOf(volume, opened);
    const source = found.replica!;
    const state = found.problem === '' ? 'it looks whole' : found.problem;
    const forced = `BY FORCE: an open would refuse (${messageOf(error)}). The replica in ${source.directory} is read instead; ${state}. What is read may be OLD OR INCOMPLETE`;
    return { source, others: othersOf(opened, source, force), warnings: [forced, ...warnings] };
  }
}

/** An open knows from the metadata which set is the newest. Here one that went on without these replicas can't be excluded. */
function refuseAbsence({ volumeId, set, absent }: FoundVolume): void {
  if (absent.length === 0) return;
  throw precondition(
    `volume ${volumeId}: in-sync set ${set!.setVersion} (as ${set!.from} has it) names ${absent.map((member) => member.replicaId).join(', ')}, found in none of the directories, which may hold newer data. Name its pool too, or read what is here with --force, which may be old`,
    'TooFewReplicas',
  );
}

function absenceWarnings({ set, absent, replicas, superblock }: FoundVolume): string[] {
  if (absent.length > 0)
    return [
      `of in-sync set ${set!.setVersion} the replicas ${absent.map((member) => member.replicaId).join(', ')} are in none of the directories; if one of them went on alone, what is read here is old`,
    ];
  const wanted = Number(superblock?.parameters.replicas);
  if (wanted > replicas.length)
    return [
      `the volume has ${wanted} replicas, ${replicas.length} were found; if another one went on alone, what is read here is old`,
    ];
  return [];
}

/** Those that lost their page cache are not asked while one that kept it is there, also where they have more. */
function longerWarnings(volume: FoundVolume, opened: readonly FoundReplica[], source: BareReplica): string[] {
  const { end } = source.status;
  return opened
    .filter((found) => inSet(volume, found) && found.problem === '')
    .map(({ replica }) => replica!)
    .filter(({ status }) => isAbove([status.end.epoch, status.end.seq], [end.epoch, end.seq]))
    .map(
      ({ directory, status }) =>
        `the log in ${directory} goes on to ${status.end.epoch}/${status.end.seq}; an open leaves that out, since not every replica had it and so it was not acknowledged. To read it all the same name that directory alone, with --force`,
    );
}

function candidate(found: FoundReplica) {
  const port = found.replica!;
  // Whatever makes it no source counts as damage here.
  const damage = found.problem === '' ? null : found.problem;
  return { member: { nodeId: port.nodeId }, port, status: { ...port.status, damage } };
}

function inSet({ set }: FoundVolume, found: FoundReplica): boolean {
  return set === null || set.members.some((member) => isMember(found, member));
}

function trusted(volume: FoundVolume, opened: readonly FoundReplica[]): BareReplica {
  const absent = volume.absent.map(({ replicaId }) => {
    const error = precondition(`replica ${replicaId} is in none of the directories`);
    return { member: { nodeId: 'elsewhere' as NodeId }, error };
  });
  const reached = opened.filter((found) => inSet(volume, found)).map(candidate);
  return chooseSource(volume.volumeId, reached, absent, [], durableThrough(reached, null)).source.port;
}

/** Members first, then whole ones, then those that are not joining, then by their ends. */
function bestOf(volume: FoundVolume, opened: readonly FoundReplica[]): FoundReplica {
  const rank = (found: FoundReplica): number[] => {
    const { status } = found.replica!;
    const { superblock, end } = status;
    const sound = [inSet(volume, found), found.problem === '', !superblock.joining].map(Number);
    return [...sound, end.epoch, end.seq];
  };
  return opened.reduce((best, next) => (isAbove(rank(next), rank(best)) ? next : best));
}

function isAbove(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && a[at]! > b[at]!;
}

/** Joining and damaged ones only by force: what they have is verified record by record, but an open would not ask them. */
function othersOf(opened: readonly FoundReplica[], source: BareReplica, force: boolean): BareReplica[] {
  return opened
    .filter(({ replica, problem }) => replica !== source && (problem === '' || force))
    .sort((a, b) => Number(b.problem === '') - Number(a.problem === ''))
    .map(({ replica }) => replica!);
}
