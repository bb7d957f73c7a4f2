import { HoldfastError, invalid } from '../../base/index.js';
import { type Control, parseClass } from '../../control/index.js';
import type { VolumeRecord } from '../../meta/index.js';
import type { csi } from '../../rpc/index.js';
import { useOf } from '../capabilities.js';
import { requiredId } from '../fields.js';

/** Why the volume does not serve the request, or undefined. */
function objection(request: csi.ValidateVolumeCapabilitiesRequest__Output, record: VolumeRecord): string | undefined {
  for (const capability of request.volume_capabilities) {
    const use = useOf(capability);
    if (typeof use === 'string') return use;
    if (use.accessType === 'mount' && record.formatted.state === 'raw') return 'the volume is in use as a block device';
    const have = record.formatted.state === 'formatted' ? record.formatted.fsType : undefined;
    if (use.fsType !== '' && have !== undefined && have !== use.fsType)
      return `the volume is formatted with ${have}, not ${use.fsType}`;
  }
  try {
    const asked = parseClass({
      parameters: request.parameters,
      mutableParameters: request.mutable_parameters,
      fsType: '',
    });
    for (const [field, value] of Object.entries(asked.explicit)) {
      const have = record.parameters[field as keyof typeof record.parameters];
      if (have !== value) return `the volume has ${field} ${have}, not ${value}`;
    }
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'INVALID_ARGUMENT') return error.message;
    throw error;
  }
  return undefined;
}

export async function validateVolumeCapabilities(
  control: Pick<Control, 'volumes'>,
  request: csi.ValidateVolumeCapabilitiesRequest__Output,
): Promise<csi.ValidateVolumeCapabilitiesResponse> {
  const volumeId = requiredId(request.volume_id, 'volume_id');
  if (request.volume_capabilities.length === 0) throw invalid('volume_capabilities is empty');
  const record = await control.volumes.get(volumeId);
  const message = objection(request, record);
  if (message !== undefined) return { message };
  const { volume_context, volume_capabilities, parameters, mutable_parameters } = request;
  return { confirmed: { volume_context, volume_capabilities, parameters, mutable_parameters } };
}
