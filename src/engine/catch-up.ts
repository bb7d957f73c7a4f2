// Brings a replica that is away back into the set: connect, fence, cut what it should not have, copy what it lacks from an
// in-sync replica's log on disk, join the live stream from the frames still in memory, make it durable, and only then let
// it be added. The bytes always arrive in order, so a joiner's log is a prefix at every moment.

import { asHoldfastError, type Clock, corrupt, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { type Reign, type SegmentName, segmentFileName } from '../format/index.js';
import type { MembershipPort } from './engine-api.js';
import type { FrameTail } from './frame-tail.js';
import { OPEN_TIMEOUT_MS, RECONNECT_MS } from './limits.js';
import { commonPoint, copyLog, cutToCommon, missingSegment, soundFrames } from './log-compare.js';
import type { LogReader } from './log-reader.js';
import { digestOf } from './log-writer.js';
import type { Link } from './replica-link.js';
import type { DescribeUpdate, ReplicaConnector, ReplicaPort, ReplicaStatus } from './replica-port.js';
import type { ReplicaSet } from './replica-set.js';
import type { TableEntry } from './segment-table.js';

export interface CatchUpParts {
  readonly reign: Reign;
  readonly set: ReplicaSet;
  readonly tail: FrameTail;
  readonly reader: LogReader;
  readonly connector: ReplicaConnector;
  readonly membership: MembershipPort;
  readonly lastSeq: () => number;
  /** True for a segment that the log still has. */
  readonly hasSegment: (segment: SegmentName) => boolean;
  /** Those of them that something refers to: a replica that lacks one does not hold the volume. */
  readonly neededSegments: () => readonly TableEntry[];
  /** A higher reign was promised somewhere. */
  readonly deposed: (why: string) => void;
  /** What a member's superblock has to say now. */
  readonly description: () => DescribeUpdate;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** How often a replica that does not come back is told of. */
const WARN_EVERY_MS = 60_000;

/** Comparings and copyings that failed so far: each is made with another source, since it may have been the source's fault. */
interface SourceTurn {
  failures: number;
}

export class CatchUp {
  readonly #parts: CatchUpParts;
  readonly #running = new Set<Link>();
  #closed = false;

  constructor(parts: CatchUpParts) {
    this.#parts = parts;
  }

  close(): void {
    this.#closed = true;
  }

  /** Tries until the replica is back, is found to be another one, or the engine closes. */
  async bringBack(link: Link): Promise<void> {
    if (this.#running.has(link) || this.#closed || link.state === 'lost') return;
    this.#running.add(link);
    const { clock, logger } = this.#parts;
    let wait = RECONNECT_MS.first;
    let warnedMs = clock.monotonicMs();
    try {
      const turn: SourceTurn = { failures: 0 };
      while (!this.#closed && (link.state === 'unreachable' || link.state === 'catching-up')) {
        try {
          await this.#attempt(link, turn);
        } catch (error) {
          link.message = messageOf(error);
          if (link.state === 'catching-up') link.state = 'unreachable';
          const facts = { node: link.member.nodeId, error: link.message };
          const nowMs = clock.monotonicMs();
          if (nowMs - warnedMs < WARN_EVERY_MS) logger.debug(facts, 'replica is not back yet');
          else {
            warnedMs = nowMs;
            logger.warn(facts, 'replica is not back yet');
          }
          await clock.sleep(wait);
          wait = Math.min(wait * 2, RECONNECT_MS.most);
        }
      }
    } finally {
      this.#running.delete(link);
    }
    // It may have been lost again while the loop was ending.
    if (link.state === 'unreachable' && !this.#closed) void this.bringBack(link);
  }

  /** A member whose log ends right but lacks a file further down leaves the set, and is brought back whole. */
  async loseIncomplete(): Promise<void> {
    const { set, neededSegments } = this.#parts;
    for (const link of set.countingLinks()) {
      const port = link.port!;
      const missing = missingSegment(neededSegments(), await port.segments(), set.committed);
      if (missing === undefined || set.sources().length < 2) continue;
      set.lose(link, port, corrupt(`node ${link.member.nodeId} lacks ${segmentFileName(missing)}`));
    }
  }

  async #attempt(link: Link, turn: SourceTurn): Promise<void> {
    const { set, connector, reign } = this.#parts;
    let port: ReplicaPort;
    try {
      port = await connector.connect(link.member, OPEN_TIMEOUT_MS);
    } catch (error) {
      // Its node says so itself, as it does at a fence.
      if (error instanceof HoldfastError && error.reason === 'ReplicaLost') return this.#lost(link, messageOf(error));
      throw error;
    }
    try {
      port.listen(set.eventsOf(link, () => port));
      const status = await port.fence(reign);
      if (this.#closed) throw new HoldfastError('UNAVAILABLE', 'the volume is closing', { reason: 'Closed' });
      if (link.state === 'gone') throw new HoldfastError('UNAVAILABLE', link.message, { reason: 'Closed' });
      if (status.superblock.incarnationId !== link.member.incarnationId) return await this.#foreign(link, port, status);
      link.state = 'catching-up';
      // Of what is not committed yet, a part may be cut off it before it counts again.
      set.attach(link, port, Math.min(status.end.seq, set.committed), 0);
      await this.#catchUp(link, port, status, turn);
    } catch (error) {
      turn.failures++;
      // Once admitted it counts: nothing would be acknowledged any more if it were only forgotten.
      if (link.state === 'in-sync' || link.state === 'counting') set.lose(link, port, asHoldfastError(error));
      if (link.port === port) link.port = undefined;
      port.close();
      if (error instanceof HoldfastError && error.reason === 'ReplicaLost') return this.#lost(link, messageOf(error));
      if (error instanceof HoldfastError && error.reason === 'StaleReign') this.#parts.deposed(error.message);
      throw error;
    }
  }

  async #foreign(link: Link, port: ReplicaPort, status: ReplicaStatus): Promise<void> {
    port.close();
    await this.#lost(
      link,
      `node ${link.member.nodeId} holds incarnation ${status.superblock.incarnationId}, not ${link.member.incarnationId}: its disk was wiped or replaced`,
    );
  }

  async #lost(link: Link, message: string): Promise<void> {
    if (link.state === 'gone') return;
    link.state = 'lost';
    link.message = message;
    this.#parts.logger.error(
      { node: link.member.nodeId, replica: link.member.replicaId, message },
      'replica is lost and will not be used again',
    );
    await this.#parts.membership.markLost(link.member.replicaId, message).catch((error: unknown) => {
      this.#parts.logger.warn(
        { error: messageOf(error) },
        'could not record the loss; it is found again at the next open',
      );
    });
  }

  async #catchUp(link: Link, port: ReplicaPort, status: ReplicaStatus, turn: SourceTurn): Promise<void> {
    const { set, tail, reader, lastSeq, logger } = this.#parts;
    const sources = set.sources().filter((candidate) => candidate !== port);
    const source = sources[turn.failures % Math.max(1, sources.length)];
    const started = this.#parts.clock.monotonicMs();
    let position = status.end.seq;
    if (source === undefined) this.#checkAlone(link, status);
    else {
      // A member that may lack what it had acknowledged is marked too: were the engine to end now, it would look whole.
      const mine = await port.segments();
      position = await commonPoint(source, await source.segments(), soundFrames(port), mine);
      const missing = missingSegment(this.#parts.neededSegments(), mine, position);
      if (missing !== undefined) position = missing.firstSeq - 1;
      const short = status.damage !== null || !status.cacheSurvived || position < status.end.seq;
      if (short || !set.inSync.includes(link.member.replicaId)) await port.describe({ joining: true });
      await cutToCommon(port, mine, position, status.damage !== null);
    }
    link.appendedThrough = position;
    for (;;) {
      // A port that writes at once may have been lost by the append before: it must not be admitted, nobody would look for it again.
      if (link.port !== port)
        throw new HoldfastError('UNAVAILABLE', link.message || 'the replica was lost while catching up');
      const frames = tail.after(position, lastSeq());
      if (frames?.length === 0) {
        // From the next frame on the replica is served with the others.
        set.admit(link);
        break;
      }
      if (frames !== undefined) {
        // All in one turn. What is acknowledged at once may bring new frames: then there is another round.
        for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.seq);
        position = frames.at(-1)!.seq;
        continue;
      }
      if (source === undefined)
        throw new HoldfastError('UNAVAILABLE', 'the log moved on while its last member was away');
      const segments = await source.segments();
      const through = segments.at(-1)?.lastSeq ?? 0;
      position = await copyLog({ source, reader, target: port }, segments, position, through, (seq) =>
        this.#reached(link, port, () => link.appendedThrough >= seq),
      );
    }
    const joinPoint = lastSeq();
    set.sync(joinPoint);
    await this.#reached(link, port, () => link.syncedThrough >= joinPoint);
    // Segments that were dropped while it was away or catching up.
    const stale = (await port.segments()).filter((segment) => !this.#parts.hasSegment(segment));
    if (stale.length > 0) await port.deleteSegments(stale);
    await port.describe({ ...this.#parts.description(), joining: false });
    set.ready(link);
    logger.info(
      {
        node: link.member.nodeId,
        from: status.end.seq,
        to: joinPoint,
        ms: Math.round(this.#parts.clock.monotonicMs() - started),
      },
      'replica caught up',
    );
  }

  /**
   * No member is there to compare with, but the frames that the replica may lack are still in memory. Its own log must be a
   * part of this one: a member's is; another's only when the frame it ends with is one of those in memory.
   */
  #checkAlone(link: Link, { end, damage }: ReplicaStatus): void {
    const { set, tail, lastSeq } = this.#parts;
    const node = `node ${link.member.nodeId}`;
    const member = set.inSync.includes(link.member.replicaId);
    const same = () => {
      const frame = tail.after(end.seq - 1, lastSeq())?.[0];
      return frame !== undefined && digestOf(frame).toString('hex') === end.digest;
    };
    if (end.seq > lastSeq() || !(member || same()))
      throw new HoldfastError(
        'UNAVAILABLE',
        `${node} is back, but no in-sync replica that its log could be compared with`,
      );
    if (damage !== null)
      throw new HoldfastError(
        'DATA_LOSS',
        `${node} came back with a damaged log, and nobody is there to repair it: ${damage}`,
      );
    if (tail.after(end.seq, lastSeq()) === undefined)
      throw new HoldfastError(
        'DATA_LOSS',
        `${node} came back with its log ending at ${end.seq}, short of what it had acknowledged`,
      );
  }

  #reached(link: Link, port: ReplicaPort, test: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (link.port !== port) {
          link.onProgress = undefined;
          reject(new HoldfastError('UNAVAILABLE', link.message || 'the replica was lost while catching up'));
        } else if (test()) {
          link.onProgress = undefined;
          resolve();
        }
      };
      link.onProgress = look;
      look();
    });
  }
}
