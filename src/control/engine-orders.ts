// Brings an order to a volume's engine. Attached: to the daemon where it runs, and nowhere else. Not attached: to the daemon where
// it is published, else to one with an in-sync replica, which opens a maintenance engine for it. Engines move; so the record is read again and the order
// given again, a bounded number of times. All orders may be repeated.

import {
  HoldfastError,
  messageOf,
  type NodeId,
  notFound,
  precondition,
  unavailable,
  type VolumeId,
} from '../base/index.js';
import type { VolumeRecord } from '../meta/index.js';
import type { Daemons, VolumeCalls } from './daemons.js';
import { ORDER_ATTEMPTS_MAX } from './limits.js';
import type { Nodes, NodeView } from './nodes.js';
import type { Records } from './records.js';

export type Order<T> = (engine: VolumeCalls) => Promise<T>;

/** The daemon was not reached, or its answer was lost. */
export function isUnreachable(error: unknown): boolean {
  return error instanceof HoldfastError && (error.code === 'UNAVAILABLE' || error.code === 'DEADLINE_EXCEEDED');
}

/** The engine went elsewhere while the order was on its way. */
function hasMoved(error: unknown): boolean {
  if (!(error instanceof HoldfastError)) return false;
  if (error.code === 'ABORTED') return true;
  return error.reason === 'StaleReign' || error.reason === 'Closed' || error.reason === 'Busy';
}

/**
 * Where the engine is attached by its record, or null: closed, a maintenance engine, or left behind by a node from which the volume was
 * detached by force; that one is fenced by whoever opens next.
 */
export function attachedAt(record: VolumeRecord): NodeId | null {
  const { engine, publications } = record;
  if (engine === null || engine.maintenance) return null;
  return publications.some((one) => one.nodeId === engine.nodeId) ? engine.nodeId : null;
}

export class EngineOrders {
  readonly #records: Records;
  readonly #daemons: Daemons;
  readonly #nodes: Nodes;

  constructor(records: Records, daemons: Daemons, nodes: Nodes) {
    this.#records = records;
    this.#daemons = daemons;
    this.#nodes = nodes;
  }

  /**
   * Runs `order` at the volume's engine. `what` begins error messages ("snapshot s1"). Throws NOT_FOUND when the volume is gone or
   * going, UNAVAILABLE when no daemon that may run its engine can be reached, and whatever the engine answers.
   */
  async give<T>(volumeId: VolumeId, what: string, order: Order<T>): Promise<T> {
    let last: unknown;
    for (let attempt = 0; attempt < ORDER_ATTEMPTS_MAX; attempt++) {
      const record = await this.#records.volume(volumeId);
      if (record === undefined || (record.state !== 'ready' && record.state !== 'snapshots-only')) {
        throw notFound(`${what}: volume ${volumeId} does not exist`);
      }
      // Most likely it is just being attached: another maintenance engine would only be in the way.
      if (last !== undefined && record.publications.length > 0 && attachedAt(record) === null) break;
      const tried: string[] = [];
      let moved = false;
      for (const node of await this.#candidates(record, what)) {
        try {
          return await order(this.#daemons.volume(node));
        } catch (error) {
          last = error;
          moved = hasMoved(error);
          if (moved) break;
          if (!isUnreachable(error)) throw error;
          tried.push(`${node.id}: ${messageOf(error)}`);
        }
      }
      if (!moved)
        throw unavailable(`${what}: no daemon with volume ${volumeId} can be reached (${tried.join('; ')})`, last);
    }
    throw new HoldfastError(
      'ABORTED',
      `${what}: the engine of volume ${volumeId} kept moving; retry (${messageOf(last)})`,
      {
        reason: 'Busy',
        cause: last,
      },
    );
  }

  /** Runs `order` at the engine if the volume is open somewhere; a closed volume takes what is in its record at the next open. */
  async giveIfOpen(record: VolumeRecord, what: string, order: Order<unknown>): Promise<void> {
    if (record.engine === null) return;
    const node = await this.#nodes.get(record.engine.nodeId);
    const published = record.publications.some((publication) => publication.nodeId === record.engine?.nodeId);
    try {
      if (node === undefined) throw unavailable(`node ${record.engine.nodeId} is not registered`);
      await order(this.#daemons.volume(node));
    } catch (error) {
      // An engine that nobody uses any more, or that moves just now, reads the record when it opens again.
      if (hasMoved(error) || (isUnreachable(error) && !published)) return;
      if (!isUnreachable(error)) throw error;
      throw unavailable(
        `${what} is recorded, but the engine on node ${record.engine.nodeId} was not reached: ${messageOf(error)}`,
        error,
      );
    }
  }

  /** Daemons to try, best first. Silent ones last: they may be back before anybody noticed. */
  async #candidates(record: VolumeRecord, what: string): Promise<NodeView[]> {
    const attached = attachedAt(record);
    if (attached !== null) {
      const node = await this.#nodes.get(attached);
      if (node === undefined)
        throw unavailable(`${what}: node ${attached}, where volume ${record.id} is attached, is not registered`);
      return [node];
    }
    const holders = record.replicas.filter((replica) => record.inSync.includes(replica.id) && replica.state !== 'lost');
    // Where it is to be used an order waits for an attach that is under way; elsewhere it would cost that its reign.
    const wanted = new Set([...holders, ...record.publications].map(({ nodeId }) => nodeId));
    const nodes = (await this.#nodes.list()).filter((node) => wanted.has(node.id));
    if (nodes.length === 0) {
      throw precondition(`${what}: volume ${record.id} has no in-sync replica on a registered node`, 'TooFewReplicas');
    }
    const preferred = record.publications[0]?.nodeId ?? record.engine?.nodeId;
    const rank = (node: NodeView) => (node.silentMs === undefined ? 0 : 2) + (node.id === preferred ? 0 : 1);
    return nodes.sort((a, b) => rank(a) - rank(b));
  }
}
