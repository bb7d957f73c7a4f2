// The one order that may give acknowledged data up: a volume whose in-sync replicas are missing for good goes on from what is left. Never
// done by itself, never silently: what is given up is said first, a record of who, when and what is written before the change, and the log
// has it as an error.
//
// The change is the only one of an in-sync set that is not its engine's. It grants the epoch after the last to nobody, so that an engine that
// may still run somewhere is deposed at its next word with the store, and can't take its former set back.

import {
  HoldfastError,
  invalid,
  isUuid,
  type Logger,
  messageOf,
  type NodeId,
  notFound,
  precondition,
  printable,
  type ReplicaId,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import {
  type AuditRecord,
  calledBack,
  givenUp,
  keyOf,
  type ReplicaRecord,
  restored,
  type VolumeRecord,
} from '../meta/index.js';
import type { holdfast, KeyedLocks } from '../rpc/index.js';
import type { Daemons } from './daemons.js';
import { isUnreachable } from './engine-orders.js';
import { ORDER_DEADLINE_MS } from './limits.js';
import { isKept } from './membership-plan.js';
import type { Nodes, NodeView } from './nodes.js';
import type { Records } from './records.js';

export interface AcceptLossOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly daemons: Daemons;
  readonly locks: KeyedLocks;
  readonly wallMs: () => number;
  readonly logger: Logger;
}

export interface LossOrder {
  readonly volumeId: string;
  readonly confirmed: boolean;
  /** For the record. */
  readonly by: string;
  /** Nodes whose replicas are given up though they answer. */
  readonly giveUpNodes: readonly string[];
}

export interface Loss {
  readonly givenUp: readonly string[];
  readonly survivors: readonly NodeId[];
  readonly loss: string;
  readonly done: boolean;
  readonly auditKey: string;
}

interface Verdict {
  readonly lost: readonly { readonly replica: ReplicaRecord; readonly why: string }[];
  readonly survivors: readonly ReplicaRecord[];
  readonly loss: string;
}

/** What a node that answers says of a replica. */
interface Sight {
  readonly report: holdfast.ReplicaInfo__Output | null;
  /** The pool where it lies, or may lie, can't be read now. */
  readonly hidden: holdfast.UnreadPool__Output | undefined;
}

type Sights = ReadonlyMap<ReplicaId, Sight>;

const BY_BYTES_MAX = 256;

export class LossAcceptance {
  readonly #options: AcceptLossOptions;

  constructor(options: AcceptLossOptions) {
    this.#options = options;
  }

  /**
   * Throws FAILED_PRECONDITION when nothing is missing, when the volume is open, when what is left can't be gone on from; ABORTED when its
   * record changed meanwhile.
   */
  accept(order: LossOrder): Promise<Loss> {
    if (order.by === '' || Buffer.byteLength(order.by) > BY_BYTES_MAX)
      throw invalid(`it must be said who accepts the loss, in 1 to ${BY_BYTES_MAX} bytes`);
    return this.#options.locks.run('accepting loss', `volume ${order.volumeId}`, () => this.#accept(order));
  }

