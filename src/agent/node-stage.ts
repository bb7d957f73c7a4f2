// Stage: attach the volume, make its filesystem if it never had one, mount it at the staging path. Unstage: the reverse.
// Every step looks first and does what is missing, so a call cut short anywhere is finished by its repeat.

import { HoldfastError, invalid, precondition, type VolumeId } from '../base/index.js';
import type { VolumeRecord } from '../meta/index.js';
import type { AttachedDevice } from '../platform/attach/index.js';
import { type FsType, parseFsType } from '../platform/mount/index.js';
import { removeReadOnlyStep } from './node-publish.js';
import { type AccessType, checkOurs, mountAt, type NodeVolumesPorts, volumeRecord } from './node-volumes.js';
import { checkAttachable } from './reigns.js';

export interface StageOrder {
  readonly volumeId: VolumeId;
  readonly stagingPath: string;
  readonly access: AccessType;
  readonly readOnly: boolean;
  /** The key out of the caller's secret, asked for only when the volume is encrypted. The callee wipes it. */
  readonly wrappingKey: () => Buffer;
}

const defaultFsType: FsType = 'ext4';

/**
 * Errors: NOT_FOUND; FAILED_PRECONDITION not published to this node, wrong key, contents that contradict the record;
 * ALREADY_EXISTS staged in another way; INVALID_ARGUMENT unknown filesystem, missing key; DATA_LOSS damaged filesystem.
 */
export async function stageVolume(ports: NodeVolumesPorts, order: StageOrder): Promise<void> {
  const record = await volumeRecord(ports, order.volumeId);
  const publication = checkAttachable(record, ports.nodeId);
  const readOnly = order.readOnly || publication.readOnly;
  const fsType = order.access.kind === 'mount' ? fsTypeOf(record, order.access.fsType) : null;
  await checkStaging(ports, order, fsType, readOnly);
  const device = await attachVolume(ports, record, order, readOnly);
  if (fsType === null) {
    await noteRaw(ports, record);
    return;
  }
  if (await mountAt(ports, order.stagingPath)) return;
  await prepareFilesystem(ports, record.id, device, fsType);
  await mountStaged(ports, record, order, device, fsType);
}

/** What was asked for now, else the class's, else what it was formatted with. */
function fsTypeOf(record: VolumeRecord, asked: string): FsType {
  const formatted = record.formatted.state === 'formatted' || record.formatted.state === 'formatting';
  const present = formatted ? record.formatted.fsType : undefined;
  const wanted = parseFsType(asked || present || record.parameters.fsType || defaultFsType);
  if (present !== undefined && wanted !== present) {
    throw precondition(`volume ${record.id} holds ${present}, it can't be mounted as ${wanted}`);
  }
  return wanted;
}

/** Refuses before anything is attached when the staging path shows that the volume is staged in another way. */
async function checkStaging(
  ports: NodeVolumesPorts,
  order: StageOrder,
  fsType: FsType | null,
  readOnly: boolean,
): Promise<void> {
  const present = await mountAt(ports, order.stagingPath);
  if (!present) return;
  const status = await ports.attach.status(order.volumeId);
  const same =
    status !== undefined &&
    status.state !== 'dead' &&
    present.source === status.devicePath &&
    present.fsType === fsType &&
    present.readOnly === readOnly;
  if (same) return;
  throw new HoldfastError(
    'ALREADY_EXISTS',
    `${order.stagingPath} already has ${present.source} (${present.fsType}, ${present.readOnly ? 'read-only' : 'writable'}) ` +
      `mounted, which is not what volume ${order.volumeId} is to be staged as: unstage it first`,
    { reason: 'Conflict' },
  );
}

async function attachVolume(
  ports: NodeVolumesPorts,
  record: VolumeRecord,
  order: StageOrder,
  readOnly: boolean,
): Promise<AttachedDevice> {
  const key = record.parameters.encryption === 'none' ? null : order.wrappingKey();
  try {
    const device = await ports.attach.attach({ volumeId: record.id, key, readOnly });
    if (device.readOnly !== readOnly) {
      const mode = device.readOnly ? 'read-only' : 'writable';
      throw new HoldfastError('ALREADY_EXISTS', `volume ${record.id} is staged ${mode} here: unstage it first`, {
        reason: 'Conflict',
      });
    }
    return device.sizeBytes < record.sizeBytes ? await growDevice(ports, record) : device;
  } finally {
    key?.fill(0);
  }
}

/** The record has grown since the engine opened: engine first, then its device. */
export async function growDevice(ports: NodeVolumesPorts, record: VolumeRecord): Promise<AttachedDevice> {
  await ports.daemon.resize(record.id, record.sizeBytes);
  return ports.attach.grow(record.id, record.sizeBytes);
}

/** A volume that was handed out as a block device holds whatever its user wrote: it is never formatted any more. */
async function noteRaw(ports: NodeVolumesPorts, record: VolumeRecord): Promise<void> {
  if (record.formatted.state !== 'never') return;
  await ports.records.update(record.id, (current) =>
    current.formatted.state === 'never' ? { ...current, formatted: { state: 'raw' } } : undefined,
  );
}

