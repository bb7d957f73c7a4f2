import type { ChangedPart } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';

/** Extents are as long as they are: one of a gigabyte is one tuple. */
export function blockMetadata(part: ChangedPart): csi.GetMetadataAllocatedResponse & csi.GetMetadataDeltaResponse {
  return {
    block_metadata_type: 'VARIABLE_LENGTH',
    volume_capacity_bytes: part.volumeSizeBytes,
    block_metadata: part.extents.map(({ offset, length }) => ({ byte_offset: offset, size_bytes: length })),
  };
}
