// The replicas of an open volume: who is in sync, what each has acknowledged, and the membership changes that keep the two
// apart. Owner: one engine.
//
// Invariants (design: "consistency before availability"):
// - A frame is committed when every *counting* replica has appended it; counting = the in-sync set as last confirmed by the
//   store, plus every replica whose admission is under way. A lost in-sync replica goes on counting until the store has
//   confirmed the set without it: until then nothing it lacks is acknowledged.
// - One set change at a time. One whose outcome is unknown stays pending: old and proposed set both count until a further
//   change has been confirmed (the store writes anew for each, so the unknown one can't take effect after that).
// - The in-sync set is never empty: when the last members are lost, the volume pauses until one is back.
//
// The states of one replica stand in replica-link.ts.

import { type Clock, HoldfastError, type Logger, messageOf, type ReplicaId } from '../base/index.js';
import type { Member } from '../format/index.js';
import type { EngineMember, EngineReplicaState, MembershipPort } from './engine-api.js';
import { STORE_RETRY_MS } from './limits.js';
import type { Frame } from './log-writer.js';
import type { OpenedLog } from './open.js';
import { ReignLease } from './reign-lease.js';
import { type Link, newLink, shownState } from './replica-link.js';
import type { DescribeUpdate, ReplicaPort } from './replica-port.js';

export interface ReplicaSetEvents {
  /** Every counting replica has appended up to seq. Rises. */
  committed(seq: number): void;
  /** Every counting replica has synced up to seq. Rises. */
  synced(seq: number): void;
  /** The set changed in the store. */
  setChanged(): void;
  /** A replica left; somebody should try to bring it back. */
  lost(link: Link): void;
  deposed(why: string): void;
}

export class ReplicaSet {
  /** The lease looks at the same array: it is changed in place. */
  readonly #links: Link[];
  readonly lease: ReignLease;
  readonly #membership: MembershipPort;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #events: ReplicaSetEvents;
  readonly #joining = new Set<Link>();
  /** Those that are to leave stay while fewer others are in sync. */
  #least = 1;
  /** Members of a set that was proposed and whose outcome is not known yet: they count like members. */
  #proposed = new Set<ReplicaId>();
  #inSync: Set<ReplicaId>;
  #setVersion: number;
  #settling = false;
  #closed = false;
  #committed = 0;
  #synced = 0;
  #syncTarget = 0;
  /** Every counting replica was handed all frames through here. */
  #sentThrough: number;
  /** Counts reads from remote replicas. */
  #turn = 0;

