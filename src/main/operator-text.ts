// The operator's commands as people read them.

import { formatBytes } from '../base/index.js';
import type { holdfast } from '../rpc/index.js';

export function nodesText(nodes: readonly holdfast.NodeState__Output[]): string {
  const lines = nodes.flatMap((node) => {
    const state = node.silent_ms > 0 ? `no sign of life for ${Math.round(node.silent_ms / 1000)} s` : 'alive';
    const drained = node.drained ? ', being drained' : '';
    return [`node ${node.node_id}: ${state}${drained}`, ...node.pools.map(poolText)];
  });
  return lines.length === 0 ? 'no node has registered' : lines.join('\n');
}

function poolText(pool: holdfast.PoolState__Output): string {
  const space = `${formatBytes(pool.free_bytes)} of ${formatBytes(pool.capacity_bytes)} free`;
  const more = [pool.drained ? 'being drained' : '', pool.problem].filter((text) => text !== '');
  return `  pool ${pool.pool_id} ${pool.path}: ${[space, ...more].join(', ')}`;
}

export function volumeText(volume: holdfast.VolumeState__Output): string {
  const inSync = volume.replicas.filter((replica) => replica.in_sync).length;
  const attached = volume.attached_node === '' ? 'not attached' : `attached to ${volume.attached_node}`;
  const head = `volume ${volume.volume_id} ${volume.name}: ${volume.state}, ${formatBytes(volume.size_bytes)}, ${inSync} of ${volume.replicas_wanted} replicas in sync, ${attached}`;
  const replicas = volume.replicas.map((replica) => {
    const state = replica.state === 'ok' ? (replica.in_sync ? 'in sync' : 'behind') : replica.state;
    return `  ${replica.node_id}: ${state}${replica.message === '' ? '' : `, ${replica.message}`}`;
  });
  const conditions = volume.conditions.map((condition) => {
    const behind = condition.behind_bytes > 0 ? `, ${formatBytes(condition.behind_bytes)} to go` : '';
    return `  ${condition.status} ${condition.reason}: ${condition.message}${behind}`;
  });
  return [head, ...replicas, ...conditions].join('\n');
}

/** What a drain would do, before it is ordered. */
export function drainText(where: string, plan: holdfast.DrainResponse__Output, bytesPerSecond: number): string {
  if (plan.moves.length === 0) return `${where} holds no replica`;
  const bytes = plan.moves.reduce((sum, move) => sum + move.stored_bytes, 0);
  const seconds = Math.ceil(bytes / bytesPerSecond);
  const lines = plan.moves.map((move) => {
    const notes = [
      move.attached ? 'attached there: its I/O goes on over the network' : '',
      move.blocked === '' ? '' : `CAN'T BE MOVED: ${move.blocked}`,
    ].filter((text) => text !== '');
    return `  ${move.volume_id} ${move.name}: ${[formatBytes(move.stored_bytes), ...notes].join('; ')}`;
  });
  const rate = `${formatBytes(bytesPerSecond)}/s`;
  return [
    `${plan.moves.length} volumes with ${formatBytes(bytes)} lie on ${where}; at ${rate} that takes about ${seconds} s`,
    ...lines,
  ].join('\n');
}
