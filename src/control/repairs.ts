// The loop that gives every volume the replicas it should have: after `replicas` was changed, after a replica was lost, after a node has
// gone for good, while a node or pool is drained. It decides from the store and the nodes' signs of life alone, by membership-plan.ts, and
// each step may be repeated. What it remembers (whom to look at, since when something does not work) may be lost at any time.
// Owner: the controller. What may fail: every step, for one volume; it is tried again after a pause that doubles.

import { type Clock, HoldfastError, type Logger, messageOf, type NodeId, type VolumeId } from '../base/index.js';
import type { MetaEntry, ReplicaRecord, VolumeRecord, WatchEvent } from '../meta/index.js';
import type { holdfast } from '../rpc/index.js';
import { Backoff } from './backoff.js';
import { isUnreachable } from './engine-orders.js';
import {
  CREATE_PATIENCE_MS,
  FAILED_AFTER_MS,
  OVERSLEPT_MS,
  REBUILDS_MAX,
  RECONCILE_BACKOFF_MAX_MS,
  RECONCILE_INTERVAL_MS,
  REPAIR_IDLE_LOOK_MS,
  REPAIR_LOOK_MS,
  REPAIR_RETRY_MS,
  REPAIR_STEPS_MAX,
  REPAIRS_AT_ONCE,
  STALL_GAP_MS,
} from './limits.js';
import {
  doomOf,
  isAmiss,
  isKept,
  type MembershipFacts,
  type MembershipStep,
  nextStep,
  replicasToRetire,
} from './membership-plan.js';
import type { Nodes } from './nodes.js';
import type { Records } from './records.js';
import { Refusals } from './refusals.js';
import type { ReplicaSteps } from './replica-steps.js';

export interface RepairsOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly steps: ReplicaSteps;
  /** See MembershipFacts. */
  readonly goneAfterMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Why a volume has not the replicas it should have, yet. */
export interface RepairNote {
  /** CamelCase, for programs. */
  readonly reason: 'NoPlace' | 'Waiting' | 'Queued' | 'Rebuilding' | 'Retiring' | 'Failed';
  readonly message: string;
  /** Of log that new replicas have still to be sent. */
  readonly behindBytes: number;
  readonly sinceMs: number;
}

/** A replica that is behind: how far it was, since when, and whether its own daemon says that it can't be used. */
interface Stall {
  readonly appendedThrough: number;
  readonly failed: boolean;
  readonly sinceMs: number;
  /** The last look that found it so. */
  readonly seenMs: number;
}

interface Pass {
  readonly facts: MembershipFacts;
  /** Volumes that may grow though copies are missing nowhere: one of each drained node. */
  readonly turns: ReadonlySet<VolumeId>;
  /** How many more volumes may get new replicas. */
  readonly slots: { left: number };
}

export class Repairs {
  readonly #options: RepairsOptions;
  readonly #backoff = new Backoff(REPAIR_RETRY_MS, RECONCILE_BACKOFF_MAX_MS);
  readonly #pending = new Set<VolumeId>();
  readonly #notes = new Map<VolumeId, RepairNote>();
  /** Replicas that are behind, and since when they did not come nearer. */
  readonly #stalls = new Map<string, Stall>();
  /** Since when a place has been waited for, by replica. */
  readonly #making = new Map<string, number>();
  readonly #refusals: Refusals;
  /** Volumes of which a replica was being copied to, as of the last look. */
  readonly #copying = new Set<VolumeId>();
  #listeningSinceMs: number;
  #scanned = false;
  #changed = false;
  #wake = () => {};

  constructor(options: RepairsOptions) {
    this.#options = options;
    this.#refusals = new Refusals(options.clock);
    this.#listeningSinceMs = options.clock.monotonicMs();
  }

  /** Why the volume lacks replicas, as of the last look. */
  noteOf(id: VolumeId): RepairNote | undefined {
    return this.#notes.get(id);
  }

  async facts(): Promise<MembershipFacts> {
    const { nodes, goneAfterMs, clock } = this.#options;
    const stalled = new Set<string>();
    for (const [id, { sinceMs, seenMs, failed }] of this.#stalls) {
      // What nobody could look at has not stalled.
      if (clock.monotonicMs() - seenMs > STALL_GAP_MS) continue;
      const stalledMs = seenMs - sinceMs;
      if ((goneAfterMs > 0 && stalledMs > goneAfterMs) || (failed && stalledMs > FAILED_AFTER_MS)) stalled.add(id);
    }
    const listeningMs = clock.monotonicMs() - this.#listeningSinceMs;
    return { nodes: await nodes.list(), goneAfterMs, listeningMs, stalled };
  }

