// The segment files of one replica: append, read, cut, delete, account. Syncing is log-sync.ts.
//
// Owner: one Replica. Invariants: `end` is the last frame that was written whole and follows its predecessor; every segment but the last
// may be read up to its length, nothing beyond is ever shown; a file with unsynced bytes keeps the descriptor they were written through, so
// that a failed write-back is reported to our sync. A cut never truncates: whole segments go newest first, the kept prefix of one is
// written as a new file and renamed. Only bytes that are no part of the log are truncated: a torn tail's remains in files with one name,
// and zeroes. What can't be read is damage of that place (DATA_LOSS). A file may be longer than its log: zeroes are written ahead while a
// flush waits for the disk (zero-ahead.ts), never below the log's end; they are cut off when the segment was sealed, or nothing is expected
// to be written to it. May fail: full or failing disk, at any call.

import { asHoldfastError, assert, corrupt, HoldfastError, notFound } from '../base/index.js';
import {
  DIGEST_SIZE,
  SEGMENT_HEADER_SIZE,
  type SegmentHeader,
  type SegmentName,
  segmentFileName,
} from '../format/index.js';
import { type Disk, type DiskFile, synced } from './disk.js';
import { FileDeletion } from './file-deletion.js';
import { FileReads, type LogRange, type RowsEnded } from './file-reads.js';
import { type WalkedFrame, walkFrames } from './frame-walk.js';
import type { HandleCache } from './handle-cache.js';
import { WRITE_BACK_BYTES } from './limits.js';
import { LogCache } from './log-cache.js';
import { scanLog } from './log-scan.js';
import { LogSync } from './log-sync.js';
import type { LogTail } from './log-tail.js';
import { LogZeroes } from './log-zeroes.js';
import { decideRecovery, type RecoveryEvidence, type RecoveryVerdict } from './recovery.js';
import { repairFile } from './repair-file.js';
import { copyBytes } from './replica-directory.js';
import { type SegmentScan, segmentPath, walkStart, zeroDigest } from './segment-scan.js';

/** One segment of an open log. Owned and changed by SegmentLog alone. */
export interface LogSegment {
  readonly name: SegmentName;
  readonly header: SegmentHeader;
  readonly path: string;
  /** header.firstSeq - 1 while it holds no frame. */
  lastSeq: number;
  readonly lastDigest: Buffer;
  /** Header and valid frames. */
  length: number;
  sealed: boolean;
  /** The file may hold bytes beyond `length` that are no zeroes. */
  remains: boolean;
  /** Where the bytes begin that neither a sync nor a write-back has been started for. */
  startedTo: number;
  /** The file holds zeroes from `length` to here, when that is above `length`. */
  zeroedTo: number;
  file: DiskFile | null;
  writable: boolean;
  dirty: boolean;
  syncing: boolean;
  removed: boolean;
}

/** That of an open log is changed in place. */
export interface LogEnd {
  readonly epoch: number;
  readonly seq: number;
  readonly digest: Buffer;
}

/** A point of the log and where it lies. */
export interface LogPlace extends LogEnd {
  /** Null when the log is empty there. */
  readonly segment: SegmentName | null;
  /** End of the frame. */
  readonly offset: number;
}

const emptyEnd: LogEnd = { epoch: 0, seq: 0, digest: zeroDigest };

export class SegmentLog {
  readonly directory: string;
  readonly sync: LogSync;
  readonly cache = new LogCache();
  readonly #disk: Disk;
  readonly #handles: HandleCache;
  #segments: LogSegment[] = [];
  /** By ordinal, which rises through a log and so names a segment. */
  readonly #byOrdinal = new Map<number, LogSegment>();
  readonly #end = { epoch: 0, seq: 0, digest: Buffer.alloc(DIGEST_SIZE) };
  #damage: string | null = null;
  /** Segments beyond a damaged place: on disk, but no part of the log. */
  #beyond: SegmentName[] = [];
  readonly #zeroes: LogZeroes;
  readonly #deletion: FileDeletion;
  readonly #reads = new FileReads();