/** Leaves the device with a filesystem of the wanted type that is fit to be mounted, or throws. */
async function prepareFilesystem(
  ports: NodeVolumesPorts,
  volumeId: VolumeId,
  device: AttachedDevice,
  fsType: FsType,
): Promise<void> {
  const record = await volumeRecord(ports, volumeId);
  if (record.formatted.state === 'never' || record.formatted.state === 'formatting') {
    await format(ports, record, device, fsType);
    return;
  }
  await checkContents(ports, record, device, fsType);
  if (device.readOnly) return;
  await ports.filesystems.check(device.devicePath, fsType);
  const size = await ports.filesystemSize(device.devicePath, fsType);
  // A filesystem ends at a whole block (or group) of its own; only a real difference is worth the check before a resize.
  if (fsType === 'ext4' && size !== undefined && device.sizeBytes - size >= 1024 * 1024) {
    await ports.filesystems.growUnmounted(device.devicePath, fsType);
  }
}

/**
 * mkfs, after three proofs: the record says that no filesystem was ever finished here, the device has exactly the volume's
 * size, and its start was read and is blank. `formatting` in the record means that an mkfs of ours was cut short before
 * anything could be mounted, so what it left is overwritten; only then may the device hold something.
 */
async function format(
  ports: NodeVolumesPorts,
  record: VolumeRecord,
  device: AttachedDevice,
  fsType: FsType,
): Promise<void> {
  if (device.readOnly) throw precondition(`volume ${record.id} was never formatted and is published read-only`);
  const { filesystems, records, logger } = ports;
  const path = device.devicePath;
  if (record.formatted.state === 'never') {
    await filesystems.proveBlank(path, record.sizeBytes);
    await records.update(record.id, (current) => {
      if (current.formatted.state !== 'never') throw formatRace(record.id);
      return { ...current, formatted: { state: 'formatting', fsType } };
    });
  } else {
    const size = await filesystems.deviceSize(path);
    if (size !== record.sizeBytes)
      throw precondition(`${path} has ${size} bytes, volume ${record.id} ${record.sizeBytes}`);
    // Fails on a device that can't be read.
    await filesystems.probe(path);
  }
  logger.info({ volume: record.id, device: path, fsType }, 'making a filesystem');
  const options = record.parameters.mkfsOptions.split(/\s+/).filter((option) => option !== '');
  await filesystems.format(path, fsType, record.id, options);
  await records.update(record.id, (current) => {
    if (current.formatted.state !== 'formatting') throw formatRace(record.id);
    return { ...current, formatted: { state: 'formatted', fsType } };
  });
}

function formatRace(volumeId: VolumeId): HoldfastError {
  return new HoldfastError('ABORTED', `volume ${volumeId} is being formatted by another call: try again`, {
    reason: 'Conflict',
  });
}

/** The record says there are contents: they must be there, or nothing is touched. */
async function checkContents(
  ports: NodeVolumesPorts,
  record: VolumeRecord,
  device: AttachedDevice,
  fsType: FsType,
): Promise<void> {
  const found = await ports.filesystems.probe(device.devicePath);
  if (found.kind === 'filesystem' && found.fsType === fsType) return;
  const what = found.kind === 'filesystem' ? found.fsType : found.kind === 'other' ? found.what : 'nothing';
  const why =
    record.formatted.state === 'raw'
      ? 'it was used as a block device, so it is never formatted here'
      : `it was formatted as ${record.formatted.fsType}, so it is not formatted again`;
  throw precondition(`volume ${record.id} holds ${what} where ${fsType} is expected; ${why}`);
}

async function mountStaged(
  ports: NodeVolumesPorts,
  record: VolumeRecord,
  order: StageOrder,
  device: AttachedDevice,
  fsType: FsType,
): Promise<void> {
  const { mounter, filesystems } = ports;
  const flags = order.access.kind === 'mount' ? order.access.mountFlags : [];
  const options = [...record.parameters.mountOptions.split(','), ...flags]
    .map((one) => one.trim())
    .filter((one) => one !== '');
  if (options.some((option) => /^(bind|rbind|move|remount|loop)(=|$)/.test(option))) {
    throw invalid(`mount options of volume ${record.id} must not change what is mounted: ${options.join(',')}`);
  }
  const target = order.stagingPath;
  await mounter.mountFilesystem({ device: device.devicePath, target, fsType, options, readOnly: device.readOnly });
  // These grow only while mounted; nothing to grow is no error.
  if (!device.readOnly && fsType !== 'ext4') await filesystems.growMounted(device.devicePath, fsType, target);
}

/** Fine when nothing is staged. FAILED_PRECONDITION/Busy while something still uses the volume. */
export async function unstageVolume(ports: NodeVolumesPorts, volumeId: VolumeId, stagingPath: string): Promise<void> {
  const status = await ports.attach.status(volumeId);
  const present = await mountAt(ports, stagingPath);
  await removeReadOnlyStep(ports, volumeId);
  if (present) {
    checkOurs(present, volumeId, status?.devicePath ?? '');
    await ports.mounter.unmount(stagingPath);
  }
  // A volume that another node took has nothing left to flush, and nowhere to flush it to.
  if (status) await ports.attach.detach(volumeId, { force: status.state === 'failed' });
}
