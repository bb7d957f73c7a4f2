// holdfast.v1.Volume: checks what came in, hands it to Volumes, and says in the protocol's words what came out. Served twice,
// on TCP for the controller and on the node's unix socket for holders: keys are taken on the latter alone.

import {
  type GroupId,
  HoldfastError,
  type IncarnationId,
  invalid,
  parseUuid,
  precondition,
  printable,
  type ReplicaId,
  type SnapshotId,
  type VolumeId,
} from '../base/index.js';
import type { EngineReplicaState } from '../engine/index.js';
import { type Handlers, type holdfast, holdfastServices, implement, type ServiceBinding } from '../rpc/index.js';
import { qosLimits } from './reigns.js';
import type { OpenVolumeStatus, Volumes } from './volumes.js';

type VolumeHandlers = Handlers<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;

const orderTimeoutMs = 60_000;
const cloneTimeoutMs = 300_000;
const statusTimeoutMs = 10_000;
/** A hold stops the volume's clients: it is for a group freeze, which takes milliseconds. */
const holdMsMax = 60_000;
const changedResultsDefault = 1_024;
const changedResultsMax = 65_536;
const cloneTargetsMax = 16;
const volumeSizeMax = Number.MAX_SAFE_INTEGER;

export function volumeService(volumes: Volumes, options: { readonly acceptsKeys: boolean }): ServiceBinding {
  const handlers: VolumeHandlers = {
    Open: (request) => open(volumes, options.acceptsKeys, request),
    async Close(request) {
      await volumes.close(volumeOf(request), request.epoch);
      return {};
    },
    Freeze: (request) => freeze(volumes, request),
    async Hold(request) {
      const deadlineMs = request.deadline_ms;
      if (deadlineMs < 1 || deadlineMs > holdMsMax) throw invalid(`deadline_ms must be 1 to ${holdMsMax}`);
      const order = { token: tokenOf(request.hold_token), deadlineMs };
      await volumes.order(volumeOf(request), 'hold', order, { timeoutMs: orderTimeoutMs, keepOpenMs: deadlineMs });
      return {};
    },
    async Release(request) {
      const token = tokenOf(request.hold_token);
      const released = await ifOpen(() => volumes.orderIfOpen(volumeOf(request), 'release', { token }, orderTimeoutMs));
      return { held_until_now: released?.heldUntilNow ?? false };
    },
    Clone: (request) => clone(volumes, request),
    async Resize(request) {
      const sizeBytes = request.size_bytes;
      if (sizeBytes < 1 || sizeBytes > volumeSizeMax) throw invalid(`size_bytes ${sizeBytes} is no size`);
      const volumeId = volumeOf(request);
      const resized = await volumes.order(volumeId, 'resize', { sizeBytes }, { timeoutMs: orderTimeoutMs });
      volumes.noteSize(volumeId, resized.sizeBytes);
      return {};
    },
    async SetQos(request) {
      // A volume that is not open takes its limits from its record when it opens.
      const qos = qosOf(request.qos);
      await ifOpen(() => volumes.orderIfOpen(volumeOf(request), 'setQos', { qos }, orderTimeoutMs));
      return {};
    },
    async Members(request) {
      const volumeId = volumeOf(request);
      const wanted = !request.if_open || volumes.isOpen(volumeId);
      const replicas = wanted ? await volumes.followMembers(volumeId, orderTimeoutMs) : [];
      return { replicas: replicas.map(replicaState) };
    },
    async DeleteSnapshot(request) {
      const snapshotId = parseUuid<SnapshotId>(request.snapshot_id, 'snapshot id');
      await volumes.order(volumeOf(request), 'deleteSnapshot', { snapshotId }, { timeoutMs: orderTimeoutMs });
      return {};
    },
    Changed: (request) => changed(volumes, request),
    async Status(request) {
      const volumeId = request.volume_id === '' ? null : volumeOf(request);
      return { volumes: (await volumes.status(volumeId, statusTimeoutMs)).map(statusOf) };
    },
  };
  return implement(holdfastServices.volume(), handlers, {
    logFields: ['export', 'read_only', 'epoch'],
    allow: {
      Open: ['controller'],
      Close: ['controller'],
      Freeze: ['controller'],
      Hold: ['controller'],
      Release: ['controller'],
      Clone: ['controller'],
      Resize: ['controller'],
      SetQos: ['controller'],
      Members: ['controller'],
      DeleteSnapshot: ['controller'],
      Changed: ['controller'],
      Status: ['controller', 'operator'],
    },
  });
}

function volumeOf(request: { readonly volume_id: string }): VolumeId {
  return parseUuid<VolumeId>(request.volume_id, 'volume id');
}

function tokenOf(text: string): string {
  if (!/^[\x21-\x7e]{1,128}$/.test(text))
    throw invalid(`hold_token must be 1 to 128 printable characters: ${printable(text)}`);
  return text;
}

async function open(
  volumes: Volumes,
  acceptsKeys: boolean,
  request: holdfast.OpenRequest__Output,
): Promise<holdfast.OpenResponse> {
  const volumeId = volumeOf(request);
  if (request.wrapping_key.length > 0 && !acceptsKeys) {
    request.wrapping_key.fill(0);
    throw new HoldfastError('PERMISSION_DENIED', 'keys are taken on the unix socket of the storage daemon only');
  }
  try {
    const opened = request.export
      ? await volumes.openAttached(volumeId, request.wrapping_key, request.read_only)
      : await volumes.openForOrders(volumeId);
    return {
      socket_path: opened.socketPath,
      export_name: opened.exportName,
      size_bytes: opened.sizeBytes,
      epoch: opened.epoch,
    };
  } finally {
    request.wrapping_key.fill(0);
  }
}