  async #accept(order: LossOrder): Promise<Loss> {
    const { records, wallMs, logger } = this.#options;
    const record = await this.#kept(order.volumeId);
    const verdict = await this.#judge(record, order);
    const told = {
      givenUp: verdict.lost.map(({ replica, why }) => `${replica.nodeId}: replica ${replica.id}, ${why}`),
      survivors: verdict.survivors.map(({ nodeId }) => nodeId),
      loss: verdict.loss,
    };
    if (!order.confirmed) return { ...told, done: false, auditKey: '' };
    const atMs = wallMs();
    const auditKey = keyOf.audit(atMs, record.id);
    const { inSync, epoch, setVersion, flushedPoint } = record;
    const audit: AuditRecord = {
      what: 'accept-loss',
      ...{ volumeId: record.id, by: order.by, atMs, ...told },
      before: { inSync, epoch, setVersion, flushedPoint },
    };
    if (!(await records.create(auditKey, audit)))
      throw new HoldfastError('ABORTED', 'another loss is recorded at this moment; retry', { reason: 'Busy' });
    await this.#give(record, verdict, `given up by ${order.by}: loss accepted`);
    logger.error({ volume: record.id, by: order.by, ...told, audit: auditKey }, 'loss of data accepted by order');
    return { ...told, done: true, auditKey };
  }

  /** Also one that is kept for its snapshots. Throws NOT_FOUND. */
  async #kept(id: string): Promise<VolumeRecord> {
    const record = isUuid(id) ? await this.#options.records.volume(id as VolumeId) : undefined;
    if (record === undefined || !isKept(record)) throw notFound(`volume ${printable(id)} does not exist`);
    return record;
  }

  async #give(record: VolumeRecord, { lost, survivors }: Verdict, message: string): Promise<void> {
    const inSync = survivors.map(({ id }) => id);
    await this.#options.records.change<VolumeRecord>(keyOf.volume(record.id), (now) => {
      const stands = ({ id, state, spare }: ReplicaRecord) =>
        now.replicas.some((one) => one.id === id && one.state === state && one.spare === spare);
      // The store could not say whether it took effect: it did.
      if (now.epoch === record.epoch + 1 && now.reignId === null && sameIds(now.inSync, inSync)) return 'unchanged';
      const same = now.epoch === record.epoch && now.setVersion === record.setVersion;
      if (!isKept(now) || !same || !survivors.every(stands))
        throw new HoldfastError('ABORTED', `volume ${record.id} was opened or changed meanwhile; look again`, {
          reason: 'Busy',
        });
      const gone = new Set(lost.map(({ replica }) => replica.id));
      const chosen = new Set(survivors.map(({ id }) => id));
      const epoch = now.epoch + 1;
      const next = (one: ReplicaRecord) =>
        gone.has(one.id)
          ? givenUp(one, epoch, message)
          : chosen.has(one.id) && !now.inSync.includes(one.id)
            ? atHand(one)
            : one;
      const areMembers = survivors.every(({ id }) => now.inSync.includes(id));
      return {
        ...now,
        replicas: now.replicas.map(next),
        inSync,
        setVersion: now.setVersion + 1,
        epoch,
        reignId: null,
        // One may still run somewhere, so a lease has to be waited out; it serves nobody any more.
        engine: now.engine && { ...now.engine, maintenance: true },
        // Members must hold it, else an open refuses them; of others it may be part of what is lost.
        flushedPoint: areMembers ? now.flushedPoint : null,
      };
    });
  }

  async #judge(record: VolumeRecord, order: LossOrder): Promise<Verdict> {
    const nodes = await this.#options.nodes.list();
    const unknown = order.giveUpNodes.find((name) => !record.replicas.some(({ nodeId }) => nodeId === name));
    if (unknown !== undefined) throw invalid(`volume ${record.id} has no replica on node ${printable(unknown)}`);
    await this.#refuseOpen(record, nodes);
    const sights = await this.#look(record, nodes);
    const missing = (replica: ReplicaRecord) => whyMissing(replica, sights, order.giveUpNodes);
    const isWhole = (replica: ReplicaRecord) =>
      missing(replica) === '' && sights.get(replica.id)?.report?.joining === false;
    const members = record.replicas.filter(({ id }) => record.inSync.includes(id));
    const lost = members.flatMap((replica) => {
      const why = missing(replica);
      return why === '' ? [] : [{ replica, why }];
    });
    for (const { replica } of lost) refuseHidden(replica, sights, order.giveUpNodes);
    const kept = members.filter(isWhole);
    if (lost.length === 0 && kept.length > 0) {
      const unfinished = namesOf(members.filter((replica) => !kept.includes(replica)));
      const more =
        unfinished === ''
          ? ''
          : `. Those on ${unfinished} have still to be brought up to date; if that does not open it, give them up with --give-up`;
      throw precondition(
        `volume ${record.id} misses nothing: its in-sync replicas on ${namesOf(kept)} answer; attach it${more}`,
      );
    }
    if (kept.length > 0) {
      const loss =
        'writes that were acknowledged and not flushed, when the replicas that are left lost power; if they turn out to lack what was flushed, the volume stays closed, and what was given up can be gone back to with --give-up';
      return { lost, survivors: kept, loss };
    }
    const others = record.replicas.filter(
      (replica) => isCandidate(replica) && !record.inSync.includes(replica.id) && missing(replica) === '',
    );
    const survivors = others.filter(isWhole);
    if (survivors.length === 0) {
      const unwhole = others.length > 0 ? '; those that answer were still being copied to and are not whole' : '';
      const bad = lost.map(({ replica, why }) => `${replica.nodeId}: ${why}`).join('; ');
      // What was given up before would do as well, once it is back.
      const away = record.replicas.filter(
        (one) => (isCandidate(one) || record.inSync.includes(one.id)) && mayComeBack(one, sights),
      );
      const wait = away.length > 0 ? `wait for ${namesOf(away)}, or restore a backup` : 'restore a backup';
      throw precondition(
        `volume ${record.id}: no replica is left to go on from${unwhole} (${bad}): ${wait}`,
        'ReplicaLost',
      );
    }
    const loss = `everything written and flushed since the replicas on ${namesOf(survivors)} left the in-sync set`;
    return { lost, survivors, loss };
  }

  /** An engine that serves misses nothing. */
  async #refuseOpen(record: VolumeRecord, nodes: readonly NodeView[]): Promise<void> {
    const node = nodes.find(({ id }) => id === record.engine?.nodeId);
    if (node === undefined) return;
    try {
      const request = { volume_id: record.id };
      const { volumes } = await this.#options.daemons.volume(node).Status(request, { deadlineMs: ORDER_DEADLINE_MS });
      // One that has lost them all hangs, and is deposed by the epoch that is granted here.
      const open = volumes.find(({ volume_id: id }) => id === record.id);
      if (open?.replicas.some(({ state }) => state === 'in-sync'))
        throw precondition(
          `volume ${record.id} is open on node ${node.id} with an in-sync replica: there is no loss to accept`,
          'Busy',
        );
    } catch (error) {
      if (!isUnreachable(error)) throw error;
    }
  }

  /** What the daemons that answer hold of the volume, by replica. Asked also when no sign of life came from them lately. */
  async #look(record: VolumeRecord, nodes: readonly NodeView[]): Promise<Sights> {
    const sights = new Map<ReplicaId, Sight>();
    await Promise.all(
      record.replicas.map(async (replica) => {
        const node = nodes.find(({ id }) => id === replica.nodeId);
        if (node === undefined) return;
        try {
          const calls = this.#options.daemons.replica(node);
          const answer = await calls.Status({ volume_id: record.id }, { deadlineMs: ORDER_DEADLINE_MS });
          sights.set(replica.id, sightOf(record.id, replica, answer));
        } catch (error) {
          if (!isUnreachable(error)) throw error;
          this.#options.logger.warn({ node: node.id, error: messageOf(error) }, 'a node does not answer');
        }
      }),
    );
    return sights;
  }
}

