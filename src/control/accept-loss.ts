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
        engine: null,
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
    const reports = await this.#reports(record, nodes);
    const missing = (replica: ReplicaRecord) => whyMissing(replica, reports, order.giveUpNodes);
    const members = record.replicas.filter(({ id }) => record.inSync.includes(id));
    const lost = members.flatMap((replica) => {
      const why = missing(replica);
      return why === '' ? [] : [{ replica, why }];
    });
    const kept = members.filter((replica) => missing(replica) === '' && reports.get(replica.id)?.joining === false);
    if (lost.length === 0 && kept.length > 0) {
      const nodeIds = members.map(({ nodeId }) => nodeId).join(', ');
      throw precondition(`volume ${record.id} misses nothing: its in-sync replicas on ${nodeIds} answer; attach it`);
    }
    if (kept.length > 0) {
      const loss =
        'writes that were acknowledged and not flushed, when the replicas that are left lost power; if they turn out to lack what was flushed, the volume stays closed, and what was given up can be gone back to with --give-up';
      return { lost, survivors: kept, loss };
    }
    const others = record.replicas.filter(
      (replica) => isCandidate(replica) && !record.inSync.includes(replica.id) && missing(replica) === '',
    );
    const survivors = others.filter(({ id }) => reports.get(id)?.joining === false);
    if (survivors.length === 0) {
      throw precondition(
        `volume ${record.id}: no replica is left to go on from${others.length > 0 ? '; those that answer were still being copied to and are not whole' : ''}: wait for ${lost.map(({ replica }) => replica.nodeId).join(', ')}, or restore a backup`,
        'ReplicaLost',
      );
    }
    const nodeIds = survivors.map(({ nodeId }) => nodeId).join(', ');
    const loss = `everything written and flushed since the replicas on ${nodeIds} left the in-sync set`;
    return { lost, survivors, loss };
  }

  /** An engine that serves misses nothing. */
  async #refuseOpen(record: VolumeRecord, nodes: readonly NodeView[]): Promise<void> {
    const node = nodes.find(({ id }) => id === record.engine?.nodeId);
    if (node === undefined || node.silentMs !== undefined) return;
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

  /** What the daemons that answer hold of the volume, by replica. */
  async #reports(record: VolumeRecord, nodes: readonly NodeView[]) {
    const reports = new Map<ReplicaId, holdfast.ReplicaInfo__Output | null>();
    await Promise.all(
      record.replicas.map(async (replica) => {
        const node = nodes.find(({ id }) => id === replica.nodeId);
        if (node === undefined || node.silentMs !== undefined) return;
        try {
          const calls = this.#options.daemons.replica(node);
          const { replicas } = await calls.Status({ volume_id: record.id }, { deadlineMs: ORDER_DEADLINE_MS });
          reports.set(replica.id, replicas.find((one) => one.replica_id === replica.id) ?? null);
        } catch (error) {
          if (!isUnreachable(error)) throw error;
          this.#options.logger.warn({ node: node.id, error: messageOf(error) }, 'a node does not answer');
        }
      }),
    );
    return reports;
  }
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

/** A sentence, or empty: it is there and can be used. */
function whyMissing(
  replica: ReplicaRecord,
  reports: ReadonlyMap<ReplicaId, holdfast.ReplicaInfo__Output | null>,
  giveUpNodes: readonly string[],
): string {
  if (replica.state === 'lost' && replica.givenUpEpoch === undefined)
    return `lost: ${replica.message ?? 'its disk came back empty'}`;
  if (giveUpNodes.includes(replica.nodeId)) return 'given up by order';
  const report = reports.get(replica.id);
  if (report === undefined) return 'its node does not answer';
  if (report === null || report.incarnation_id !== replica.incarnationId) return 'not on its node any more';
  return report.problem;
}