  constructor(
    links: readonly Link[],
    start: { inSync: readonly ReplicaId[]; setVersion: number; committed: number; synced: number },
    parts: { membership: MembershipPort; leaseMs: number; clock: Clock; logger: Logger; events: ReplicaSetEvents },
  ) {
    this.#links = [...links];
    this.#inSync = new Set(start.inSync);
    this.#setVersion = start.setVersion;
    this.#committed = start.committed;
    this.#sentThrough = start.committed;
    this.#synced = start.synced;
    this.#membership = parts.membership;
    this.#clock = parts.clock;
    this.#logger = parts.logger;
    this.#events = parts.events;
    this.lease = new ReignLease(this.#links, {
      clock: parts.clock,
      leaseMs: parts.leaseMs,
      failed: (link, port, error) => this.lose(link, port, error),
    });
    this.#mark();
  }

  get links(): readonly Link[] {
    return this.#links;
  }
  get inSync(): ReplicaId[] {
    return [...this.#inSync];
  }
  get inSyncCount(): number {
    return this.#inSync.size;
  }
  /** No replica is away that may come back. */
  get whole(): boolean {
    for (const { state } of this.links) if (state !== 'in-sync' && state !== 'lost') return false;
    return true;
  }
  get setVersion(): number {
    return this.#setVersion;
  }
  get committed(): number {
    return this.#committed;
  }
  get synced(): number {
    return this.#synced;
  }
  /** What to read from now: the local replica, else the connected in-sync ones in turn, so that they share the work. */
  source(): ReplicaPort | undefined {
    let remote = 0;
    for (const { state, port } of this.links) {
      if (state !== 'in-sync' || port === undefined) continue;
      if (port.local) return port;
      remote++;
    }
    if (remote === 0) return undefined;
    let left = this.#turn++ % remote;
    for (const { state, port } of this.links)
      if (state === 'in-sync' && port !== undefined && left-- === 0) return port;
    return undefined;
  }
  /** Connected in-sync replicas, the local one first: what may be read from. */
  sources(): ReplicaPort[] {
    const ports: ReplicaPort[] = [];
    for (const link of this.links) {
      if (link.state !== 'in-sync' || link.port === undefined) continue;
      if (link.port.local) ports.unshift(link.port);
      else ports.push(link.port);
    }
    return ports;
  }
  /** Replicas whose acknowledgement counts and that are connected. */
  countingLinks(): Link[] {
    return this.links.filter(
      (link) => (link.state === 'in-sync' || link.state === 'counting') && link.port !== undefined,
    );
  }
  /** Smallest free space among counting replicas. */
  freeBytes(): number {
    let least = Number.MAX_SAFE_INTEGER;
    for (const link of this.links) {
      if ((link.state === 'in-sync' || link.state === 'counting') && link.port !== undefined)
        least = Math.min(least, link.port.freeBytes());
    }
    return least;
  }

  /** Those of the links that are in one of these states, as log and superblocks name them. */
  members(states: readonly Link['state'][]): Member[] {
    return this.links
      .filter((link) => states.includes(link.state))
      .map((link) => ({ replicaId: link.member.replicaId, incarnationId: link.member.incarnationId }));
  }

  /** Takes over a member that the open has brought to the common end. */
  adopt({ member, port, events }: OpenedLog['members'][number], end: number): void {
    const link = this.links.find((candidate) => candidate.member.replicaId === member.replicaId)!;
    link.state = 'in-sync';
    link.confirmedMs = this.#clock.monotonicMs();
    this.attach(link, port, end, end);
    events.target = this.eventsOf(link, () => port);
  }

  /** Installs the port of a link and starts listening. `end` is what the replica holds already. */
  attach(link: Link, port: ReplicaPort, end: number, synced: number): void {
    link.port = port;
    link.appendedThrough = end;
    link.syncedThrough = synced;
    link.syncing = 0;
    link.questionSeq = 0;
    link.message = '';
  }
  /** Events of a port that belong to `link` as long as it holds that port. */
  eventsOf(link: Link, port: () => ReplicaPort): { appended(seq: number): void; lost(error: Error): void } {
    return {
      appended: (seq) => {
        if (link.port !== port()) return;
        if (seq > link.appendedThrough) link.appendedThrough = seq;
        this.lease.acknowledged(link, seq);
        link.onProgress?.();
        this.recount();
        // A sync that was answered before this acknowledgement did not cover it.
        if (link.syncing === 0 && link.syncedThrough < this.#syncTarget) this.#syncMore();
      },
      lost: (error) => this.lose(link, port(), error),
    };
  }

  /**
   * Updates the superblock of every connected counting replica. Resolves with the nodes of those that are still connected and did
   * not take it (a full disk); one that was lost leaves the set by itself.
   */
  async describe(update: DescribeUpdate): Promise<string[]> {
    const refused: string[] = [];
    const describe = async (link: Link) => {
      const port = link.port!;
      try {
        await port.describe(update);
      } catch (error) {
        this.#logger.warn({ node: link.member.nodeId, error: messageOf(error) }, 'superblock not updated');
        if (link.port === port) refused.push(link.member.nodeId);
      }
    };
    await Promise.all(this.countingLinks().map(describe));
    return refused;
  }

  /**
   * Hands frames to every counting replica. The remote ones come first, and what they are to get leaves before the local one is
   * written: that write is done while the frames are on their way. `durable`: somebody will wait until they are; remote replicas
   * learn it with the frames, the local one when what it acknowledged was answered.
   */
  append(frames: readonly Frame[], durable: boolean): void {
    const last = frames.at(-1)?.seq ?? this.#sentThrough;
    if (durable) this.#syncTarget = Math.max(this.#syncTarget, last);
    for (const link of this.links) {
      const { port, state } = link;
      if (port === undefined || port.local || (state !== 'in-sync' && state !== 'counting')) continue;
      if (frames.length > 0) this.lease.sends(link, last);
      for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.seq);
      this.#syncLink(link, last);
      port.flush?.();
    }
    for (const { port, state } of this.links) {
      if (port === undefined || !port.local || (state !== 'in-sync' && state !== 'counting')) continue;
      for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.seq);
    }
    this.#sentThrough = last;
    if (this.#syncTarget > this.#synced) queueMicrotask(this.#syncMore);
  }

  /**
   * Asks every counting replica to make everything up to `seq` durable; events.synced() tells when. Frames through `seq` that
   * were not sent yet are synced once they are: a sync that overtakes its frames proves nothing of them.
   */
  sync(seq: number): void {
    if (seq > this.#syncTarget) this.#syncTarget = seq;
    this.#syncMore();
  }

  readonly #syncMore = (): void => {
    for (const link of this.links) this.#syncLink(link, this.#sentThrough);
  };

  /** `sentThrough`: this replica was handed all frames through there. */
  #syncLink(link: Link, sentThrough: number): void {
    const { port } = link;
    if (port === undefined || (link.state !== 'in-sync' && link.state !== 'counting')) return;
    const target = Math.min(this.#syncTarget, sentThrough);
    if (link.syncing !== 0 || link.syncedThrough >= target) return;
    link.syncing = target;
    const ended = (error: Error | null) => {
      if (link.port !== port) return;
      link.syncing = 0;
      if (error !== null) return this.lose(link, port, error);
      // What it has not acknowledged it need not have had when it synced.
      link.syncedThrough = Math.max(link.syncedThrough, Math.min(target, link.appendedThrough));
      link.onProgress?.();
      this.recount();
      if (Math.min(this.#syncTarget, link.appendedThrough) > link.syncedThrough) this.#syncMore();
    };
    // Beside others the thread has their acknowledgements to hear meanwhile, and their requests' answers to give.
    port.sync(target, ended, this.#isOnly(link));
  }

  #isOnly(link: Link): boolean {
    for (const other of this.links) if (other !== link && other.port !== undefined) return false;
    return true;
  }

  /** To be called after each change of the three sets. */
  #mark(): void {
    for (const link of this.links) {
      const { replicaId } = link.member;
      link.counted = this.#inSync.has(replicaId) || this.#proposed.has(replicaId) || this.#joining.has(link);
    }
  }

  /** Works out anew what is committed and synced. */
  recount(): void {
    let appended = Number.MAX_SAFE_INTEGER;
    let synced = Number.MAX_SAFE_INTEGER;
    let counting = 0;
    for (const link of this.links) {
      // A member that is gone but not yet removed holds everything back at what it is known to have.
      if (!link.counted) continue;
      counting++;
      appended = Math.min(appended, link.appendedThrough);
      synced = Math.min(synced, link.syncedThrough);
    }
    if (counting === 0) return;
    if (appended > this.#committed) {
      this.#committed = appended;
      this.#events.committed(appended);
    }
    // It falls when a replica is admitted whose copy is not durable yet: a flush has to wait for that one too.
    const rose = synced > this.#synced;
    this.#synced = synced;
    if (rose) this.#events.synced(synced);
  }

  /** The link can't go on with this port: it counts as lost, whatever it had reached. */
  lose(link: Link, port: ReplicaPort, error: Error): void {
    if (link.port !== port || this.#closed) return;
    link.port = undefined;
    port.close();
    if (error instanceof HoldfastError && error.reason === 'StaleReign') return this.#events.deposed(messageOf(error));
    const was = link.state;
    link.state = 'unreachable';
    link.message = messageOf(error);
    this.#logger.warn(
      { node: link.member.nodeId, replica: link.member.replicaId, was, error: link.message },
      'replica lost',
    );
    this.#joining.delete(link);
    this.#mark();
    link.ready = false;
    link.onProgress?.();
    this.#events.lost(link);
    // What waited only for a joiner has every acknowledgement that counts now, and nothing else may come to tell.
    this.recount();
    void this.settle();
  }

  /** A replica has caught up: from now on every frame goes to it and its acknowledgement counts. */
  admit(link: Link): void {
    link.ready = false;
    link.state = 'counting';
    this.#joining.add(link);
    this.#mark();
    this.recount();
  }

  /** Everything up to the join is durable on it: it may join the set. */
  ready(link: Link): void {
    link.ready = true;
    if (this.#inSync.has(link.member.replicaId) && this.#proposed.size === 0) {
      // It never left the set in the store: nothing to ask.
      this.#joining.delete(link);
      this.#mark();
      link.state = 'in-sync';
      this.#events.setChanged();
    }
    void this.settle();
  }

  /**
   * Takes over who the replicas are to be, as the store's record has it: new ones are looked for, those that are to leave, or are not
   * named any more, leave the set and are then forgotten; as many of them stay as are missing to `least` in sync.
   */
  follow(members: readonly EngineMember[], least: number): void {
    this.#least = Math.max(1, least);
    for (const member of members) {
      const known = this.#links.find((link) => link.member.replicaId === member.replicaId);
      if (known === undefined && member.leaving !== true) this.#welcome(member);
    }
    for (const link of this.#links) {
      const member = members.find((candidate) => candidate.replicaId === link.member.replicaId);
      if (member === undefined || member.leaving === true) link.leaving = true;
      if (member?.lost && link.state === 'unreachable') link.state = 'lost';
      else if (link.state === 'lost' && member !== undefined && !member.lost && !member.leaving) this.#tellLost(link);
      if (link.leaving) this.#joining.delete(link);
    }
    this.#mark();
    this.#forgetLeft();
    this.recount();
    void this.settle();
  }

  /** The store did not hear of it when it was found: as long as it does not know, nobody replaces the replica. */
  #tellLost({ member, message }: Link): void {
    this.#membership.markLost(member.replicaId, message).catch((error: unknown) => {
      this.#logger.warn({ replica: member.replicaId, error: messageOf(error) }, 'could not record a loss yet');
    });
  }

  #welcome(member: EngineMember): void {
    const link = newLink(member);
    this.#links.push(link);
    this.#logger.info({ node: member.nodeId, replica: member.replicaId }, 'new replica');
    if (link.state !== 'lost') this.#events.lost(link);
  }

  /** Those that were to leave and do not count any more, neither in the set nor in one whose outcome is unknown. */
  #forgetLeft(): void {
    for (const link of this.#links.filter((one) => one.leaving && !one.counted)) {
      this.#links.splice(this.#links.indexOf(link), 1);
      link.state = 'gone';
      link.message = 'it has left';
      const { port } = link;
      link.port = undefined;
      port?.close();
      link.onProgress?.();
      this.#logger.info({ node: link.member.nodeId, replica: link.member.replicaId }, 'replica has left');
    }
  }

  /** Asks the store for the set as it should be, until store and engine agree. */
  async settle(): Promise<void> {
    if (this.#settling || this.#closed) return;
    this.#settling = true;
    let wait = STORE_RETRY_MS.first;
    try {
      for (;;) {
        const wanted = this.#wanted();
        if (this.#closed || wanted === undefined) return;
        for (const id of wanted.members) this.#proposed.add(id);
        this.#mark();
        try {
          const result = await this.#membership.changeSet({
            expectedSetVersion: this.#setVersion,
            inSync: wanted.members,
            reason: wanted.reason,
          });
          if (this.#closed) return;
          if (result.outcome === 'deposed')
            return this.#events.deposed('the metadata store has granted a higher epoch');
          // A conflict settles an earlier change: the store's set is adopted, then asked to become the wanted one.
          this.#confirm(result.outcome === 'conflict' ? result.inSync : wanted.members, result.setVersion);
          wait = STORE_RETRY_MS.first;
        } catch (error) {
          this.#logger.warn(
            { error: messageOf(error) },
            'in-sync set could not be changed yet; acknowledgements that depend on it wait',
          );
          await this.#clock.sleep(wait);
          wait = Math.min(wait * 2, STORE_RETRY_MS.most);
        }
      }
    } finally {
      this.#settling = false;
    }
  }

  /** The set the engine wants, or undefined when the store already has it or it would be empty. */
  #wanted(): { members: ReplicaId[]; reason: string } | undefined {
    const here = (link: Link) => link.state === 'in-sync' || link.state === 'counting';
    const present = this.links.filter((link) => this.#inSync.has(link.member.replicaId) && here(link));
    const join = this.links.filter(
      (link) => this.#joining.has(link) && link.ready && !link.leaving && !present.includes(link),
    );
    const staying = present.filter((link) => !link.leaving);
    // What is ordered to leave stays in the place of what is missing or not durable yet, and the last one always.
    const whole = staying.filter((link) => link.state === 'in-sync' || link.ready).length;
    const missing = Math.max(0, this.#least - whole - join.length);
    const kept = present.filter((link) => link.leaving).slice(0, missing);
    const stay = [...staying, ...kept];
    const members = [...stay, ...join].map((link) => link.member.replicaId);
    const same = members.length === this.#inSync.size && members.every((id) => this.#inSync.has(id));
    if (members.length === 0 || (same && this.#proposed.size === 0)) return undefined;
    const left = this.links.filter((link) => this.#inSync.has(link.member.replicaId) && !stay.includes(link));
    const reason = [
      ...left.map((link) => `without ${link.member.nodeId}: ${link.leaving ? 'it is to leave' : link.message}`),
      ...join.map((link) => `with ${link.member.nodeId}: caught up`),
    ].join('; ');
    return { members, reason };
  }

  #confirm(members: readonly ReplicaId[], setVersion: number): void {
    this.#inSync = new Set(members);
    this.#proposed.clear();
    this.#setVersion = setVersion;
    for (const link of this.links) {
      const member = this.#inSync.has(link.member.replicaId);
      if ((member && link.ready) || link.leaving) this.#joining.delete(link);
      if (member && link.ready && link.state === 'counting') link.state = 'in-sync';
    }
    this.#mark();
    this.#forgetLeft();
    this.#logger.info({ setVersion, members }, 'in-sync set changed');
    this.#events.setChanged();
    this.recount();
  }

  /** `bytesAfter`: how much log there is above a seq. */
  states(bytesAfter: (seq: number) => number): EngineReplicaState[] {
    return this.links.map((link) => ({
      replicaId: link.member.replicaId,
      nodeId: link.member.nodeId,
      state: shownState(link),
      message: link.message,
      appendedThrough: link.appendedThrough,
      behindBytes: link.state === 'in-sync' ? 0 : bytesAfter(link.appendedThrough),
    }));
  }

  close(): void {
    this.#closed = true;
    this.lease.close();
    for (const link of this.links) {
      link.port?.close();
      link.port = undefined;
    }
  }
}
