import { invalid, type Logger } from '../../base/index.js';
import { type Control, checkName, checkRange, parseClass, type SourceRef } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { commonFsType, servedUses } from '../capabilities.js';
import { requiredId, sizeRange, topologyWish } from '../fields.js';
import { volumeMessage } from '../messages.js';

function sourceOf(source: csi.VolumeContentSource__Output | null): SourceRef | null {
  if (source === null) return null;
  if (source.snapshot) return { kind: 'snapshot', id: requiredId(source.snapshot.snapshot_id, 'snapshot_id') };
  if (source.volume) return { kind: 'volume', id: requiredId(source.volume.volume_id, 'volume_id') };
  throw invalid('volume_content_source names neither a snapshot nor a volume');
}

export async function createVolume(
  control: Pick<Control, 'creation'>,
  request: csi.CreateVolumeRequest__Output,
  logger: Logger,
): Promise<csi.CreateVolumeResponse> {
  const name = checkName(request.name, 'volume name');
  const uses = servedUses(request.volume_capabilities);
  const range = sizeRange(request.capacity_range);
  if (range !== null) checkRange(range);
  const volumeClass = parseClass({
    parameters: request.parameters,
    mutableParameters: request.mutable_parameters,
    fsType: commonFsType(uses),
  });
  for (const notice of volumeClass.notices) logger.info({}, notice);
  const record = await control.creation.create({
    name,
    range,
    volumeClass,
    secrets: request.secrets,
    wish: topologyWish(request.accessibility_requirements),
    source: sourceOf(request.volume_content_source),
  });
  return { volume: volumeMessage(record) };
}
