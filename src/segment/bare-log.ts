// The log of a replica's directory as it lies there, for reading only: the same scan and the same table of recovery cases as for a
// replica that is opened to serve (recovery.ts), but nothing is cut, trimmed, synced or locked. A torn tail is not shown.
//
// Owner: whoever opened it. Files are opened as they are needed and closed again beyond a bound. May fail: the disk, at any call.

import { asHoldfastError, corrupt, HoldfastError, notFound } from '../base/index.js';
import { type SegmentHeader, type SegmentName, segmentFileName } from '../format/index.js';
import type { Disk, DiskFile } from './disk.js';
import { FileReads, type LogRange, type RowsEnded } from './file-reads.js';
import { type WalkedFrame, walkFrames } from './frame-walk.js';
import { scanLog } from './log-scan.js';
import { decideRecovery, type RecoveryEvidence } from './recovery.js';
import type { LogEnd } from './segment-log.js';
import { segmentPath, walkStart } from './segment-scan.js';

const FILES_MAX = 64;

export interface BareSegment {
  readonly name: SegmentName;
  readonly header: SegmentHeader;
  readonly path: string;
  readonly lastSeq: number;
  readonly lastDigest: Buffer;
  /** Header and valid frames. */
  readonly length: number;
  readonly sealed: boolean;
}

export class BareLog {
  readonly segments: readonly BareSegment[];
  readonly end: LogEnd;
  /** Why what follows the end can't be had; null when nothing is missing. */
  readonly damage: string | null;
  /** The highest claim of any frame or of the superblock that a point is durable on every in-sync replica. */
  readonly flushedThrough: number;
  readonly #directory: string;
  readonly #disk: Disk;
  readonly #byName = new Map<string, BareSegment>();
  /** Least recently opened first. */
  readonly #files = new Map<string, DiskFile>();
  readonly #reads = new FileReads();

  constructor(disk: Disk, directory: string, evidence: RecoveryEvidence) {
    this.#disk = disk;
    this.#directory = directory;
    const scans = scanLog(disk, directory, evidence);
    const verdict = decideRecovery(scans, evidence);
    const segments: BareSegment[] = [];
    for (const { name, header, seq, digest, length, sealed } of scans.slice(0, verdict.kept)) {
      if (typeof header === 'string') throw corrupt(header);
      const path = segmentPath(directory, name);
      const segment = { name, header, path, lastSeq: seq, lastDigest: Buffer.from(digest), length, sealed };
      segments.push(segment);
      this.#byName.set(segmentFileName(name), segment);
    }
    this.segments = segments;
    this.end = { ...verdict.end, digest: Buffer.from(verdict.end.digest) };
    this.damage = verdict.verdict === 'damage' ? verdict.text : null;
    this.flushedThrough = verdict.flushedThrough;
  }

  /** As SegmentLog.read(): tells `ended` of every range and does not throw. */
  read(ranges: readonly LogRange[], ended: RowsEnded): void {
    const reads = this.#reads;
    reads.clear();
    try {
      for (const { segment: name, offset, into } of ranges) {
        const segment = this.#inside(name, offset, into.length);
        reads.add(this.#file(segment.path), offset, into, 0, into.length);
      }
    } catch (error) {
      return ended(asHoldfastError(error), null);
    }
    this.#disk.readAll(reads, ended);
    this.#closeBeyond(FILES_MAX);
  }

  /** Frames of one segment in order, headers checked, bodies not. */
  frames(name: SegmentName): WalkedFrame[] {
    const segment = this.#inside(name, 0, 0);
    const { context, start } = walkStart(segment.header);
    const frames: WalkedFrame[] = [];
    const end = walkFrames(this.#file(segment.path), context, start, false, (frame) => {
      if (frame.offset >= segment.length) return false;
      frames.push({ ...frame, digest: Buffer.from(frame.digest) });
      return true;
    });
    this.#closeBeyond(FILES_MAX);
    if (end.offset < segment.length)
      throw corrupt(`${segment.path}, offset ${end.offset}: bad frame (${end.fault ?? 'missing'})`);
    return frames;
  }

  close(): void {
    this.#closeBeyond(0);
  }

  #inside(name: SegmentName, offset: number, length: number): BareSegment {
    const segment = this.#byName.get(segmentFileName(name));
    if (segment === undefined) throw notFound(`segment ${segmentFileName(name)} is not in ${this.#directory}`);
    if (offset >= 0 && offset + length <= segment.length) return segment;
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `${segment.path}: bytes ${offset} to ${offset + length} were asked for, it holds ${segment.length}`,
    );
  }

  #file(path: string): DiskFile {
    let file = this.#files.get(path);
    if (file === undefined) {
      file = this.#disk.openFile(path, 'read');
      this.#files.set(path, file);
    }
    return file;
  }

  #closeBeyond(most: number): void {
    for (const [path, file] of this.#files) {
      if (this.#files.size <= most) return;
      file.close();
      this.#files.delete(path);
    }
  }
}
