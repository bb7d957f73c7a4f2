import { type Control, parseClass, VOLUME_BYTES_MIN } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { commonFsType, useOf } from '../capabilities.js';
import { topologyWish } from '../fields.js';

const nothing: csi.GetCapacityResponse = { available_capacity: 0 };

/** Net of replication and rules: what CreateVolume with the same parameters would accept. */
export async function getCapacity(
  control: Pick<Control, 'capacity'>,
  request: csi.GetCapacityRequest__Output,
): Promise<csi.GetCapacityResponse> {
  const uses = request.volume_capabilities.map(useOf);
  const served = uses.filter((use) => typeof use !== 'string');
  if (served.length < uses.length) return nothing;
  const fsType = commonFsType(served);
  const volumeClass = parseClass({ parameters: request.parameters, mutableParameters: {}, fsType });
  const topology = request.accessible_topology;
  const wish = topologyWish(topology === null ? null : { requisite: [topology], preferred: [] });
  const { availableBytes, maximumBytes } = await control.capacity(volumeClass, wish);
  return {
    available_capacity: availableBytes,
    maximum_volume_size: { value: maximumBytes },
    minimum_volume_size: { value: VOLUME_BYTES_MIN },
  };
}
