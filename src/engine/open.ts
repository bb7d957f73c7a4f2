// Opening a volume: fence, choose the log, bring every in-sync replica to the same end, build the map, start the reign.
//
// The order is the safety (design section 6): the epoch was granted by the store before this is called; (1) replicas promise it,
// which stops the former engine, since it needs all of them; (2) the longest valid log among those that are trusted becomes
// the log of all, by copying the same bytes and cutting the rest; (3) all of it is synced; (4) members that can't be brought there leave
// the set by compare-and-swap; (5) the former engine's lease runs out; (6) the first frame of the reign is durable. Only then
// is anything served.
//
// Which replicas may be the source, by what is known of an in-sync member:
//   a  reached, page cache survived, no damage          source
//   b  reached, no damage, but suspect: page cache      brought to a source's end; source only if all in-sync are suspect and reached
//      lost, or the log ends as if a file were missing
//   c  reached, damage in its log, or marked joining,   leaves the set; the open volume repairs it and takes it back. Cut down
//      or its log ends below what was durable on all    to what is good it would look whole if this open ended half way
//   d  reached, another incarnation or no replica       lost: leaves the set, marked
//   e  not reached in time                              leaves the set, unless nobody is left to be a source
// A source that shows damage only when others are brought to its end is as in c from then on, and the choice is made anew.

import { corrupt, HoldfastError, messageOf, type NodeId, type ReplicaId, type VolumeId } from '../base/index.js';
import type { LogPoint } from '../format/index.js';
import { bringTo, SourceFailed, SourceLog } from './bring-to-end.js';
import type { EngineMember, EngineOptions } from './engine-api.js';
import { LEASE_WAIT_MS, OPEN_TIMEOUT_MS, RECONNECT_MS } from './limits.js';
import type { ReplicaEvents, ReplicaPort, ReplicaStatus } from './replica-port.js';

export interface Reached {
  readonly member: EngineMember;
  readonly port: ReplicaPort;
  readonly status: ReplicaStatus;
  /** When it had promised the reign. */
  readonly fencedMs: number;
  /** Where its events go; the engine redirects them when it takes over. */
  readonly events: PortEvents;
}

/** Remembers what a port reported until somebody listens. */
export class PortEvents implements ReplicaEvents {
  appendedThrough = 0;
  failure: Error | undefined;
  target: ReplicaEvents | undefined;
  #waiters: (() => void)[] = [];