  /** Looks after the volumes until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { logger } = this.#options;
    const watching = this.#watch(signal);
    while (!signal.aborted) {
      this.#changed = false;
      try {
        await this.#look(signal);
      } catch (error) {
        this.#scanned = false;
        logger.warn({ error: messageOf(error) }, 'a look at the replicas failed');
      }
      if (signal.aborted) break;
      const woken = new AbortController();
      this.#wake = () => woken.abort();
      if (!this.#changed) await this.#sleep(AbortSignal.any([signal, woken.signal]));
    }
    await watching;
  }

  async #sleep(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const wakeMs = clock.monotonicMs() + this.#pauseMs();
    await clock.sleep(wakeMs - clock.monotonicMs(), signal).catch(() => {});
    // Its machine slept: who has not been heard of since may only not have had its turn yet.
    if (clock.monotonicMs() - wakeMs > OVERSLEPT_MS) this.#listeningSinceMs = clock.monotonicMs();
  }

  /** Until something is due. */
  #pauseMs(): number {
    if (this.#pending.size === 0) return REPAIR_IDLE_LOOK_MS;
    const nowMs = this.#options.clock.monotonicMs();
    const waits = [...this.#pending].map((id) => this.#backoff.readyMs(id) - nowMs).filter((waitMs) => waitMs > 0);
    return Math.min(REPAIR_LOOK_MS, ...waits);
  }

  /** Something was ordered that a look should find. Of the volume that is named all is tried again at once. */
  lookSoon(id?: VolumeId): void {
    if (id !== undefined) {
      this.#refusals.forget(id);
      this.#backoff.forget(id);
    }
    this.#rescan();
  }

  /** One look at every volume, whatever was seen before. */
  async round(): Promise<void> {
    this.#scanned = false;
    await this.#look();
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { records, clock, logger } = this.#options;
    while (!signal.aborted) {
      try {
        const version = await records.store.version();
        const watching = records.store.watch('', version, (events) => this.#note(events), signal);
        this.#rescan();
        await watching;
        return;
      } catch (error) {
        logger.warn({ error: messageOf(error) }, 'changes of the metadata are not seen, they will be looked for');
        await clock.sleep(RECONCILE_INTERVAL_MS, signal).catch(() => {});
      }
    }
  }

  #note(events: readonly WatchEvent[]): void {
    for (const event of events) {
      if (event.type === 'resync') this.#rescan();
      else if (event.type === 'put' && event.entry.key.startsWith('node/')) this.#noteNode(event.entry);
      else if (event.type === 'put' && event.entry.key.startsWith('volume/')) {
        const record = event.entry.value as unknown as VolumeRecord;
        if (!isAmiss(record) && !this.#pending.has(record.id)) continue;
        this.#pending.add(record.id);
        this.#noteChange();
      }
    }
  }

  /** A drain may have begun or ended. */
  #noteNode({ value }: MetaEntry): void {
    if (value.drains !== undefined) this.#noteChange();
  }

  #rescan(): void {
    this.#scanned = false;
    this.#noteChange();
  }

