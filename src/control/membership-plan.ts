// What has to be done next so that a volume has the replicas it should have: a pure function of its record and of what is known of the
// nodes. Repairs carries it out, and asks again.
//
// The order is the safety: a new replica is in sync before an old one may go (grow before shrink); one that goes is first told to leave,
// is then taken out of the in-sync set by the volume's engine, and only a replica that the store's set does not name any more is deleted:
// a good one not before the engine itself shows enough others, and it is called back when they are missing until then.
//
//   want more than stay ──▶ grow ──▶ create ──▶ follow (the engine brings it in) ──▶ [in sync] ──▶ leave (what is lost, drained or too
//   much) ──▶ follow (the engine takes it out) ──▶ [out of the set] ──▶ retire ──▶ [not named any more]

import {
  hasLeft,
  isAbandoned,
  isAtHand,
  type LeaveReason,
  type ReplicaRecord,
  type VolumeRecord,
} from '../meta/index.js';
import { isDrained, type NodeView } from './nodes.js';
import { labelOf } from './topology.js';

export interface MembershipFacts {
  readonly nodes: readonly NodeView[];
  /** A node that was silent for so long is taken for gone, and its replicas are made anew elsewhere; 0: never. */
  readonly goneAfterMs: number;
  /** How long this controller has been listening without a pause: a node that is not registered was silent for as long. */
  readonly listeningMs: number;
  /** Replicas that did not come nearer for so long, though their node is there: their disk is as good as gone. */
  readonly stalled?: ReadonlySet<string>;
  /** No place was found just now: what can be done with the replicas there are. */
  readonly noPlace?: boolean;
}

/** Why a replica is to be replaced. */
export type Doom = 'lost' | 'drained' | 'gone';

export type MembershipStep =
  /** It has the replicas it should have, all in sync. */
  | { readonly kind: 'none' }
  /** Places for so many more have to be found. `urgent`: copies are missing; else it only moves. */
  | { readonly kind: 'grow'; readonly count: number; readonly urgent: boolean }
  /** Named but not formatted yet. */
  | { readonly kind: 'create'; readonly replica: ReplicaRecord }
  | { readonly kind: 'leave'; readonly replica: ReplicaRecord; readonly reason: LeaveReason }
  /** It was let go, and copies are missing after all. */
  | { readonly kind: 'call-back'; readonly replica: ReplicaRecord }
  /** The volume's engine has to bring its in-sync set there. */
  | { readonly kind: 'follow' }
  /** Nothing can be done until a node is back, or counts as gone. */
  | { readonly kind: 'wait'; readonly message: string };

/** Out of the set: the data is to be deleted, then the name. Independent of the steps. */
export function replicasToRetire(record: VolumeRecord): ReplicaRecord[] {
  return record.replicas.filter((replica) => hasLeft(record, replica));
}

/** Whether the record alone shows that something is to be done. */
export function isAmiss(record: VolumeRecord): boolean {
  if (!isKept(record)) return false;
  const { replicas, inSync, parameters } = record;
  if (replicas.length !== parameters.replicas) return true;
  return replicas.some(({ id, state }) => state !== 'ok' || !inSync.includes(id));
}

/** Whether its replicas are looked after: not while it is made or deleted. */
export function isKept({ state }: VolumeRecord): boolean {
  return state === 'ready' || state === 'snapshots-only';
}

export function doomOf(record: VolumeRecord, replica: ReplicaRecord, facts: MembershipFacts): Doom | null {
  if (replica.state === 'lost') return 'lost';
  const node = facts.nodes.find((known) => known.id === replica.nodeId);
  if (node !== undefined && isDrained(node, replica.poolId) && !isBound(record, replica)) return 'drained';
  // Nobody was silent for longer than this controller has listened.
  const silentMs = Math.min(facts.listeningMs, node === undefined ? facts.listeningMs : (node.silentMs ?? 0));
  const silent = facts.goneAfterMs > 0 && silentMs > facts.goneAfterMs;
  const stalled = !record.inSync.includes(replica.id) && (facts.stalled?.has(replica.id) ?? false);
  const gone = silent || stalled;
  return gone ? 'gone' : null;
}

/** It may only be used where it has a replica, and is used there, or has no other one where its users may run. */
export function isBound(record: VolumeRecord, { id, nodeId }: ReplicaRecord): boolean {
  const { parameters, publications, pinnedTo = [], replicas, inSync } = record;
  if (parameters.dataLocality !== 'required') return false;
  if (publications.some((one) => one.nodeId === nodeId)) return true;
  const others = replicas.filter((one) => one.id !== id && one.state === 'ok' && inSync.includes(one.id));
  return pinnedTo.includes(nodeId) && !others.some((one) => pinnedTo.includes(one.nodeId));
}