async function freeze(volumes: Volumes, request: holdfast.FreezeRequest__Output): Promise<holdfast.FreezeResponse> {
  const volumeId = volumeOf(request);
  const order = {
    snapshotId: parseUuid<SnapshotId>(request.snapshot_id, 'snapshot id'),
    groupId: request.group_id === '' ? null : parseUuid<GroupId>(request.group_id, 'group id'),
    holdToken: request.hold_token === '' ? null : tokenOf(request.hold_token),
  };
  // Only the engine that holds can freeze under its hold: a new one would hold nothing.
  const frozen = order.holdToken
    ? await ifOpen(() => volumes.orderIfOpen(volumeId, 'freeze', order, orderTimeoutMs))
    : await volumes.order(volumeId, 'freeze', order, { timeoutMs: orderTimeoutMs });
  if (!frozen) throw precondition(`volume ${volumeId} no longer holds "${order.holdToken}": give the group up`);
  return { size_bytes: frozen.sizeBytes, wall_ms: frozen.wallMs, seq: frozen.seq };
}

async function clone(volumes: Volumes, request: holdfast.CloneRequest__Output): Promise<holdfast.CloneResponse> {
  if (request.targets.length < 1 || request.targets.length > cloneTargetsMax) {
    throw invalid(`a clone needs 1 to ${cloneTargetsMax} targets`);
  }
  const order = {
    snapshotId: parseUuid<SnapshotId>(request.snapshot_id, 'snapshot id'),
    newVolumeId: parseUuid<VolumeId>(request.new_volume_id, 'new volume id'),
    targets: request.targets.map((target) => ({
      sourceReplicaId: parseUuid<ReplicaId>(target.source_replica_id, 'source replica id'),
      member: {
        replicaId: parseUuid<ReplicaId>(target.replica_id, 'replica id'),
        incarnationId: parseUuid<IncarnationId>(target.incarnation_id, 'incarnation id'),
      },
    })),
    parameters: request.parameters,
  };
  await volumes.order(volumeOf(request), 'clone', order, { timeoutMs: cloneTimeoutMs });
  return {};
}

async function changed(volumes: Volumes, request: holdfast.ChangedRequest__Output): Promise<holdfast.ChangedResponse> {
  if (request.starting_offset < 0) throw invalid('starting_offset must not be negative');
  if (request.max_results < 0) throw invalid('max_results must not be negative');
  const order = {
    base: request.base_snapshot_id === '' ? null : parseUuid<SnapshotId>(request.base_snapshot_id, 'base snapshot id'),
    target: parseUuid<SnapshotId>(request.target_snapshot_id, 'target snapshot id'),
    startingOffset: request.starting_offset,
    maxResults: Math.min(request.max_results || changedResultsDefault, changedResultsMax),
  };
  const found = await volumes.order(volumeOf(request), 'changed', { order }, { timeoutMs: orderTimeoutMs });
  return {
    volume_size_bytes: found.volumeSizeBytes,
    extents: [...found.extents],
    next_offset: found.nextOffset ?? 0,
  };
}

/** An engine that ended on the way is the same as none. */
async function ifOpen<T>(work: () => Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'ABORTED' && error.reason === 'StaleReign') return undefined;
    throw error;
  }
}

function qosOf(qos: holdfast.Qos__Output | null) {
  for (const [name, value] of Object.entries(qos ?? {})) {
    if (typeof value === 'number' && value < 0) throw invalid(`${name} must not be negative`);
  }
  return qosLimits({
    maxReadIops: qos?.max_read_iops,
    maxWriteIops: qos?.max_write_iops,
    maxReadBps: qos?.max_read_bps,
    maxWriteBps: qos?.max_write_bps,
  });
}

function replicaState(replica: EngineReplicaState): holdfast.ReplicaState {
  return {
    replica_id: replica.replicaId,
    node_id: replica.nodeId,
    state: replica.state,
    message: replica.message,
    appended_through: replica.appendedThrough,
    behind_bytes: replica.behindBytes,
  };
}

function statusOf(open: OpenVolumeStatus): holdfast.VolumeStatus {
  const { engine } = open;
  const common = { volume_id: open.volumeId, epoch: open.epoch, exported: open.exported, socket_path: open.socketPath };
  if (!engine) return { ...common, state: 'opening', message: 'the engine is opening' };
  return {
    ...common,
    state: engine.state === 'closed' ? 'closing' : engine.state,
    message: engine.message,
    size_bytes: engine.sizeBytes,
    allocated_bytes: engine.allocatedBytes,
    stored_bytes: engine.storedBytes,
    replicas: engine.replicas.map(replicaState),
    snapshot_count: engine.snapshotCount,
    counters: {
      reads: engine.counters.reads,
      writes: engine.counters.writes,
      flushes: engine.counters.flushes,
      trims: engine.counters.trims,
      read_bytes: engine.counters.readBytes,
      write_bytes: engine.counters.writeBytes,
      stored_write_bytes: engine.counters.storedWriteBytes,
      read_repairs: engine.counters.readRepairs,
    },
  };
}
