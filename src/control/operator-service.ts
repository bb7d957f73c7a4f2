// holdfast.v1.Operator: what people ask of the controller and order it to do.

import { invalid, isUuid, notFound, printable } from '../base/index.js';
import type { VolumeRecord } from '../meta/index.js';
import { type Handlers, type holdfast, holdfastServices, implement, type ServiceBinding } from '../rpc/index.js';
import type { Control } from './control.js';
import type { HealthEntry } from './health.js';
import { isDrained, type NodeView } from './nodes.js';
import type { RepairNote } from './repairs.js';

type OperatorControl = Pick<
  Control,
  'nodes' | 'volumes' | 'repairs' | 'health' | 'drains' | 'replacement' | 'lossAcceptance'
>;

const PAGE_VOLUMES = 200;

export function operatorService(control: OperatorControl): ServiceBinding {
  const handlers: Handlers<holdfast.OperatorDefinition, holdfast.OperatorHandlers> = {
    async ListNodes() {
      return { nodes: (await control.nodes.list()).map(nodeState) };
    },
    ListVolumeStates: (request) => listVolumes(control, request),
    Drain: (request) => drain(control, request),
    async ReplaceReplica(request) {
      if (request.by === '') throw invalid('it must be said who orders it');
      await control.replacement.order(request.volume_id, request.node_id, request.by);
      return {};
    },
    async ForgetNode(request) {
      if (request.by === '') throw invalid('it must be said who orders it');
      await control.drains.forget({ nodeId: request.node_id, pool: request.pool }, request.by);
      return {};
    },
    async AcceptLoss(request) {
      if (!isUuid(request.volume_id)) throw notFound(`volume ${printable(request.volume_id)} does not exist`);
      const loss = await control.lossAcceptance.accept({
        volumeId: request.volume_id,
        confirmed: request.confirmed,
        by: request.by,
        giveUpNodes: request.give_up_nodes,
      });
      return {
        given_up: [...loss.givenUp],
        survivors: [...loss.survivors],
        loss: loss.loss,
        done: loss.done,
        audit_key: loss.auditKey,
      };
    },
  };
  return implement(holdfastServices.operator(), handlers, {
    logFields: ['node_id', 'pool', 'by', 'undo', 'confirmed'],
    allow: {
      ListNodes: ['operator'],
      ListVolumeStates: ['operator'],
      Drain: ['operator'],
      ReplaceReplica: ['operator'],
      ForgetNode: ['operator'],
      AcceptLoss: ['operator'],
    },
  });
}

async function listVolumes(
  control: OperatorControl,
  request: holdfast.ListVolumeStatesRequest__Output,
): Promise<holdfast.ListVolumeStatesResponse> {
  const one = request.volume_id;
  const page =
    one === ''
      ? await control.volumes.listAll({ maxEntries: PAGE_VOLUMES, startingToken: request.starting_token })
      : { items: [await control.volumes.find(one)], nextToken: '' };
  const health = await control.health(page.items);
  return {
    volumes: page.items.map((record, i) => volumeState(record, health[i]!, control.repairs.noteOf(record.id))),
    next_token: page.nextToken,
  };
}

async function drain(
  control: OperatorControl,
  request: holdfast.DrainRequest__Output,
): Promise<holdfast.DrainResponse> {
  const place = { nodeId: request.node_id, pool: request.pool };
  if (request.dry_run && request.undo) throw invalid('an order is either taken back or only looked at');
  if (!request.dry_run && request.by === '') throw invalid('it must be said who orders it');
  if (request.undo) await control.drains.undo(place, request.by);
  else if (!request.dry_run) await control.drains.order(place, request.by);
  const { moves, ordered } = await control.drains.plan(place);
  return {
    moves: moves.map(({ volume, storedBytes, blocked, attached }) => ({
      volume_id: volume.id,
      name: volume.name,
      stored_bytes: storedBytes,
      blocked,
      attached,
    })),
    ordered,
  };
}

function nodeState(node: NodeView): holdfast.NodeState {
  return {
    node_id: node.id,
    silent_ms: Math.round(node.silentMs ?? 0),
    drained: isDrained(node, null),
    pools: node.pools.map((pool) => ({
      pool_id: pool.id,
      path: pool.path,
      capacity_bytes: pool.capacityBytes,
      free_bytes: pool.freeBytes,
      problem: pool.problem ?? '',
      drained: isDrained(node, pool.id),
    })),
  };
}

function volumeState(
  record: VolumeRecord,
  health: readonly HealthEntry[],
  note: RepairNote | undefined,
): holdfast.VolumeState {
  const conditions = health.map(({ status, reason, message }) => ({
    status: status as string,
    reason,
    message,
    behind_bytes: 0,
  }));
  if (note !== undefined && note.reason !== 'NoPlace')
    conditions.push({
      status: 'PROGRESSING',
      reason: note.reason,
      message: note.message,
      behind_bytes: note.behindBytes,
    });
  return {
    volume_id: record.id,
    name: record.name,
    state: record.state,
    size_bytes: record.sizeBytes,
    replicas_wanted: record.parameters.replicas,
    min_replicas: record.parameters.minReplicas,
    attached_node: record.publications[0]?.nodeId ?? '',
    replicas: record.replicas.map((replica) => ({
      replica_id: replica.id,
      node_id: replica.nodeId,
      pool_id: replica.poolId,
      state: replica.state,
      in_sync: record.inSync.includes(replica.id),
      message: replica.message ?? '',
    })),
    conditions,
  };
}
