// From records to CSI messages.

import type { GroupView, HealthEntry, Segments, SnapshotEntry } from '../control/index.js';
import { NODE_LABEL } from '../control/index.js';
import type { VolumeRecord } from '../meta/index.js';
import type { csi } from '../rpc/index.js';

/** What publish and stage calls get back with each volume: what it was made with, never a secret. */
function volumeContext(record: VolumeRecord): Record<string, string> {
  const { fsType, mkfsOptions, mountOptions, encryption, keyProvider } = record.parameters;
  return {
    fsType,
    encryption,
    ...(encryption === 'none' ? {} : { keyProvider }),
    ...(mkfsOptions === '' ? {} : { mkfsOptions }),
    ...(mountOptions === '' ? {} : { mountOptions }),
  };
}

/**
 * Empty means every node, as any node's daemon can run an engine; naming them all would pin a volume to the nodes there were
 * on the day it was made. With dataLocality required only the nodes count that held a replica then.
 */
export function accessibleTopology(record: VolumeRecord): csi.Topology[] {
  if (record.parameters.dataLocality !== 'required') return [];
  const nodes = record.pinnedTo ?? record.replicas.map(({ nodeId }) => nodeId);
  return nodes.map((nodeId) => ({ segments: { [NODE_LABEL]: nodeId } }));
}

export function volumeMessage(record: VolumeRecord): csi.Volume {
  const { source } = record;
  const from =
    source?.kind === 'snapshot'
      ? { snapshot: { snapshot_id: source.id } }
      : source && { volume: { volume_id: source.id } };
  return {
    volume_id: record.id,
    capacity_bytes: record.sizeBytes,
    volume_context: volumeContext(record),
    ...(from === undefined ? {} : { content_source: from }),
    accessible_topology: accessibleTopology(record),
  };
}

export function publishedNodes(record: VolumeRecord): { published_node_ids: string[] } {
  return { published_node_ids: record.publications.map((publication) => publication.nodeId) };
}

export function timestamp(milliseconds: number): { seconds: number; nanos: number } {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: Math.round((milliseconds - seconds * 1000) * 1e6) };
}

/** `usableFrom`: the places a caller demanded, of which the snapshot then is usable; none = everywhere. */
export function snapshotMessage(snapshot: SnapshotEntry, usableFrom: readonly Segments[] = []): csi.Snapshot {
  return {
    snapshot_id: snapshot.id,
    source_volume_id: snapshot.volumeId,
    size_bytes: snapshot.sizeBytes,
    creation_time: timestamp(snapshot.createdMs),
    ready_to_use: snapshot.state === 'ready',
    group_snapshot_id: snapshot.groupId ?? '',
    accessible_topology: usableFrom.map((segments) => ({ segments })),
  };
}

export function groupMessage(view: GroupView): csi.VolumeGroupSnapshot {
  return {
    group_snapshot_id: view.group.id,
    snapshots: view.snapshots.map((snapshot) => snapshotMessage(snapshot)),
    creation_time: timestamp(view.group.createdMs),
    ready_to_use: view.group.state === 'ready' && view.snapshots.length === view.group.members.length,
  };
}

export function healthMessage(volumeId: string, entries: readonly HealthEntry[]): csi.VolumeHealth {
  return { volume_id: volumeId, health_statuses: entries.map((entry) => ({ ...entry })) };
}
