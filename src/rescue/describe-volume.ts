// What was found of a volume, for people and for programs.

import { formatBytes, zeroUuid } from '../base/index.js';
import { encryptionOf, type FoundReplica, type FoundVolume, isMember } from './inspect-volume.js';

type ReplicaState = 'in set' | 'left the set' | 'joining' | 'damaged' | 'unusable';

function stateOf({ set }: FoundVolume, found: FoundReplica): ReplicaState {
  if (found.replica === null) return 'unusable';
  if (found.problem.startsWith('joining')) return 'joining';
  if (found.problem.startsWith('damaged')) return 'damaged';
  if (found.problem !== '') return 'unusable';
  return set === null || set.members.some((member) => isMember(found, member)) ? 'in set' : 'left the set';
}

/** The log that knows most, for what is said of the volume as a whole. */
function bestLog({ replicas }: FoundVolume) {
  const seq = (found: FoundReplica) => (found.problem === '' ? 1e15 : 0) + (found.replica?.status.end.seq ?? 0);
  const logs = replicas.filter(({ log }) => log !== null).sort((a, b) => seq(b) - seq(a));
  return logs[0]?.log ?? null;
}

/** As JSON has it. */
export function volumeFacts(volume: FoundVolume): object {
  const log = bestLog(volume);
  const { superblock, set } = volume;
  const encryption = encryptionOf(volume);
  return {
    volumeId: volume.volumeId,
    name: superblock?.parameters.name ?? null,
    lineageId: superblock?.lineageId ?? null,
    sizeBytes: log?.sizeBytes ?? superblock?.sizeBytes ?? null,
    allocatedBytes: log?.allocatedBytes ?? null,
    encryption: encryption?.cipher ?? null,
    wrappedBy: encryption?.wrappedKey?.wrappedBy ?? null,
    replicasWanted: Number(superblock?.parameters.replicas) || null,
    set: set === null ? null : { setVersion: set.setVersion, members: set.members, namedBy: set.from },
    absent: volume.absent,
    replicas: volume.replicas.map((found) => replicaFacts(volume, found)),
    snapshots: (log?.snapshots ?? []).map(({ snapshotId, groupId, sizeBytes, wallMs }) => ({
      snapshotId,
      groupId: groupId === zeroUuid ? null : groupId,
      sizeBytes,
      createdMs: wallMs,
    })),
  };
}

function replicaFacts(volume: FoundVolume, found: FoundReplica): object {
  const status = found.replica?.status;
  const superblock = status?.superblock;
  return {
    directory: found.place.directory,
    state: stateOf(volume, found),
    problem: found.problem,
    logProblem: found.logProblem,
    replicaId: superblock?.replicaId ?? null,
    incarnationId: superblock?.incarnationId ?? null,
    nodeId: superblock?.nodeId ?? null,
    poolId: superblock?.poolId ?? null,
    promisedEpoch: superblock?.promised.epoch ?? null,
    setVersion: superblock?.setVersion ?? null,
    end: status?.end ?? null,
    flushed: superblock?.flushed ?? null,
    flushedThrough: status?.flushedThrough ?? null,
    cacheSurvived: status?.cacheSurvived ?? null,
    ...found.usage,
  };
}

const headings = ['REPLICA', 'INCARNATION', 'NODE', 'STATE', 'SET', 'EPOCH', 'END', 'FLUSHED', 'STORED'];

/** A few lines, with a table of the replicas. */
export function volumeText(volume: FoundVolume): string {
  const log = bestLog(volume);
  const { superblock, set, absent } = volume;
  const name = superblock?.parameters.name;
  const size =
    log === null ? 'size unknown' : `${formatBytes(log.sizeBytes)}, ${formatBytes(log.allocatedBytes)} mapped`;
  const lines = [
    `volume ${volume.volumeId}${name === undefined ? '' : ` ${JSON.stringify(name)}`}: ${size}`,
    `  lineage ${superblock?.lineageId ?? 'unknown'}, encryption ${encryptionOf(volume)?.cipher ?? 'unknown'}`,
  ];
  if (set !== null)
    lines.push(`  in-sync set ${set.setVersion}: ${set.members.map((member) => member.replicaId).join(', ')}`);
  for (const member of absent) lines.push(`  NOT FOUND: replica ${member.replicaId} of that set`);
  lines.push(...table([headings, ...volume.replicas.map((found) => row(volume, found))]));
  for (const { place, problem, logProblem } of volume.replicas) {
    lines.push(`  ${place.directory}`);
    for (const text of [problem, logProblem]) if (text !== '') lines.push(`    ${text}`);
  }
  for (const snapshot of log?.snapshots ?? [])
    lines.push(
      `  snapshot ${snapshot.snapshotId}, ${formatBytes(snapshot.sizeBytes)}, ${new Date(snapshot.wallMs).toISOString()}`,
    );
  return `${lines.join('\n')}\n`;
}

function row(volume: FoundVolume, found: FoundReplica): string[] {
  const status = found.replica?.status;
  if (status === undefined)
    return ['?', '?', '?', 'unusable', '?', '?', '?', '?', formatBytes(found.usage.storedBytes)];
  const { superblock, end, cacheSurvived } = status;
  const state = stateOf(volume, found);
  return [
    superblock.replicaId,
    superblock.incarnationId,
    superblock.nodeId,
    // Its end may lack what was acknowledged and not flushed.
    cacheSurvived ? state : `${state}, restarted`,
    String(superblock.setVersion),
    String(superblock.promised.epoch),
    `${end.epoch}/${end.seq}`,
    String(status.flushedThrough),
    formatBytes(found.usage.storedBytes),
  ];
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((cells) => cells[column]!.length)));
  return rows.map((cells) => `  ${cells.map((cell, column) => cell.padEnd(widths[column]!)).join('  ')}`.trimEnd());
}
