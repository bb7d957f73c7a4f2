import { HoldfastError } from '../../base/index.js';
import { type Control, checkName, describeSegments, matches, type Segments } from '../../control/index.js';
import type { VolumeRecord } from '../../meta/index.js';
import type { csi } from '../../rpc/index.js';
import { noParameters, requiredId, topologyWish } from '../fields.js';
import { snapshotMessage } from '../messages.js';

/**
 * Where volumes made of the snapshot are reachable, within what was demanded. Empty means everywhere, as any node can run an
 * engine; of a volume with dataLocality required it is the demanded places that hold a replica. Throws RESOURCE_EXHAUSTED when a
 * demand leaves none.
 */
async function usableFrom(
  control: Pick<Control, 'nodes'>,
  volume: VolumeRecord,
  demanded: readonly Segments[],
): Promise<readonly Segments[]> {
  const nodes = await control.nodes.list();
  const local = volume.parameters.dataLocality === 'required';
  const near = nodes.filter((node) => !local || volume.replicas.some((replica) => replica.nodeId === node.id));
  const usable = demanded.filter((segments) => near.some((node) => matches(node, segments)));
  if (usable.length > 0) return local ? usable : [];
  const places = demanded.map(describeSegments).join(' or ');
  throw new HoldfastError('RESOURCE_EXHAUSTED', `a snapshot of volume ${volume.id} can't be used from ${places}`);
}

export async function createSnapshot(
  control: Pick<Control, 'snapshots' | 'volumes' | 'nodes'>,
  request: csi.CreateSnapshotRequest__Output,
): Promise<csi.CreateSnapshotResponse> {
  const name = checkName(request.name, 'snapshot name');
  const sourceId = requiredId(request.source_volume_id, 'source_volume_id');
  noParameters(request.parameters, 'snapshot classes');
  const { requisite, preferred } = topologyWish(request.accessibility_requirements);
  const demanded = requisite.length > 0 ? requisite : preferred;
  const places = demanded.length === 0 ? [] : await usableFrom(control, await control.volumes.get(sourceId), demanded);
  return { snapshot: snapshotMessage(await control.snapshots.create(name, sourceId), places) };
}
