// The volume records of the metadata store as the agent uses them: read, and change by a step that is repeated on conflict.

import { type Clock, notFound, type VolumeId } from '../base/index.js';
import { keyOf, type MetadataStore, update, type VolumeRecord } from '../meta/index.js';

export interface VolumeRecords {
  get(volumeId: VolumeId): Promise<VolumeRecord | undefined>;
  /**
   * Replaces the record by what `step` makes of it; `step` runs again when someone else wrote meanwhile, and what it throws
   * passes through. Undefined means no change. Resolves to the record as it stands then. NOT_FOUND when there is none.
   */
  update(volumeId: VolumeId, step: (record: VolumeRecord) => VolumeRecord | undefined): Promise<VolumeRecord>;
  /** The same, but fine when there is no record. */
  tryUpdate(volumeId: VolumeId, step: (record: VolumeRecord) => VolumeRecord | undefined): Promise<void>;
}

export function volumeRecords(store: MetadataStore, clock: Clock): VolumeRecords {
  const change = (volumeId: VolumeId, step: (record: VolumeRecord) => VolumeRecord | undefined) =>
    update<VolumeRecord>(
      store,
      keyOf.volume(volumeId),
      (record) => (record === undefined ? 'unchanged' : (step(record) ?? 'unchanged')),
      { clock },
    );
  return {
    get: async (volumeId) => (await store.get<VolumeRecord>(keyOf.volume(volumeId)))?.value,
    async update(volumeId, step) {
      const { value } = await change(volumeId, step);
      if (!value) throw notFound(`there is no volume ${volumeId}`);
      return value;
    },
    async tryUpdate(volumeId, step) {
      await change(volumeId, step);
    },
  };
}