  #noteChange(): void {
    this.#changed = true;
    this.#wake();
  }

  async #look(signal?: AbortSignal): Promise<void> {
    const { records, clock } = this.#options;
    const facts = await this.facts();
    const doomed = facts.nodes.some(
      (node) => (node.drains?.length ?? 0) > 0 || (facts.goneAfterMs > 0 && (node.silentMs ?? 0) > facts.goneAfterMs),
    );
    if (!this.#scanned || doomed) {
      this.#scanned = true;
      for (const record of await records.volumes()) if (isConcerned(record, facts)) this.#pending.add(record.id);
    }
    const keys = new Set([...this.#pending].map(String));
    this.#backoff.keepOnly(keys);
    for (const id of this.#notes.keys()) if (!this.#pending.has(id)) this.#notes.delete(id);
    const due = [...this.#pending].filter((id) => this.#backoff.readyMs(id) <= clock.monotonicMs()).sort();
    if (due.length === 0) return;
    const pass = await this.#plan(facts, due);
    const queue = due.values();
    const work = async () => {
      for (const id of queue) if (!signal?.aborted) await this.#attend(id, pass);
    };
    await Promise.all(Array.from({ length: REPAIRS_AT_ONCE }, work));
  }

  /** Who may get new replicas in this look: a bounded number, and of each drained node one volume at a time. */
  async #plan(facts: MembershipFacts, due: readonly VolumeId[]): Promise<Pass> {
    const turns = new Map<NodeId, VolumeId>();
    let rebuilding = 0;
    const waiting: VolumeRecord[] = [];
    for (const id of this.#pending) {
      const record = await this.#options.records.volume(id);
      if (record === undefined || !isKept(record)) continue;
      const { kind } = nextStep(record, facts);
      if (kind === 'create' || this.#copying.has(id)) rebuilding++;
      // One that can't go on, for want of a place or of a node, or because it fails, does not hold up the others.
      const stuck = kind === 'wait' || !due.includes(id) || this.#notes.get(id)?.reason === 'Failed';
      if (kind === 'grow') waiting.push(...(due.includes(id) ? [record] : []));
      else if (!stuck) for (const node of drainedNodes(record, facts)) turns.set(node, id);
    }
    for (const record of waiting.sort((a, b) => (a.id < b.id ? -1 : 1)))
      for (const node of drainedNodes(record, facts)) if (!turns.has(node)) turns.set(node, record.id);
    return { facts, turns: new Set(turns.values()), slots: { left: Math.max(0, REBUILDS_MAX - rebuilding) } };
  }

  async #attend(id: VolumeId, pass: Pass): Promise<void> {
    const { clock, logger } = this.#options;
    try {
      // Signs of life of this moment: others may have taken their time before it was this one's turn.
      const fresh = { ...pass, facts: await this.facts() };
      for (let taken = 0; taken < REPAIR_STEPS_MAX; taken++) if (!(await this.#step(id, fresh))) return;
    } catch (error) {
      this.#backoff.failed(id, clock.monotonicMs());
      // Somebody is at it right now: that is progress, not trouble.
      if (error instanceof HoldfastError && error.code === 'ABORTED') return;
      if (this.#tell(id, 'Failed', messageOf(error)))
        logger.warn({ volume: id, error: messageOf(error) }, 'replicas are not as they should be yet');
    }
  }

  /** One step. True when the record has changed and more may be done at once. */
  async #step(id: VolumeId, pass: Pass): Promise<boolean> {
    const record = await this.#options.records.volume(id);
    if (record === undefined || !isKept(record)) {
      this.#forget(id);
      return false;
    }
    for (const replicaId of record.inSync) this.#stalls.delete(replicaId);
    const step = nextStep(record, pass.facts);
    let stuck: unknown;
    for (const replica of step.kind === 'call-back' ? [] : replicasToRetire(record)) {
      try {
        await this.#options.steps.retire(record, replica);
        return true;
      } catch (error) {
        // A node that is gone must not keep the volume from getting its replicas.
        stuck = error;
      }
    }
    const goesOn = await this.#carryOut(record, step, pass);
    if (goesOn || stuck === undefined) return goesOn;
    const note = this.#notes.get(id);
    this.#backoff.failed(id, this.#options.clock.monotonicMs());
    this.#pending.add(id);
    if (note === undefined) this.#tell(id, 'Retiring', messageOf(stuck));
    return false;
  }

  async #carryOut(record: VolumeRecord, step: MembershipStep, pass: Pass): Promise<boolean> {
    const { steps, records, clock } = this.#options;
    const { id } = record;
    switch (step.kind) {
      case 'none':
        this.#forget(id, record);
        return false;
      case 'wait':
        this.#tell(id, 'Waiting', step.message);
        this.#backoff.failed(id, clock.monotonicMs());
        return false;
      case 'grow':
        return this.#grow(record, step, pass);
      case 'create':
        return this.#create(record, step.replica);
      case 'leave':
        await steps.leave(id, step.replica.id, pass.facts);
        return true;
      case 'call-back':
        await steps.callBack(id, step.replica.id, pass.facts);
        return true;
      case 'follow': {
        const states = await steps.follow(id);
        const source = states.some(({ state }) => state === 'in-sync');
        if (source && states.some(({ state }) => state === 'catching-up')) this.#copying.add(id);
        else this.#copying.delete(id);
        for (const state of states) await this.#noteProgress(record, state, states);
        const behind = states.reduce((sum, { behind_bytes }) => sum + behind_bytes, 0);
        const trouble = states.flatMap(({ node_id, message }) => (message === '' ? [] : [`${node_id}: ${message}`]));
        this.#tell(id, 'Rebuilding', trouble.join('; ') || 'replicas are being brought up to date', behind);
        return (await records.volume(id))?.setVersion !== record.setVersion;
      }
    }
  }

  async #grow(record: VolumeRecord, step: { count: number; urgent: boolean }, pass: Pass): Promise<boolean> {
    const { steps, clock, logger } = this.#options;
    const { id } = record;
    if (!step.urgent && !pass.turns.has(id)) {
      this.#tell(id, 'Queued', 'another volume of the drained place is moved first');
      return false;
    }
    if (pass.slots.left <= 0) {
      this.#tell(id, 'Queued', `${REBUILDS_MAX} volumes are getting new replicas, this one comes after them`);
      return false;
    }
    pass.slots.left--;
    try {
      await this.#growBy(id, step.count, pass);
      return true;
    } catch (error) {
      pass.slots.left++;
      if (!isNoPlace(error)) throw error;
      // A place of which nothing is left, or nothing of use, can be used again.
      if (await steps.dropUseless(record, pass.facts)) return true;
      const other = nextStep(record, { ...pass.facts, noPlace: true });
      if (other.kind !== 'none' && other.kind !== 'wait' && (await this.#carryOut(record, other, pass))) return true;
      if (this.#tell(id, 'NoPlace', messageOf(error)))
        logger.warn({ volume: id, error: messageOf(error) }, 'there is no place for a replica');
      this.#backoff.failed(id, clock.monotonicMs());
      return false;
    }
  }

  /** As many as there are places for. Throws RESOURCE_EXHAUSTED, of the whole number, when there is none for a single one. */
  async #growBy(id: VolumeId, count: number, pass: Pass): Promise<void> {
    const { steps } = this.#options;
    let refusal: unknown;
    for (let fewer = count; fewer > 0; fewer--) {
      try {
        return await steps.grow(id, fewer, pass.facts, this.#refusals.by(id));
      } catch (error) {
        if (!isNoPlace(error)) throw error;
        refusal ??= error;
      }
    }
    throw refusal;
  }

  /** A replica whose disk does not answer is as good as gone, though its node is there. */
  async #noteProgress(
    record: VolumeRecord,
    told: holdfast.ReplicaState__Output,
    all: readonly holdfast.ReplicaState__Output[],
  ): Promise<void> {
    const { replica_id: id, state, appended_through: appendedThrough } = told;
    const replica = record.replicas.find((one) => one.id === id);
    const before = this.#stalls.get(id);
    // Without one to be copied from nobody comes nearer, and nothing may be given up.
    const hasSource = all.some((one) => one.state === 'in-sync' && one.replica_id !== id);
    if (state === 'in-sync' || replica === undefined || !hasSource) {
      this.#stalls.delete(id);
      return;
    }
    const nowMs = this.#options.clock.monotonicMs();
    const failed = state === 'unreachable' && (await this.#options.steps.hasFailed(record, replica));
    const lately = before !== undefined && nowMs - before.seenMs <= STALL_GAP_MS;
    const same = lately && before.appendedThrough === appendedThrough && before.failed === failed;
    this.#stalls.set(id, { appendedThrough, failed, sinceMs: same ? before.sinceMs : nowMs, seenMs: nowMs });
  }

  #tell(id: VolumeId, reason: RepairNote['reason'], message: string, behindBytes = 0): boolean {
    const before = this.#notes.get(id);
    const same = before?.reason === reason && before.message === message;
    const sinceMs = before?.reason === reason ? before.sinceMs : this.#options.clock.wallMs();
    this.#notes.set(id, { reason, message, behindBytes, sinceMs });
    return !same;
  }

  /** Whether a place was waited for long enough. */
  #isImpatient(replicaId: string): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    const sinceMs = this.#making.get(replicaId) ?? nowMs;
    this.#making.set(replicaId, sinceMs);
    return nowMs - sinceMs > CREATE_PATIENCE_MS;
  }

  async #create(record: VolumeRecord, replica: ReplicaRecord): Promise<boolean> {
    const { steps } = this.#options;
    const impatient = this.#isImpatient(replica.id);
    try {
      await steps.create(record.id, replica.id, impatient);
      this.#refusals.took(replica.poolId);
      this.#making.delete(replica.id);
      return true;
    } catch (error) {
      const busy = error instanceof HoldfastError && error.code === 'ABORTED';
      if (busy || (isUnreachable(error) && !impatient)) throw error;
      // Another one is in the way that the record does not name.
      const present = error instanceof HoldfastError && error.code === 'ALREADY_EXISTS';
      const remedy = present ? `; "holdfast replace ${record.id} ${replica.nodeId}" deletes it` : '';
      const message = `${messageOf(error)}${remedy}`;
      this.#refusals.note(record.id, replica.poolId, message, isUnreachable(error));
      this.#making.delete(replica.id);
      this.#tell(record.id, 'Failed', message);
      return true;
    }
  }

  #forget(id: VolumeId, record?: VolumeRecord): void {
    this.#refusals.forget(id);
    for (const replica of record?.replicas ?? []) this.#stalls.delete(replica.id);
    this.#pending.delete(id);
    this.#notes.delete(id);
    this.#copying.delete(id);
  }
}

function isNoPlace(error: unknown): boolean {
  return error instanceof HoldfastError && error.code === 'RESOURCE_EXHAUSTED';
}

/** Nodes that the volume is to leave by order. */
function drainedNodes(record: VolumeRecord, facts: MembershipFacts): NodeId[] {
  return record.replicas
    .filter((replica) => replica.state !== 'leaving' && doomOf(record, replica, facts) === 'drained')
    .map(({ nodeId }) => nodeId);
}

function isConcerned(record: VolumeRecord, facts: MembershipFacts): boolean {
  if (!isKept(record)) return false;
  return isAmiss(record) || record.replicas.some((replica) => doomOf(record, replica, facts) !== null);
}
