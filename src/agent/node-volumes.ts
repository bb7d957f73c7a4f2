// A volume on this node as a consumer sees it: staged (attached, formatted, mounted once) and published (bound to the places
// where it is wanted). Keeps no state: what is there is read back from the mount table, the holders and the volume's record
// each time, so that a restart changes nothing. csi/node speaks CSI; here are the steps.

import {
  type Clock,
  HoldfastError,
  type Logger,
  type NodeId,
  notFound,
  precondition,
  printable,
  type VolumeId,
} from '../base/index.js';
import type { VolumeRecord } from '../meta/index.js';
import type { Attach, AttachStatus } from '../platform/attach/index.js';
import type { Filesystems, FsType, MountEntry, Mounter } from '../platform/mount/index.js';
import type { StorageDaemon } from './storage-daemon.js';
import type { VolumeRecords } from './volume-records.js';

export interface NodeVolumesPorts {
  readonly nodeId: NodeId;
  readonly records: VolumeRecords;
  readonly attach: Attach;
  readonly mounter: Mounter;
  readonly filesystems: Filesystems;
  /** filesystemSize() of this folder; apart from the port above because it only reads. */
  readonly filesystemSize: (device: string, fsType: FsType) => Promise<number | undefined>;
  readonly daemon: StorageDaemon;
  /** Of the node plugin; private. */
  readonly runDir: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

export type AccessType =
  | { readonly kind: 'block' }
  | { readonly kind: 'mount'; readonly fsType: string; readonly mountFlags: readonly string[] };

export async function volumeRecord(ports: NodeVolumesPorts, volumeId: VolumeId): Promise<VolumeRecord> {
  const record = await ports.records.get(volumeId);
  if (!record || record.state === 'deleting' || record.state === 'snapshots-only') {
    throw notFound(`there is no volume ${volumeId}`);
  }
  return record;
}

/** The device of a volume that is attached here and can do I/O. FAILED_PRECONDITION when it is not. */
export async function attachedDevice(ports: NodeVolumesPorts, volumeId: VolumeId): Promise<AttachStatus> {
  const status = await ports.attach.status(volumeId);
  if (!status || status.devicePath === '')
    throw precondition(`volume ${volumeId} is not staged on node ${ports.nodeId}`);
  if (status.state === 'dead' || status.state === 'failed') {
    throw precondition(
      `volume ${volumeId} lost its device here (${status.lastError}): unpublish, unstage and stage it again`,
    );
  }
  return status;
}

/** What is mounted at `path`, topmost; undefined when nothing is or there is no such path. */
export async function mountAt(ports: NodeVolumesPorts, path: string): Promise<MountEntry | undefined> {
  return (await ports.mounter.findMounts({ target: path })).at(-1);
}

/** True for the device's filesystem, and for a bind mount of the device node itself. */
export function isMountOf(entry: MountEntry, devicePath: string): boolean {
  return devicePath !== '' && (entry.source === devicePath || isNodeOf(entry, devicePath));
}

/** A bind mount of a device node shows the filesystem of /dev as its source and the node as its root. */
export function isNodeOf(entry: MountEntry, devicePath: string): boolean {
  return /^(devtmpfs|tmpfs)$/.test(entry.fsType) && devicePath === `/dev${entry.fsRoot}`;
}

/** Every mount of the device's filesystem and every bind mount of its node, wherever. */
export async function mountsOfDevice(mounter: Mounter, devicePath: string): Promise<MountEntry[]> {
  const filesystem = await mounter.findMounts({ device: devicePath });
  const dev = (await mounter.findMounts({ target: '/dev' })).at(-1);
  const nodes = dev ? await mounter.findMounts({ device: dev.source }) : [];
  return [...filesystem, ...nodes.filter((entry) => isNodeOf(entry, devicePath))];
}

/**
 * Refuses to touch a mount that is not the volume's: a path from outside decides what is unmounted. What a killed holder
 * left has no device to compare with; such a mount must at least be one of a loop or nbd device.
 */
export function checkOurs(entry: MountEntry, volumeId: VolumeId, devicePath: string): void {
  const ours =
    devicePath === ''
      ? /^\/dev\/(loop|nbd)\d+$/.test(entry.source) || /^\/(loop|nbd)\d+$/.test(entry.fsRoot)
      : isMountOf(entry, devicePath);
  if (ours) return;
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `${printable(entry.target)} has ${printable(entry.source)} mounted, which is not volume ${volumeId}: it is left alone`,
    { reason: 'Conflict' },
  );
}
