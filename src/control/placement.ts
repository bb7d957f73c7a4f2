// Where the replicas of a volume go: a pure function of what the nodes say. Never two in one failure domain. Space is thin:
// a pool may be promised `overcommit` times its size, but a pool whose free space is down to the reserve takes nothing new.

import { formatBytes, HoldfastError, type NodeId, type PoolId } from '../base/index.js';
import type { PoolRecord } from '../meta/index.js';
import { POOL_RESERVE } from './limits.js';
import { describeSegments, type Located, labelOf, matches, type Segments, type TopologyWish } from './topology.js';

export interface PlacementPool extends PoolRecord {
  /** Sum of the sizes of the volumes with a replica here. */
  readonly promisedBytes: number;
}

export interface PlacementNode extends Located {
  readonly tags: readonly string[];
  readonly pools: readonly PlacementPool[];
  /** Milliseconds since its last sign of life when that is too long ago. */
  readonly silentMs?: number;
  /** Nothing is known of it yet but what was written down before the controller started. */
  readonly unheard?: true;
  /** Set by the caller for a node that can't take this volume: why. */
  readonly unfit?: string;
}

export interface PlacementRules {
  readonly replicas: number;
  /** 'node' or a label key. */
  readonly failureDomain: string;
  readonly dataLocality: 'disabled' | 'preferred' | 'required';
  readonly nodeSelector: readonly string[];
  readonly diskSelector: readonly string[];
  readonly wish: TopologyWish;
  readonly overcommit: number;
}

export interface Place {
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
}

interface Candidate extends Place {
  readonly domain: string;
  readonly roomBytes: number;
  /** Smaller is nearer to where the caller wants it. */
  readonly rank: number;
}

const exhausted = (message: string) => new HoldfastError('RESOURCE_EXHAUSTED', message, { reason: 'NoSpace' });

/** Bytes of new volumes the pool may still be promised; 0 when it is full. */
export function roomOf(pool: PlacementPool, overcommit: number): number {
  if (pool.problem !== undefined && pool.problem !== '') return 0;
  if (pool.freeBytes <= pool.capacityBytes * POOL_RESERVE) return 0;
  return Math.max(0, Math.floor(pool.capacityBytes * overcommit) - pool.promisedBytes);
}

function missing(wanted: readonly string[], have: readonly string[]): string | undefined {
  return wanted.find((tag) => !have.includes(tag));
}

/** Pools of a node that the rules allow, or the sentence why there is none. */
function allowedPools(node: PlacementNode, rules: PlacementRules): readonly PlacementPool[] | string {
  if (node.unfit !== undefined) return node.unfit;
  if (node.silentMs !== undefined) return `no sign of life for ${Math.round(node.silentMs / 1000)} s`;
  const tag = missing(rules.nodeSelector, node.tags);
  if (tag !== undefined) return `does not carry the tag ${tag} of nodeSelector`;
  if (rules.failureDomain !== 'node' && labelOf(node, rules.failureDomain) === undefined) {
    return `does not carry the label ${rules.failureDomain}`;
  }
  if (node.pools.length === 0) return 'has no pool';
  const tagged = node.pools.filter((pool) => missing(rules.diskSelector, pool.tags) === undefined);
  if (tagged.length === 0) return `has no pool with the tags ${rules.diskSelector.join(', ')} of diskSelector`;
  const healthy = tagged.filter((pool) => pool.problem === undefined || pool.problem === '');
  return healthy.length > 0 ? healthy : `its pool has a problem: ${tagged[0]!.problem}`;
}

function rankOf(node: PlacementNode, rules: PlacementRules): number {
  const { requisite, preferred } = rules.wish;
  if (rules.dataLocality === 'disabled') return 0;
  const index = preferred.findIndex((segments) => matches(node, segments));
  if (index >= 0) return index;
  return requisite.some((segments) => matches(node, segments)) ? preferred.length : preferred.length + 1;
}