/** `record` must be one that isKept(). */
export function nextStep(record: VolumeRecord, facts: MembershipFacts): MembershipStep {
  const wanted = record.parameters.replicas;
  const here = record.replicas.filter(({ state }) => state !== 'leaving');
  const isAlive = ({ nodeId }: ReplicaRecord) =>
    facts.nodes.some((node) => node.id === nodeId && node.silentMs === undefined);
  const isInSync = ({ id, state }: ReplicaRecord) => state === 'ok' && record.inSync.includes(id);

  // Also one that is to leave: it stays in the set until others have taken its place.
  const sources = record.replicas.filter(
    ({ id, state }) => (state === 'ok' || state === 'leaving') && record.inSync.includes(id),
  );
  if (sources.length === 0) return { kind: 'wait', message: 'no replica that is left holds all acknowledged data' };
  if (!sources.some(isAlive))
    return { kind: 'wait', message: `no sign of life from ${namesOf(sources)}, where all acknowledged data lies` };

  const spare = record.replicas.find((replica) => isAtHand(record, replica) && isAlive(replica));
  if (spare !== undefined && here.filter((replica) => isInSync(replica) && isAlive(replica)).length < wanted)
    return { kind: 'call-back', replica: spare };

  const unmade = here.filter(({ state }) => state === 'creating');
  const futile = unmade.find((replica) => doomOf(record, replica, facts) !== null || !isAlive(replica));
  if (futile !== undefined) return { kind: 'leave', replica: futile, reason: 'given-up' };

  const staying = here.filter((replica) => doomOf(record, replica, facts) === null);
  const drained = here.filter((replica) => doomOf(record, replica, facts) === 'drained' && isInSync(replica));
  const missing = wanted - staying.length;
  // More outside of the set than there are to be in it, though their nodes answer: others would not fare better.
  const outside = here.filter((replica) => replica.state === 'ok' && !isInSync(replica) && isAlive(replica));
  if (missing > 0 && facts.noPlace !== true && outside.length <= wanted)
    return { kind: 'grow', count: missing, urgent: staying.length + drained.length < wanted };
  const [first] = unmade;
  if (first !== undefined && missing < 0) return { kind: 'leave', replica: first, reason: 'surplus' };
  if (first !== undefined) return { kind: 'create', replica: first };

  const whole = staying.filter((replica) => isInSync(replica) && isAlive(replica));
  if (whole.length >= wanted) {
    const victim = firstToLeave(record, facts, whole);
    if (victim !== undefined) return victim;
  }
  const behind = staying.filter((replica) => !isInSync(replica));
  const leaving = record.replicas.some(({ id, state }) => state === 'leaving' && record.inSync.includes(id));
  if (leaving || behind.some(isAlive)) return { kind: 'follow' };
  if (behind.length === 0 && whole.length >= wanted) return { kind: 'none' };
  const away = staying.filter((replica) => !isAlive(replica));
  if (away.length > 0) return { kind: 'wait', message: `no sign of life from ${namesOf(away)}` };
  if (missing <= 0) return { kind: 'none' };
  return {
    kind: 'wait',
    message: `${missing} copies are missing, and ${outside.length} are there that are not in sync`,
  };
}

function namesOf(replicas: readonly ReplicaRecord[]): string {
  return replicas.map(({ nodeId }) => nodeId).join(', ');
}

/** With enough in sync: what is doomed goes, then what is too much. */
function firstToLeave(
  record: VolumeRecord,
  facts: MembershipFacts,
  whole: readonly ReplicaRecord[],
): MembershipStep | undefined {
  const wanted = record.parameters.replicas;
  const here = record.replicas.filter(({ state }) => state !== 'leaving');
  const isKeptBack = (replica: ReplicaRecord) => replica.givenUpEpoch !== undefined && !isAbandoned(record, replica);
  const doomed = here.find((replica) => doomOf(record, replica, facts) !== null && !isKeptBack(replica));
  if (doomed !== undefined) {
    const drained = doomOf(record, doomed, facts) === 'drained';
    const reason = drained ? 'drained' : isAbandoned(record, doomed) ? 'abandoned' : 'replaced';
    return { kind: 'leave', replica: doomed, reason };
  }
  const countable = here.filter((replica) => !isKeptBack(replica));
  if (countable.length <= wanted) return undefined;
  const [victim] = byDispensability(record, facts, countable);
  const stay = whole.filter((replica) => replica !== victim);
  // Two at the most differ: had the victim been in sync, one that is not would have come before it.
  return victim !== undefined && stay.length >= wanted
    ? { kind: 'leave', replica: victim, reason: 'surplus' }
    : undefined;
}

/** The one that can best be spared first: out of sync, then silent, then in a crowded domain, the one at the consumer last. */
function byDispensability(
  record: VolumeRecord,
  facts: MembershipFacts,
  replicas: readonly ReplicaRecord[],
): ReplicaRecord[] {
  const nodeOf = (replica: ReplicaRecord) => facts.nodes.find((node) => node.id === replica.nodeId);
  const { failureDomain } = record.parameters;
  const domainOf = (replica: ReplicaRecord) => {
    const node = nodeOf(replica);
    return node === undefined || failureDomain === 'node' ? replica.nodeId : labelOf(node, failureDomain);
  };
  const crowd = (replica: ReplicaRecord) => replicas.filter((other) => domainOf(other) === domainOf(replica)).length;
  const freeShare = (replica: ReplicaRecord) => {
    const pool = nodeOf(replica)?.pools.find(({ id }) => id === replica.poolId);
    return pool === undefined || pool.capacityBytes === 0 ? 0 : pool.freeBytes / pool.capacityBytes;
  };
  const isUsed = (replica: ReplicaRecord) =>
    record.publications.some(({ nodeId }) => nodeId === replica.nodeId) || record.engine?.nodeId === replica.nodeId;
  const rank = (replica: ReplicaRecord) => [
    record.inSync.includes(replica.id) ? 1 : 0,
    nodeOf(replica)?.silentMs === undefined ? 1 : 0,
    -crowd(replica),
    isUsed(replica) ? 1 : 0,
    freeShare(replica),
    -record.replicas.indexOf(replica),
  ];
  return [...replicas].sort((a, b) => {
    const [mine, theirs] = [rank(a), rank(b)];
    const at = mine.findIndex((value, i) => value !== theirs[i]);
    return at < 0 ? 0 : mine[at]! - theirs[at]!;
  });
}