  appended(seq: number): void {
    this.appendedThrough = Math.max(this.appendedThrough, seq);
    this.target?.appended(seq);
    this.#wake();
  }
  lost(error: Error): void {
    this.failure = error;
    this.target?.lost(error);
    this.#wake();
  }
  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
  async appendedTo(seq: number): Promise<void> {
    while (this.appendedThrough < seq) {
      if (this.failure !== undefined) throw this.failure;
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }
}

export interface OpenedLog {
  /** In-sync from now on: same end, synced. The first is the one the log was taken from. */
  readonly members: Reached[];
  readonly setVersion: number;
  readonly end: LogPoint;
}

export async function openLog(options: EngineOptions): Promise<OpenedLog> {
  /** What was found damaged only when others were to be brought to its end. Each round finds another one, or ends. */
  const rotten = new Map<ReplicaId, string>();
  for (;;) {
    try {
      return await openWithout(rotten, options);
    } catch (error) {
      if (!(error instanceof SourceFailed)) throw error;
      const { member } = error.source;
      if (!error.damaged || rotten.has(member.replicaId)) throw error.cause;
      options.logger.warn({ node: member.nodeId, error: error.message }, 'the log of another replica is to count');
      rotten.set(member.replicaId, error.message);
    }
  }
}

async function openWithout(rotten: ReadonlyMap<ReplicaId, string>, options: EngineOptions): Promise<OpenedLog> {
  const reached: Reached[] = [];
  const unreached: { member: EngineMember; error: unknown }[] = [];
  const lost: { member: EngineMember; message: string }[] = [];
  try {
    await fenceAll(options, rotten, reached, unreached, lost);
    const durable = durableThrough(reached, options.flushedPoint);
    const { source, rest } = chooseSource(options.volume.volumeId, reached, unreached, lost, durable);
    const leaseOver = waitForLease(options, reached);
    await checkNotRolledBack(options, source);
    const members = [source];
    for (const other of rest) {
      try {
        const fault = faultOf(other.status, durable);
        if (fault !== null) throw corrupt(fault);
        await bringTo(source, other, durable, options.logger);
        members.push(other);
      } catch (error) {
        if (error instanceof SourceFailed) throw error;
        options.logger.warn(
          { node: other.member.nodeId, error: messageOf(error) },
          'in-sync replica could not be brought to the common end; it leaves the set',
        );
        other.port.close();
      }
    }
    await Promise.all(members.map((member) => synced(member, source.status.end.seq)));
    const setVersion = await settle(options, members);
    for (const { member, message } of lost) await options.membership.markLost(member.replicaId, message);
    await leaseOver;
    return { members, setVersion, end: source.status.end };
  } catch (error) {
    for (const { port } of reached) port.close();
    throw error;
  }
}

async function fenceAll(
  options: EngineOptions,
  rotten: ReadonlyMap<ReplicaId, string>,
  reached: Reached[],
  unreached: { member: EngineMember; error: unknown }[],
  lost: { member: EngineMember; message: string }[],
): Promise<void> {
  const wanted = options.members.filter((member) => member.inSync);
  // All of them end before one failure is passed on, so that no port is left open behind it.
  const outcomes = await Promise.allSettled(
    wanted.map(async (member) => {
      try {
        const found = await fenceOne(options, member, rotten.get(member.replicaId));
        if (found.status.superblock.incarnationId === member.incarnationId) reached.push(found);
        else {
          found.port.close();
          lost.push({
            member,
            message: `node ${member.nodeId} holds incarnation ${found.status.superblock.incarnationId}, not ${member.incarnationId}: its disk was wiped or replaced`,
          });
        }
      } catch (error) {
        if (error instanceof HoldfastError && error.reason === 'ReplicaLost')
          lost.push({ member, message: error.message });
        else if (error instanceof HoldfastError && error.reason === 'StaleReign') throw error;
        else unreached.push({ member, error });
      }
    }),
  );
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

/** Connects and fences; a daemon that is just starting gets until the timeout. */
async function fenceOne(options: EngineOptions, member: EngineMember, damage: string | undefined): Promise<Reached> {
  const { clock, connector } = options;
  const deadline = clock.monotonicMs() + OPEN_TIMEOUT_MS;
  for (;;) {
    let port: ReplicaPort | undefined;
    try {
      port = await connector.connect(member, Math.max(1, deadline - clock.monotonicMs()));
      const events = new PortEvents();
      port.listen(events);
      const fenced = await port.fence(options.reign);
      const status = damage === undefined ? fenced : { ...fenced, damage };
      events.appendedThrough = status.end.seq;
      return { member, port, status, events, fencedMs: clock.monotonicMs() };
    } catch (error) {
      port?.close();
      const final =
        error instanceof HoldfastError &&
        (error.reason === 'ReplicaLost' || error.reason === 'StaleReign' || error.code === 'DATA_LOSS');
      if (final || clock.monotonicMs() + RECONNECT_MS.first >= deadline) throw error;
      await clock.sleep(RECONNECT_MS.first);
    }
  }
}

/** A replica that may be the one whose log counts. */
export interface SourceCandidate {
  readonly member: { readonly nodeId: NodeId };
  readonly port: { readonly local: boolean };
  readonly status: ReplicaStatus;
}

/** What a frame or a superblock of any of them, or the store, says to be durable on every in-sync replica. */
export function durableThrough(reached: readonly SourceCandidate[], noted: { readonly seq: number } | null): number {
  return reached.reduce((highest, { status }) => Math.max(highest, status.flushedThrough), noted?.seq ?? 0);
}

/** Why the log of a member is not whole, or null. */
function faultOf({ damage, superblock, end }: ReplicaStatus, durable: number): string | null {
  if (damage !== null) return damage;
  if (superblock.joining) return 'it had not been brought up to date';
  if (end.seq >= durable) return null;
  return `its log ends at frame ${end.seq}, but frame ${durable} was durable on all in-sync replicas: it was cut or rolled back`;
}

/** Chooses by the table above. Throws UNAVAILABLE when those that were not reached are needed, DATA_LOSS when no log can be trusted. */
export function chooseSource<T extends SourceCandidate>(
  volume: VolumeId,
  reached: readonly T[],
  unreached: readonly { readonly member: { readonly nodeId: NodeId }; readonly error: unknown }[],
  lost: readonly { readonly message: string }[],
  durable: number,
): { source: T; rest: T[] } {
  const missing = [
    ...unreached.map(({ member, error }) => `${member.nodeId} (${messageOf(error)})`),
    ...lost.map(({ message }) => message),
  ].join('; ');
  const whole = reached.filter(({ status }) => faultOf(status, durable) === null);
  if (whole.length === 0) {
    const damage = reached.map(({ member, status }) => `${member.nodeId}: ${faultOf(status, durable)}`).join('; ');
    if (reached.length > 0 && unreached.length === 0)
      throw new HoldfastError('DATA_LOSS', `volume ${volume}: no in-sync replica has an undamaged log (${damage})`, {
        reason: 'Corrupt',
      });
    if (unreached.length === 0)
      throw new HoldfastError('DATA_LOSS', `volume ${volume}: every in-sync replica is lost (${missing})`, {
        reason: 'ReplicaLost',
      });
    throw new HoldfastError(
      'UNAVAILABLE',
      `volume ${volume} can't be opened: no usable in-sync replica answers; not reached: ${missing}${damage ? `; damaged: ${damage}` : ''}`,
    );
  }
  const proven = whole.filter(({ status }) => status.cacheSurvived);
  // One that merely ends early can't know more than these: there is nothing to wait for.
  const doubtful = reached.some(({ status }) => status.damage !== null || status.superblock.joining);
  if (proven.length === 0 && (unreached.length > 0 || doubtful)) {
    throw new HoldfastError(
      'UNAVAILABLE',
      `volume ${volume} can't be opened: the replicas that answer may lack the newest writes, by a power loss or a lost file; waiting for ${missing || 'an undamaged one'}`,
    );
  }
  const trusted = proven.length > 0 ? proven : whole;
  const source = trusted.reduce((best, candidate) =>
    isLater(candidate.status.end, best.status.end) ? candidate : best,
  );
  // Reads during recovery and afterwards prefer the local copy when it ends at the same point.
  const local = trusted.find(
    ({ port, status }) =>
      port.local && status.end.seq === source.status.end.seq && status.end.digest === source.status.end.digest,
  );
  const chosen = local ?? source;
  return { source: chosen, rest: reached.filter((other) => other !== chosen) };
}

function isLater(a: LogPoint, b: LogPoint): boolean {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.seq > b.seq);
}

/** The store keeps a point that was durable everywhere: a log that holds something else there is another one. */
async function checkNotRolledBack(options: EngineOptions, source: Reached): Promise<void> {
  const point = options.flushedPoint;
  if (point === null || point.seq === 0) return;
  const log = new SourceLog(source, options.logger);
  const segment = (await log.segments()).find((info) => info.firstSeq <= point.seq && point.seq <= info.lastSeq);
  if (segment === undefined) return;
  const frame = (await log.frames(segment)).find((info) => info.seq === point.seq);
  if (frame !== undefined && frame.digest !== point.digest)
    throw new SourceFailed(
      source,
      corrupt(`it holds another frame ${point.seq} than the one that was durable on all in-sync replicas`),
    );
}

function synced(member: Reached, seq: number): Promise<void> {
  return new Promise((resolve, reject) => {
    member.port.sync(seq, (error) => (error === null ? resolve() : reject(error)));
  });
}

/** Makes the store's set what it now is. */
async function settle(options: EngineOptions, members: readonly Reached[]): Promise<number> {
  const inSync = members.map(({ member }) => member.replicaId);
  const before = options.members.filter((member) => member.inSync);
  if (before.length === inSync.length) return options.setVersion;
  const left = before.filter((member) => !inSync.includes(member.replicaId)).map((member) => member.nodeId);
  const reason = `open without ${left.join(', ')}`;
  const ask = (expectedSetVersion: number) => options.membership.changeSet({ expectedSetVersion, inSync, reason });
  let result = await ask(options.setVersion);
  if (result.outcome === 'conflict') result = await ask(result.setVersion);
  if (result.outcome !== 'done') {
    throw new HoldfastError('ABORTED', `volume ${options.volume.volumeId}: another node was granted a higher epoch`, {
      reason: 'StaleReign',
    });
  }
  return result.setVersion;
}

/**
 * A former engine may still answer reads from its lease. Whoever proved it gone, or stopped it, need not wait. The lease
 * needs every in-sync replica, so it runs out from the first promise on; the wait for replicas that do not answer counts.
 */
async function waitForLease(options: EngineOptions, reached: readonly Reached[]): Promise<void> {
  const first = reached.every(({ status }) => status.end.seq === 0);
  if (first || options.leaseless || options.formerEngineGone || reached.some(({ status }) => status.stoppedEngine))
    return;
  const firstMs = Math.min(...reached.map(({ fencedMs }) => fencedMs));
  const leftMs = firstMs + LEASE_WAIT_MS - options.clock.monotonicMs();
  if (leftMs > 0) await options.clock.sleep(leftMs);
}