function better(a: Candidate, b: Candidate): number {
  return a.rank - b.rank || b.roomBytes - a.roomBytes || (a.nodeId < b.nodeId ? -1 : 1);
}

interface Survey {
  /** The best candidate of each failure domain, best first. */
  readonly candidates: readonly Candidate[];
  readonly excluded: readonly string[];
}

function survey(nodes: readonly PlacementNode[], rules: PlacementRules, sizeBytes: number): Survey {
  const best = new Map<string, Candidate>();
  const excluded: string[] = [];
  for (const node of nodes) {
    const pools = allowedPools(node, rules);
    if (typeof pools === 'string') {
      excluded.push(`${node.id}: ${pools}`);
      continue;
    }
    const rooms = pools.map((pool) => ({ pool, room: roomOf(pool, rules.overcommit) }));
    const top = rooms.reduce((a, b) => (b.room > a.room ? b : a));
    if (top.room < sizeBytes) {
      const free = `${formatBytes(top.pool.freeBytes)} of ${formatBytes(top.pool.capacityBytes)} free`;
      excluded.push(`${node.id}: room for ${formatBytes(top.room)} (${free}), ${formatBytes(sizeBytes)} needed`);
      continue;
    }
    const domain = domainOf(node, rules)!;
    const candidate: Candidate = {
      nodeId: node.id,
      poolId: top.pool.id,
      domain,
      roomBytes: top.room,
      rank: rankOf(node, rules),
    };
    const known = best.get(domain);
    if (known === undefined || better(candidate, known) < 0) best.set(domain, candidate);
  }
  return { candidates: [...best.values()].sort(better), excluded };
}

function reachable(nodes: readonly Located[], requisite: readonly Segments[]): boolean {
  return requisite.length === 0 || nodes.some((node) => requisite.some((segments) => matches(node, segments)));
}

const wanted = (requisite: readonly Segments[]) => requisite.map(describeSegments).join(' or ');

/**
 * Chooses a place for each replica, the one nearest to the caller's wish first. Throws RESOURCE_EXHAUSTED that says how many
 * failure domains are needed and usable and what excluded each node.
 */
export function place(nodes: readonly PlacementNode[], rules: PlacementRules, sizeBytes: number): Place[] {
  return choose(
    nodes,
    rules,
    sizeBytes,
    (domains) => `${rules.replicas} replicas need ${rules.replicas} different ${domains}`,
  );
}

/**
 * Chooses places for `rules.replicas` more replicas of a volume that has some: `beside` those that stay, on no node of `closed`, which
 * hold others of its replicas, for the reasons given there. Throws as place() does.
 */
export function placeMore(
  nodes: readonly PlacementNode[],
  rules: PlacementRules,
  sizeBytes: number,
  held: { readonly beside: readonly NodeId[]; readonly closed: ReadonlyMap<NodeId, string> },
): Place[] {
  const staying = nodes.filter((node) => held.beside.includes(node.id));
  const taken = new Set(staying.map((node) => domainOf(node, rules)));
  const fit = (node: PlacementNode): PlacementNode => {
    if (held.beside.includes(node.id)) return { ...node, unfit: 'holds a replica of the volume already' };
    const closed = held.closed.get(node.id);
    if (closed !== undefined) return { ...node, unfit: closed };
    const domain = domainOf(node, rules);
    if (domain === undefined || !taken.has(domain)) return node;
    return { ...node, unfit: `${rules.failureDomain} ${domain} holds a replica of the volume already` };
  };
  const near = reachable(staying, rules.wish.requisite);
  const dataLocality = rules.dataLocality === 'required' && near ? 'preferred' : rules.dataLocality;
  const wanted =
    rules.replicas === 1
      ? 'another replica needs one of the other'
      : `${rules.replicas} more replicas need as many of the other`;
  return choose(nodes.map(fit), { ...rules, dataLocality }, sizeBytes, (domains) => `${wanted} ${domains}`);
}