function sightOf(volumeId: VolumeId, replica: ReplicaRecord, answer: holdfast.ReplicaStatusResponse__Output): Sight {
  const isIt = (one: holdfast.ReplicaInfo__Output) =>
    one.replica_id === replica.id ||
    // Its superblocks can't be read, so it does not say which one it is.
    (one.replica_id === zeroUuid && one.volume_id === volumeId && one.pool_id === replica.poolId);
  const report = answer.replicas.find(isIt) ?? null;
  const { unread_pools: unread } = answer;
  const hidden =
    unread.find((pool) => pool.pool_id === replica.poolId) ??
    (report === null ? unread.find((pool) => pool.pool_id === zeroUuid) : undefined);
  return { report, hidden };
}

/** May be gone on from: never was lost, or only by an acceptance that can be gone back on. One that was let go has still all its data. */
function isCandidate({ state, givenUpEpoch, spare }: ReplicaRecord): boolean {
  return state === 'ok' || (state === 'lost' && givenUpEpoch !== undefined) || spare === true;
}

function atHand(replica: ReplicaRecord): ReplicaRecord {
  if (replica.state === 'lost') return restored(replica);
  return replica.spare === true ? calledBack(replica) : replica;
}

function sameIds(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id));
}

function namesOf(replicas: readonly ReplicaRecord[]): string {
  return replicas.map(({ nodeId }) => nodeId).join(', ');
}

function mayComeBack(replica: ReplicaRecord, sights: Sights): boolean {
  const sight = sights.get(replica.id);
  return sight === undefined || sight.hidden !== undefined;
}

/** Throws when it may be whole on a disk that is only not mounted. */
function refuseHidden(replica: ReplicaRecord, sights: Sights, giveUpNodes: readonly string[]): void {
  const hidden = sights.get(replica.id)?.hidden;
  if (hidden === undefined || replica.state === 'lost' || giveUpNodes.includes(replica.nodeId)) return;
  throw precondition(
    `replica ${replica.id} on node ${replica.nodeId} may be whole: its pool ${hidden.path} can't be read there now: ${hidden.problem}. Bring ` +
      `the pool back and restart the storage daemon; if it never comes back, say --give-up ${replica.nodeId}`,
    'PoolMissing',
  );
}

/** A sentence, or empty: it is there and can be used. */
function whyMissing(replica: ReplicaRecord, sights: Sights, giveUpNodes: readonly string[]): string {
  if (replica.state === 'lost' && replica.givenUpEpoch === undefined)
    return `lost: ${replica.message ?? 'its disk came back empty'}`;
  const sight = sights.get(replica.id);
  const { hidden } = sight ?? {};
  const why = hidden === undefined ? '' : `, its pool ${hidden.path} can't be read there: ${hidden.problem}`;
  if (giveUpNodes.includes(replica.nodeId)) return `given up by order${why}`;
  if (sight === undefined) return 'its node does not answer';
  if (hidden !== undefined) return why.slice(2);
  const { report } = sight;
  if (report === null) return 'not on its node any more';
  if (report.problem !== '') return report.problem;
  return report.incarnation_id === replica.incarnationId ? '' : 'not on its node any more';
}
