// Reads parts of the log from whichever replica has them intact. What one replica can't give or gives damaged is taken from
// the next and written back to the first (read repair). Every caller says how it verifies what it read. Where a disk could not
// read at all only whole blocks can be written: these are read anew, and verified by the frames they are parts of.

import { corrupt, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { decodeEntry, decodeFrame, type FrameHeader, type SegmentName, segmentFileName } from '../format/index.js';
import { readOnce } from './read-once.js';
import type { ReadRange, ReplicaPort } from './replica-port.js';
import { wholeBlocks } from './whole-blocks.js';

/** Null when the bytes are right, else what is wrong with them. */
export type Verify = (bytes: Buffer) => string | null;

interface Damaged {
  readonly port: ReplicaPort;
  readonly why: string;
  /** It gave no bytes at all. */
  readonly unreadable: boolean;
}

export class LogReader {
  readonly #ports: () => readonly ReplicaPort[];
  readonly #logger: Logger;
  repairs = 0;

  /** `ports` lists usable sources, nearest first; asked anew for each read. */
  constructor(ports: () => readonly ReplicaPort[], logger: Logger) {
    this.#ports = ports;
    this.#logger = logger;
  }

  /** Verified bytes, or DATA_LOSS naming the place when no replica has them intact, or UNAVAILABLE when none could be asked. */
  async read(segment: SegmentName, offset: number, length: number, verify: Verify): Promise<Buffer> {
    const damaged: Damaged[] = [];
    const failed: string[] = [];
    for (const port of this.#ports()) {
      const bytes = Buffer.allocUnsafe(length);
      try {
        await readOnce(port, [{ segment, offset, into: bytes }]);
      } catch (error) {
        if (isDamage(error)) damaged.push({ port, why: messageOf(error), unreadable: isUnreadable(error) });
        else failed.push(`${port.nodeId}: ${messageOf(error)}`);
        continue;
      }
      const why = verify(bytes);
      if (why !== null) {
        damaged.push({ port, why, unreadable: false });
        continue;
      }
      for (const bad of damaged) await this.#repair(bad, port, segment, offset, bytes);
      return bytes;
    }
    const place = `segment ${segmentFileName(segment)}, bytes ${offset} to ${offset + length}`;
    const reasons = [...damaged.map((bad) => `${bad.port.nodeId}: ${bad.why}`), ...failed].join('; ');
    if (damaged.length > 0 && failed.length === 0)
      throw corrupt(`${place}: no replica has an intact copy (${reasons})`);
    throw new HoldfastError('UNAVAILABLE', `${place}: no replica could be read (${reasons || 'none is connected'})`);
  }

  /** Fills all ranges from the nearest source with one call; nothing is verified. False: it could not give all of them. */
  async fill(ranges: readonly ReadRange[]): Promise<boolean> {
    const [nearest] = this.#ports();
    if (nearest === undefined) return false;
    return readOnce(nearest, ranges).then(
      () => true,
      () => false,
    );
  }

  /** `bytes` are those of `good`, as the caller verified them. */
  async #repair(bad: Damaged, good: ReplicaPort, segment: SegmentName, offset: number, bytes: Buffer): Promise<void> {
    const { port, why } = bad;
    try {
      let whole = { offset, bytes };
      if (bad.unreadable) whole = await wholeBlocks(good, segment, offset, bytes.length);
      await port.repair(segment, whole.offset, whole.bytes);
      this.repairs++;
      this.#logger.warn(
        { node: port.nodeId, segment: segmentFileName(segment), offset, length: bytes.length, why },
        'repaired damaged bytes from another replica',
      );
    } catch (error) {
      this.#logger.warn(
        { node: port.nodeId, segment: segmentFileName(segment), offset, error: messageOf(error) },
        'could not repair damaged bytes',
      );
    }
  }

  /** A whole frame with its body, verified. */
  async frame(segment: SegmentName, offset: number, length: number): Promise<{ bytes: Buffer; header: FrameHeader }> {
    const bytes = await this.read(segment, offset, length, (candidate) => {
      const header = decodeFrame(candidate, 0, true);
      return typeof header === 'string' ? `frame: ${header}` : null;
    });
    return { bytes, header: decodeFrame(bytes, 0, true) as FrameHeader };
  }

  /** One control entry, verified by its checksum and kind. */
  async entry(
    segment: SegmentName,
    offset: number,
    length: number,
    kinds: readonly number[],
  ): Promise<{ bytes: Buffer; length: number; kind: number }> {
    const check = (candidate: Buffer): string | null => {
      const head = decodeEntry(candidate, 0, candidate.length);
      if (typeof head === 'string') return `entry: ${head}`;
      return kinds.includes(head.kind) ? null : `entry of kind ${head.kind}, expected ${kinds.join(' or ')}`;
    };
    const bytes = await this.read(segment, offset, length, check);
    const head = decodeEntry(bytes, 0, bytes.length);
    if (typeof head === 'string') throw corrupt(`entry: ${head}`);
    return { bytes, length: head.length, kind: head.kind };
  }
}

/** The replica answered, but not with what the log says is there. */
export function isDamage(error: unknown): boolean {
  return (
    error instanceof HoldfastError &&
    (error.code === 'DATA_LOSS' ||
      error.code === 'OUT_OF_RANGE' ||
      (error.code === 'NOT_FOUND' && error.reason !== 'ReplicaLost') ||
      error.reason === 'DiskFailed')
  );
}

/** The file is there, and the place in it could not be read. */
function isUnreadable(error: unknown): boolean {
  return error instanceof HoldfastError && (error.code === 'DATA_LOSS' || error.reason === 'DiskFailed');
}
