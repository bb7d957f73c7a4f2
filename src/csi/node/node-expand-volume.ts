import { expandVolume } from '../../agent/index.js';
import { HoldfastError, invalid } from '../../base/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { knownVolumeId, requirePath, requireVolumeId } from './fields.js';

export async function nodeExpandVolume(
  context: NodeContext,
  request: csi.NodeExpandVolumeRequest__Output,
): Promise<csi.NodeExpandVolumeResponse> {
  requireVolumeId(request.volume_id);
  const path = requirePath(request.volume_path, 'volume_path');
  const requiredBytes = request.capacity_range?.required_bytes ?? 0;
  const limitBytes = request.capacity_range?.limit_bytes ?? 0;
  if (requiredBytes < 0 || limitBytes < 0) throw invalid('capacity_range must not be negative');
  if (limitBytes > 0 && requiredBytes > limitBytes) {
    throw new HoldfastError('OUT_OF_RANGE', `required_bytes ${requiredBytes} exceeds limit_bytes ${limitBytes}`);
  }
  const volumeId = knownVolumeId(request.volume_id);
  const order = { volumeId, path, stagingPath: request.staging_target_path, requiredBytes, limitBytes };
  const sizeBytes = await context.locks.run('NodeExpandVolume', `volume ${volumeId}`, () =>
    expandVolume(context.volumes, order),
  );
  return { capacity_bytes: sizeBytes };
}
