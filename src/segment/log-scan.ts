// All segments of a replica, checked as far as the evidence asks.

import type { Disk } from './disk.js';
import { durableThrough, type RecoveryEvidence } from './recovery.js';
import { listSegments, type SegmentScan, scanSegment } from './segment-scan.js';

/** What a power loss may have taken is checked in full, the rest quickly; with a kept page cache only the last write can be torn. */
export function scanLog(disk: Disk, directory: string, evidence: RecoveryEvidence): SegmentScan[] {
  const names = listSegments(disk, directory);
  const last = names.length - 1;
  const scans = names.map((name, i) => scanSegment(disk, directory, name, evidence.cacheSurvived && i === last));
  if (evidence.cacheSurvived) return scans;
  const durable = durableThrough(scans, evidence);
  return scans.map((scan) => (scan.full || scan.seq <= durable ? scan : scanSegment(disk, directory, scan.name, true)));
}
