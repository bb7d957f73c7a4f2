// From a granted reign to an engine that serves: opened in its worker, written into the record, exported. When a step fails,
// what was done before it is undone.

import { type Clock, HoldfastError, type Logger, messageOf, type NodeId, type VolumeId } from '../base/index.js';
import type { Reign } from '../format/index.js';
import type { VolumeRecord } from '../meta/index.js';
import { clearEngine, engineMembers, engineVolume, followOrder, noteEngine, type Purpose } from './reigns.js';
import type { VolumeRecords } from './volume-records.js';
import type { Addressed, OpenedEngine } from './worker-api.js';
import type { WorkerCalls } from './worker-calls.js';

export interface EngineStartParts {
  readonly nodeId: NodeId;
  readonly records: VolumeRecords;
  readonly workerFor: (volumeId: VolumeId) => WorkerCalls;
  readonly socketPathFor: (volumeId: VolumeId) => string;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface EngineStart {
  /** As the grant of the reign left it. */
  readonly record: VolumeRecord;
  readonly reign: Reign;
  readonly purpose: Purpose;
  readonly readOnly: boolean;
  readonly formerEngineGone: boolean;
  /** The caller wipes it. */
  readonly dataKey: Buffer | null;
}

/** An engine may replay its log, catch replicas up and wait a lease out. */
const openTimeoutMs = 180_000;
const exportTimeoutMs = 15_000;
const followTimeoutMs = 15_000;
export const closeTimeoutMs = 60_000;

/** Resolves to the volume's size in bytes. */
export async function startEngine(parts: EngineStartParts, start: EngineStart): Promise<number> {
  const { record, reign, purpose } = start;
  const { nodeId, records, clock, logger } = parts;
  const worker = parts.workerFor(record.id);
  const at: Addressed = { volumeId: record.id, epoch: reign.epoch };
  let noted = false;
  try {
    const { sizeBytes, opening } = await openInWorker(worker, start);
    const engine = { nodeId, maintenance: purpose === 'maintenance', openedMs: clock.wallMs() };
    const now = await records.update(record.id, (current) => noteEngine(current, reign, engine, opening));
    noted = true;
    await followChanges(parts, start, now);
    if (purpose === 'attached') {
      await worker.call('startExport', { ...at, socketPath: parts.socketPathFor(record.id) }, exportTimeoutMs);
    }
    return sizeBytes;
  } catch (error) {
    logger.warn({ volume: record.id, epoch: reign.epoch, purpose, error: messageOf(error) }, 'volume did not open');
    try {
      await worker.call('closeEngine', { ...at, flush: noted }, closeTimeoutMs);
      if (noted) await records.tryUpdate(record.id, (current) => clearEngine(current, reign));
    } catch (undo) {
      logger.warn({ volume: record.id, epoch: reign.epoch, error: messageOf(undo) }, 'a failed open left traces');
    }
    throw error;
  }
}

/** Replicas that came, were told to leave, or are counted otherwise while the engine opened: nobody else tells it. */
async function followChanges(
  parts: EngineStartParts,
  { record, reign }: EngineStart,
  now: VolumeRecord,
): Promise<void> {
  const order = followOrder(now);
  if (JSON.stringify(order) === JSON.stringify(followOrder(record))) return;
  const at: Addressed = { volumeId: record.id, epoch: reign.epoch };
  await parts.workerFor(record.id).call('follow', { ...order, ...at }, followTimeoutMs);
}

async function openInWorker(worker: WorkerCalls, start: EngineStart): Promise<OpenedEngine> {
  const { record, reign, readOnly, formerEngineGone } = start;
  // A buffer of its own: cloning a slice of a shared pool would copy the whole pool across.
  const dataKey = start.dataKey && Uint8Array.from(start.dataKey);
  const order = {
    volume: engineVolume(record),
    reign,
    members: engineMembers(record),
    setVersion: record.setVersion,
    dataKey,
    readOnly,
    formerEngineGone,
    flushedPoint: record.flushedPoint,
  };
  const opening = worker.call('openEngine', order, openTimeoutMs);
  dataKey?.fill(0);
  return opening.catch((error) => {
    throw openFailure(error);
  });
}

/**
 * Callers read NOT_FOUND as "no such volume" and FAILED_PRECONDITION/StaleReign as "not yours any more", and give up for good.
 * An engine says neither: what it misses or loses while it opens may be there at the next try.
 */
function openFailure(error: unknown): unknown {
  if (!(error instanceof HoldfastError)) return error;
  const stale = error.code === 'FAILED_PRECONDITION' && error.reason === 'StaleReign';
  if (error.code !== 'NOT_FOUND' && !stale) return error;
  return new HoldfastError(stale ? 'ABORTED' : 'UNAVAILABLE', error.message, { reason: error.reason, cause: error });
}
