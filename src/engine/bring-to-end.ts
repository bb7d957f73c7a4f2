// Brings the in-sync members of a volume that opens to one end. Owner: openLog().
//
// Two rules keep this from losing anything. What fails in a member makes that member leave the set; what fails in the source must not,
// since the others may hold all that it can't give. And nothing that was durable on all in-sync replicas is cut off a member: it is
// not marked as joining, so if the open ended half way it would look whole at the next one, with its own proof of those frames gone.

import { corrupt, type Logger, messageOf } from '../base/index.js';
import type { SegmentName } from '../format/index.js';
import { commonPoint, copyLog, cutToCommon } from './log-compare.js';
import { isDamage, LogReader, type Verify } from './log-reader.js';
import type { Reached } from './open.js';
import type { FrameInfo, SegmentInfo } from './replica-port.js';

/** The replica whose log was to count could not give a part of it. */
export class SourceFailed extends Error {
  readonly source: Reached;

  constructor(source: Reached, cause: unknown) {
    super(messageOf(cause), { cause });
    this.source = source;
  }

  /** Its log is damaged: another member may be the source. Otherwise it could not be asked. */
  get damaged(): boolean {
    return isDamage(this.cause);
  }
}

/** The source's log as others are compared with it and copied from it. Everything that fails rejects with SourceFailed. */
export class SourceLog {
  readonly #source: Reached;
  readonly #reader: LogReader;

  constructor(source: Reached, logger: Logger) {
    this.#source = source;
    this.#reader = new LogReader(() => [source.port], logger);
  }

  segments(): Promise<SegmentInfo[]> {
    return this.#answer(this.#source.port.segments());
  }
  frames(segment: SegmentName): Promise<FrameInfo[]> {
    return this.#answer(this.#source.port.frames(segment));
  }
  read(segment: SegmentName, offset: number, length: number, verify: Verify): Promise<Buffer> {
    return this.#answer(this.#reader.read(segment, offset, length, verify));
  }

  async #answer<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      throw new SourceFailed(this.#source, error);
    }
  }
}

/** Rejects with what is wrong with `other`, or with SourceFailed. `durable`: the newest frame known to be durable on all in-sync replicas. */
export async function bringTo(source: Reached, other: Reached, durable: number, logger: Logger): Promise<void> {
  const log = new SourceLog(source, logger);
  const theirs = await log.segments();
  const mine = await other.port.segments();
  const common = await commonPoint(log, theirs, other.port, mine);
  if (common < durable)
    throw corrupt(
      `its log parts from that on ${source.member.nodeId} behind frame ${common}, though frame ${durable} was durable on all in-sync replicas`,
    );
  await cutToCommon(other.port, mine, common, false);
  const { seq } = source.status.end;
  if (common >= seq) return;
  other.events.appendedThrough = common;
  await copyLog({ source: log, reader: log, target: other.port }, theirs, common, seq, (sent) =>
    other.events.appendedTo(sent),
  );
}
