// A volume's record in the metadata store, as control makes it once the replicas are there.

import type { LineageId, VolumeId } from '../../src/base/index.js';
import type { VolumeRecord } from '../../src/meta/index.js';
import type { Settings } from './settings.js';

export function newRecord(
  settings: Settings,
  id: VolumeId,
  lineageId: LineageId,
  replicas: VolumeRecord['replicas'],
): VolumeRecord {
  return {
    id,
    name: id,
    state: 'ready',
    createdMs: 0,
    sizeBytes: settings.sizeBytes,
    lineageId,
    parameters: {
      replicas: replicas.length,
      minReplicas: settings.minReplicas,
      failureDomain: 'node',
      dataLocality: 'disabled',
      compression: settings.compression,
      encryption: settings.cipher,
      keyProvider: '',
      fsType: '',
      mkfsOptions: '',
      mountOptions: '',
    },
    qos: {},
    replicas,
    inSync: replicas.map((replica) => replica.id),
    setVersion: 1,
    epoch: 0,
    reignId: null,
    engine: null,
    publications: [],
    wrappedKey: null,
    formatted: { state: 'raw' },
    flushedPoint: null,
  };
}