/** The value of the failure domain's label at a node, or undefined. */
function domainOf(node: Located, rules: Pick<PlacementRules, 'failureDomain'>): string | undefined {
  return rules.failureDomain === 'node' ? node.id : labelOf(node, rules.failureDomain);
}

function choose(
  nodes: readonly PlacementNode[],
  rules: PlacementRules,
  sizeBytes: number,
  need: (domains: string) => string,
): Place[] {
  const { requisite } = rules.wish;
  if (!reachable(nodes, requisite)) throw exhausted(`no node lies in the required topology (${wanted(requisite)})`);
  const { candidates, excluded } = survey(nodes, rules, sizeBytes);
  if (candidates.length < rules.replicas) {
    const domains = rules.failureDomain === 'node' ? 'nodes' : `values of ${rules.failureDomain}`;
    const why = excluded.length > 0 ? ` (${excluded.join('; ')})` : '';
    throw exhausted(`${need(domains)}, there are ${candidates.length} that can take one${why}`);
  }
  const chosen = candidates.slice(0, rules.replicas);
  if (rules.dataLocality === 'required') {
    const near = nodes.filter((node) => chosen.some((candidate) => candidate.nodeId === node.id));
    if (!reachable(near, requisite)) {
      throw exhausted(
        `dataLocality is required, but no replica can lie in ${wanted(requisite)}${excluded.length > 0 ? ` (${excluded.join('; ')})` : ''}`,
      );
    }
  }
  return chosen.map(({ nodeId, poolId }) => ({ nodeId, poolId }));
}

export interface Capacity {
  /** Bytes of volumes that could still be made, all replicas and rules considered. */
  readonly availableBytes: number;
  /** The largest single one. */
  readonly maximumBytes: number;
}

/**
 * What `rules` leave for new volumes. With `n` replicas over failure domains with room c1, c2, ... a total T fits when the sum
 * of min(ci, T) is at least n times T: no domain holds two replicas of one volume.
 */
export function capacityFor(nodes: readonly PlacementNode[], rules: PlacementRules): Capacity {
  if (!reachable(nodes, rules.wish.requisite)) return { availableBytes: 0, maximumBytes: 0 };
  const total = new Map<string, number>();
  const largest = new Map<string, number>();
  let nearTotal = 0;
  let nearLargest = 0;
  for (const node of nodes) {
    const pools = allowedPools(node, rules);
    if (typeof pools === 'string') continue;
    const domain = domainOf(node, rules)!;
    const near = rules.dataLocality !== 'required' || reachable([node], rules.wish.requisite);
    for (const pool of pools) {
      const room = roomOf(pool, rules.overcommit);
      total.set(domain, (total.get(domain) ?? 0) + room);
      largest.set(domain, Math.max(largest.get(domain) ?? 0, room));
      if (near) [nearTotal, nearLargest] = [nearTotal + room, Math.max(nearLargest, room)];
    }
  }
  if (total.size < rules.replicas) return { availableBytes: 0, maximumBytes: 0 };
  const ordered = [...largest.values()].sort((a, b) => b - a);
  // One replica must lie near the caller when data locality is required; nearTotal is everything otherwise.
  const availableBytes = Math.min(nearTotal, greatestTotal([...total.values()], rules.replicas));
  return { availableBytes, maximumBytes: Math.min(availableBytes, nearLargest, ordered[rules.replicas - 1]!) };
}

/** The greatest T with the sum of min(room, T) at least `replicas` times T. */
function greatestTotal(rooms: readonly number[], replicas: number): number {
  let low = 0;
  let high = Math.floor(rooms.reduce((sum, room) => sum + room, 0) / replicas);
  while (low < high) {
    const middle = low + Math.ceil((high - low) / 2);
    const held = rooms.reduce((sum, room) => sum + Math.min(room, middle), 0);
    if (held >= replicas * middle) low = middle;
    else high = middle - 1;
  }
  return low;
}