  private constructor(disk: Disk, directory: string, handles: HandleCache, hasRoom: () => boolean) {
    this.#disk = disk;
    this.directory = directory;
    this.#handles = handles;
    this.#deletion = new FileDeletion(disk, directory);
    this.#zeroes = new LogZeroes({
      hasRoom,
      writable: (segment) => this.#handle(segment, true),
      touched: (segment) => this.sync.touched(segment, 0),
      free: (segment) => {
        if (segment.removed) handles.close(segment);
      },
      failed: (error) => this.sync.fail(error),
    });
    this.sync = new LogSync(disk, directory, {
      open: (segment) => this.#handle(segment, false),
      release: (segment, synced) => {
        if (synced) this.cache.synced(segment);
        if (segment.removed) handles.close(segment);
        else if (synced) this.#zeroes.trim(segment);
      },
      waiting: (bytes) => this.#zeroes.write(this.last, bytes),
    });
  }

  /**
   * Reads the log of `directory` and decides what of it counts. Nothing is changed; a torn tail is there until trim(). `hasRoom`
   * says whether the pool can spare what zeroes take.
   */
  static open(
    disk: Disk,
    directory: string,
    handles: HandleCache,
    evidence: RecoveryEvidence,
    hasRoom: () => boolean,
  ): { log: SegmentLog; verdict: RecoveryVerdict } {
    const log = new SegmentLog(disk, directory, handles, hasRoom);
    const scans = scanLog(disk, directory, evidence);
    const verdict = decideRecovery(scans, evidence);
    for (const scan of scans.slice(0, verdict.kept)) log.#adopt(scan);
    log.#endAt(verdict.end.epoch, verdict.end.seq, verdict.end.digest);
    log.#beyond = scans.slice(verdict.kept).map((scan) => scan.name);
    // What a former process wrote may still wait in the page cache.
    const proven = verdict.durableThrough;
    log.sync.adopt(
      log.#segments.filter((segment) => segment.lastSeq > proven),
      log.#end.seq,
      proven,
    );
    if (verdict.verdict === 'damage') log.#damage = verdict.text;
    return { log, verdict };
  }

  get end(): LogEnd {
    return this.#end;
  }
  get damage(): string | null {
    return this.#damage;
  }
  get segments(): readonly LogSegment[] {
    return this.#segments;
  }
  get last(): LogSegment | undefined {
    return this.#segments.at(-1);
  }
  find(name: SegmentName): LogSegment | undefined {
    const segment = this.#byOrdinal.get(name.ordinal);
    return segment !== undefined && segment.name.epoch === name.epoch ? segment : undefined;
  }

  #adopt(scan: SegmentScan): void {
    assert(typeof scan.header !== 'string', 'a segment without a header is no part of a log');
    this.#insert({
      name: scan.name,
      header: scan.header,
      path: segmentPath(this.directory, scan.name),
      lastSeq: scan.seq,
      lastDigest: Buffer.from(scan.digest),
      length: scan.length,
      sealed: scan.sealed,
      remains: scan.fault !== null,
      startedTo: scan.length,
      zeroedTo: scan.fault === null ? scan.fileSize : 0,
      file: null,
      writable: false,
      dirty: false,
      syncing: false,
      removed: false,
    });
  }

  #insert(segment: LogSegment): void {
    this.#segments.push(segment);
    this.#byOrdinal.set(segment.name.ordinal, segment);
  }

  /** Creates the file of a new last segment, without contents. The caller writes its header with the first append. */
  create(header: SegmentHeader): LogSegment {
    const name: SegmentName = { epoch: header.epoch, ordinal: header.ordinal };
    const path = segmentPath(this.directory, name);
    const segment: LogSegment = {
      name,
      header,
      path,
      lastSeq: header.firstSeq - 1,
      lastDigest: Buffer.from(header.previousDigest),
      length: 0,
      sealed: false,
      remains: false,
      startedTo: 0,
      zeroedTo: 0,
      file: this.#disk.openFile(path, 'create'),
      writable: true,
      dirty: false,
      syncing: false,
      removed: false,
    };
    this.#handles.opened(segment);
    this.#insert(segment);
    this.sync.directoryChanged();
    return segment;
  }

  /** Writes whole frames, checked up to `tail`, at the end of the last segment. On failure nothing counts as appended. */
  append(segment: LogSegment, buffers: readonly Uint8Array[], tail: LogTail): void {
    assert(!segment.sealed && segment === this.last, `append to ${segment.path}, which is not the open end of its log`);
    const file = this.#handle(segment, true);
    this.sync.touched(segment, tail.offset - segment.length);
    try {
      file.write(buffers, segment.length);
    } catch (error) {
      segment.remains = true;
      throw error;
    }
    const { seq, sealed } = tail;
    segment.length = tail.offset;
    segment.lastSeq = seq;
    segment.lastDigest.set(tail.digest);
    segment.sealed = sealed;
    this.#endAt(segment.name.epoch, seq, tail.digest);
    this.sync.appended(seq, sealed);
    if (segment.length - segment.startedTo >= WRITE_BACK_BYTES) {
      file.startWriteBack(segment.startedTo, segment.length - segment.startedTo);
      segment.startedTo = segment.length;
    }
  }

  #endAt(epoch: number, seq: number, digest: Buffer): void {
    this.#end.epoch = epoch;
    this.#end.seq = seq;
    this.#end.digest.set(digest);
  }

  /** Sets `tail` to the log's end. `flushedThrough` is the highest claim known so far. */
  tailInto(tail: LogTail, flushedThrough: number): void {
    const { last } = this;
    tail.clear();
    tail.setFlushedThrough(flushedThrough);
    if (last === undefined) return;
    const context = { name: last.name, volumeId: last.header.volumeId };
    tail.enter(context, this.#end.seq, this.#end.digest, last.length, last.sealed);
  }

  /** Cuts off zeroes that were written ahead: nothing is expected to be appended soon. */
  giveBack(): void {
    if (this.last !== undefined) this.#zeroes.giveBack(this.last);
  }

  /** Resolves when nothing uses a file any more but what is called from now on. */
  async #idle(): Promise<void> {
    await this.sync.idle();
    await this.#zeroes.idle();
  }

  #handle(segment: LogSegment, write: boolean): DiskFile {
    if (segment.file !== null && write && !segment.writable) this.#handles.close(segment);
    if (segment.file === null) {
      segment.writable = write || segment === this.last;
      segment.file = this.#disk.openFile(segment.path, segment.writable ? 'write' : 'read');
      this.#handles.opened(segment);
    }
    return segment.file;
  }

  /**
   * Begins to fill all ranges, and tells `ended` of each; it does not throw. OUT_OF_RANGE beyond the valid end, NOT_FOUND for a
   * segment that is not in the log: then nothing is read. The log may change meanwhile, also lose the segment: what a range asked
   * for stays in the file that was opened, but for a repair, which verification tells.
   */
  read(ranges: readonly LogRange[], ended: RowsEnded): void {
    this.#handles.hold();
    try {
      const refused = this.#rowsOf(ranges);
      if (refused === null) this.#disk.readAll(this.#reads, ended);
      else ended(refused, null);
    } finally {
      this.#handles.release();
    }
  }

  #rowsOf(ranges: readonly LogRange[]): Error | null {
    const reads = this.#reads;
    reads.clear();
    try {
      for (let i = 0; i < ranges.length; i++) {
        const { segment, offset, into } = ranges[i]!;
        const found = this.#inside(segment, offset, into.length);
        reads.add(found.file ?? this.#handle(found, false), offset, into, 0, into.length);
      }
      return null;
    } catch (error) {
      return asHoldfastError(error);
    }
  }

  #inside(name: SegmentName, offset: number, length: number): LogSegment {
    const segment = this.find(name);
    if (segment === undefined) throw notFound(`segment ${segmentFileName(name)} is not in ${this.directory}`);
    if (offset >= 0 && offset + length <= segment.length) return segment;
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `${segment.path}: bytes ${offset} to ${offset + length} were asked for, it holds ${segment.length}`,
    );
  }

  /** Frames of one segment in order, headers checked, bodies not. */
  frames(segment: LogSegment, visit: (frame: WalkedFrame) => boolean): void {
    const file = this.#handle(segment, false);
    const { context, start } = walkStart(segment.header);
    let stopped = false;
    const end = walkFrames(file, context, start, false, (frame) => {
      if (frame.offset >= segment.length) return false;
      stopped = !visit(frame);
      return !stopped;
    });
    if (!stopped && end.offset < segment.length)
      throw corrupt(`${segment.path}, offset ${end.offset}: bad frame (${end.fault ?? 'missing'})`);
  }

  /** Throws FAILED_PRECONDITION when cut(seq) would have to keep frames that lie beyond a damaged place. */
  checkCut(seq: number): void {
    if (this.#damage === null || seq <= this.#end.seq) return;
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `can't cut at seq ${seq}, the log is good through ${this.#end.seq} only: ${this.#damage}`,
    );
  }

  /**
   * Removes every frame above `seq`, and what lies beyond a damaged place. Durable when it resolves; when it rejects, the log
   * on disk ends somewhere between `seq` and its former end, and must be opened anew.
   */
  async cut(seq: number): Promise<void> {
    this.checkCut(seq);
    // A name that was deleted may be used anew behind a cut.
    await this.#deletion.finished();
    await this.trim();
    this.#damage = null;
    const place = this.endAt(seq);
    const kept = this.#segments.filter((segment) => segment.header.firstSeq <= seq);
    const gone = this.#segments.slice(kept.length);
    await this.#removeFiles(gone.map((segment) => segment.name));
    for (const segment of gone) this.#forget(segment);
    const last = kept.at(-1);
    if (last && last.lastSeq > seq) {
      await this.#rewrite(last, place.offset);
      last.length = place.offset;
      last.startedTo = place.offset;
      last.lastSeq = place.seq;
      last.lastDigest.set(place.digest);
      last.sealed = false;
    }
    this.#endAt(place.epoch, place.seq, place.digest);
    this.sync.cutTo(this.#end.seq);
    await this.sync.all();
  }

  /**
   * Removes what is on disk but no part of the log: segments beyond the end, a segment whose first write failed or was torn
   * before its first frame's end, bytes after the last frame. Durable.
   */
  async trim(): Promise<void> {
    await this.#idle();
    await this.#removeFiles(this.#beyond);
    this.#beyond = [];
    const last = this.last;
    if (last !== undefined && this.#isEmpty(last)) {
      this.#forget(last);
      await this.#removeFiles([last.name]);
    }
    for (const segment of this.#segments) {
      if (segment.remains && segment === this.last) await this.#dropRemains(segment);
      else if (!segment.remains && segment.zeroedTo > segment.length) this.#zeroes.drop(segment);
      segment.remains = false;
    }
  }

  /** No frame in it, and none that only its header still tells of. Other replicas don't have such a file. */
  #isEmpty(last: LogSegment): boolean {
    if (last.length === 0) return true;
    const before = this.#segments.at(-2)?.lastSeq ?? 0;
    return last.lastSeq === before && last.header.firstSeq === before + 1;
  }

  async #removeFiles(names: readonly SegmentName[]): Promise<void> {
    if (names.length === 0) return;
    for (const name of names.toReversed()) await this.#disk.unlink(segmentPath(this.directory, name));
    await this.#disk.syncDirectory(this.directory);
  }

  async #dropRemains(segment: LogSegment): Promise<void> {
    const stat = this.#disk.stat(segment.path);
    if (stat === undefined) throw corrupt(`${segment.path} is gone`);
    if (stat.links > 1) return this.#rewrite(segment, segment.length);
    const file = this.#handle(segment, true);
    file.truncate(segment.length);
    segment.zeroedTo = 0;
    await synced(file);
  }

  /** Where the log would end after cut(seq): the last frame at or below it, its segment and end. */
  endAt(seq: number): LogPlace {
    const segment = this.#segments.findLast((candidate) => candidate.header.firstSeq <= seq);
    if (segment === undefined) return { ...emptyEnd, segment: null, offset: 0 };
    const { epoch } = segment.name;
    if (segment.lastSeq <= seq)
      return { epoch, seq: segment.lastSeq, digest: segment.lastDigest, segment: segment.name, offset: segment.length };
    let place: LogPlace = {
      epoch,
      seq: segment.header.firstSeq - 1,
      digest: segment.header.previousDigest,
      segment: segment.name,
      offset: SEGMENT_HEADER_SIZE,
    };
    this.frames(segment, (frame) => {
      if (frame.header.seq > seq) return false;
      place = {
        epoch,
        seq: frame.header.seq,
        digest: frame.digest,
        segment: segment.name,
        offset: frame.offset + frame.length,
      };
      return true;
    });
    return place;
  }

  /** Replaces the file by a new one that holds its first `length` bytes. */
  async #rewrite(segment: LogSegment, length: number): Promise<void> {
    const temporary = `${segment.path}.tmp`;
    await this.#disk.unlink(temporary);
    try {
      await this.#copyTo(temporary, segment, length);
    } catch (error) {
      // The room that it takes may be what is missing.
      await this.#disk.unlink(temporary).catch(() => undefined);
      throw error;
    }
    this.sync.clean(segment);
    this.#handles.close(segment);
    segment.zeroedTo = 0;
    this.#disk.rename(temporary, segment.path);
    await this.#disk.syncDirectory(this.directory);
  }

  async #copyTo(path: string, segment: LogSegment, length: number): Promise<void> {
    const copy = this.#disk.openFile(path, 'create');
    try {
      copyBytes(this.#handle(segment, false), copy, length);
      await synced(copy);
    } finally {
      copy.close();
    }
  }

  /**
   * Takes segments out of the log at once and unlinks their files one by one, with `pause` in between, since each takes the
   * filesystem some milliseconds; those not in the log are passed over. The directory is synced when it resolves.
   */
  delete(names: readonly SegmentName[], pause: () => Promise<void> = async () => {}): Promise<void> {
    const found = names.map((name) => this.find(name)).filter((segment) => segment !== undefined);
    for (const segment of found) {
      if (segment === this.last)
        throw new HoldfastError('INVALID_ARGUMENT', `${segment.path} is the end of its log and can't be deleted`);
    }
    for (const segment of found) this.#forget(segment);
    const paths = found.map((segment) => segment.path);
    return this.#deletion.delete(paths, pause);
  }

  #forget(segment: LogSegment): void {
    segment.removed = true;
    this.#segments = this.#segments.filter((other) => other !== segment);
    this.#byOrdinal.delete(segment.name.ordinal);
    this.sync.clean(segment);
    this.#handles.close(segment);
  }

  /** Writes `bytes` over damaged ones in place (repair-file.ts). FAILED_PRECONDITION when the bytes there are good and others. */
  async repair(name: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    const segment = this.#inside(name, offset, bytes.length);
    const isEnd = segment === this.last && offset + bytes.length === segment.length;
    await repairFile(this.#disk, segment, offset, bytes, isEnd);
  }

  /** Closes all files once no sync runs. */
  async close(): Promise<void> {
    await this.#deletion.finished();
    await this.#idle();
    if (this.sync.failure === null && this.#damage === null) this.giveBack();
    await this.abandon();
  }

  /** Closes all files and changes none: of a log that could not be brought to a known state. */
  async abandon(): Promise<void> {
    await this.#deletion.finished();
    await this.#idle();
    for (const segment of this.#segments) this.#handles.close(segment);
  }
}
