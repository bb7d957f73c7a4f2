// How orders change a superblock. Pure.

import type { CheckpointPlace, LogPoint, Reign, SegmentName, Superblock } from '../format/index.js';
import type { DescribeUpdate } from '../wire/index.js';

/** Applies an update; what is not named stays. Points and reigns only move forward, so a repeat changes nothing. */
export function describeSuperblock(current: Superblock, update: DescribeUpdate): Superblock {
  const checkpoint = update.checkpoint;
  const newer = checkpoint !== undefined && !sameCheckpoint(checkpoint, current.checkpoint);
  const flushed =
    update.flushed !== undefined && update.flushed.seq >= (current.flushed?.seq ?? 0)
      ? update.flushed
      : current.flushed;
  return {
    ...current,
    sizeBytes: update.sizeBytes ?? current.sizeBytes,
    wrappedKey: update.wrappedKey === undefined ? current.wrappedKey : update.wrappedKey,
    parameters: { ...current.parameters, ...update.parameters },
    setVersion: update.setVersion ?? current.setVersion,
    members: update.members ?? current.members,
    flushed,
    checkpoint: newer ? checkpoint : current.checkpoint,
    previousCheckpoint: newer ? current.checkpoint : current.previousCheckpoint,
    joining: update.joining ?? current.joining,
    reigns: update.addReign === undefined ? current.reigns : withReign(current.reigns, update.addReign),
  };
}

function sameCheckpoint(a: CheckpointPlace, b: CheckpointPlace | null): boolean {
  return b !== null && JSON.stringify(a) === JSON.stringify(b);
}

function withReign(reigns: readonly Reign[], added: Reign): readonly Reign[] {
  if (reigns.some((reign) => reign.epoch === added.epoch && reign.reignId === added.reignId)) return reigns;
  return [...reigns, added].sort((a, b) => a.epoch - b.epoch);
}

/** Where a log ends after a cut. */
export interface CutPlace {
  readonly point: LogPoint;
  /** The segment that keeps frames, and the end of the last one; null when nothing is left. */
  readonly segment: SegmentName | null;
  readonly offset: number;
}

/**
 * What may still be said once every frame behind `place` is gone: no checkpoint and no flushed point beyond it. Written before
 * the first frame goes, else a crash in between would look like lost flushed bytes. The same object when nothing changes.
 */
export function superblockForCut(current: Superblock, place: CutPlace): Superblock {
  const { point } = place;
  const flushed =
    current.flushed === null || current.flushed.seq <= point.seq ? current.flushed : point.seq === 0 ? null : point;
  const stands = current.checkpoint === null || checkpointStands(current.checkpoint, place);
  const previous =
    current.previousCheckpoint !== null && checkpointStands(current.previousCheckpoint, place)
      ? current.previousCheckpoint
      : null;
  if (flushed === current.flushed && stands && previous === current.previousCheckpoint) return current;
  return {
    ...current,
    flushed,
    checkpoint: stands ? current.checkpoint : previous,
    previousCheckpoint: stands ? previous : null,
  };
}

function checkpointStands(checkpoint: CheckpointPlace, place: CutPlace): boolean {
  if (place.segment === null || checkpoint.coveredThrough > place.point.seq) return false;
  if (checkpoint.segment.ordinal !== place.segment.ordinal) return checkpoint.segment.ordinal < place.segment.ordinal;
  return checkpoint.segment.epoch === place.segment.epoch && checkpoint.frameOffset < place.offset;
}
