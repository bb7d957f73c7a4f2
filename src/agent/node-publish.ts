// Publish: bind a staged volume (its filesystem, or its device node) to a target path. Unpublish: take it away again.

import { join } from 'node:path';
import { errnoOf, HoldfastError, messageOf, precondition, printable, type VolumeId } from '../base/index.js';
import {
  type AccessType,
  attachedDevice,
  checkOurs,
  isNodeOf,
  mountAt,
  mountsOfDevice,
  type NodeVolumesPorts,
  volumeRecord,
} from './node-volumes.js';

export interface PublishOrder {
  readonly volumeId: VolumeId;
  readonly stagingPath: string;
  readonly targetPath: string;
  readonly access: AccessType;
  readonly readOnly: boolean;
  /** False for access modes that allow one target at a time. */
  readonly manyTargets: boolean;
}

/** Errors: NOT_FOUND; FAILED_PRECONDITION not staged, or published elsewhere already; ALREADY_EXISTS in another way. */
export async function publishVolume(ports: NodeVolumesPorts, order: PublishOrder): Promise<void> {
  const record = await volumeRecord(ports, order.volumeId);
  const publication = record.publications.find((one) => one.nodeId === ports.nodeId);
  const readOnly = order.readOnly || (publication?.readOnly ?? false);
  const device = await attachedDevice(ports, order.volumeId);
  const source = await sourceOf(ports, order, device.devicePath);
  if (order.access.kind === 'block' && readOnly && !device.readOnly) {
    throw precondition(
      `volume ${order.volumeId} is attached writable, and a block device can't be made read-only for one consumer: ` +
        'publish the volume read-only at the controller',
    );
  }
  if (!order.manyTargets) await checkSoleTarget(ports, order, device.devicePath);
  const present = await mountAt(ports, order.targetPath);
  if (present) {
    const sameKind = order.access.kind === 'block' ? isNodeOf(present, source) : present.source === device.devicePath;
    if (sameKind && (order.access.kind === 'block' || present.readOnly === readOnly)) return;
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `${order.targetPath} already has ${present.source} (${present.readOnly ? 'read-only' : 'writable'}) mounted: unpublish it first`,
      { reason: 'Conflict' },
    );
  }
  if (order.access.kind === 'block') {
    await ports.mounter.bindMount({ source, target: order.targetPath, readOnly: false });
  } else if (readOnly) {
    await bindReadOnly(ports, order, source);
  } else {
    await ports.mounter.bindMount({ source, target: order.targetPath, readOnly: false });
  }
}

/** The staged filesystem or the device, in the form that it was staged in. */
async function sourceOf(ports: NodeVolumesPorts, order: PublishOrder, devicePath: string): Promise<string> {
  const staged = await mountAt(ports, order.stagingPath);
  if (order.access.kind === 'block') {
    if (staged?.source !== devicePath) return devicePath;
    throw precondition(`volume ${order.volumeId} is staged as a filesystem, not as a block device`);
  }
  if (staged?.source === devicePath) return order.stagingPath;
  throw precondition(`volume ${order.volumeId} is not staged at ${printable(order.stagingPath)}: stage it first`);
}

async function checkSoleTarget(ports: NodeVolumesPorts, order: PublishOrder, devicePath: string): Promise<void> {
  const step = readOnlyStep(ports, order.volumeId);
  const own = [order.stagingPath, order.targetPath, step];
  // A shared mount above shows the same mount again under other prefixes.
  const others = (await mountsOfDevice(ports.mounter, devicePath)).filter(
    (entry) => !own.some((path) => entry.target.endsWith(path)),
  );
  if (others.length === 0) return;
  throw precondition(
    `volume ${order.volumeId} allows one consumer at a time and is published at ${others[0]!.target} already`,
    'Busy',
  );
}

function readOnlyStep(ports: NodeVolumesPorts, volumeId: VolumeId): string {
  return join(ports.runDir, 'ro', volumeId);
}

/**
 * A bind mount becomes read-only by a second step, and a crash between the two would leave a target that is writable. So
 * the two steps are taken at a place of ours, and the target is bound from there: it is read-only from its first moment.
 */
async function bindReadOnly(ports: NodeVolumesPorts, order: PublishOrder, source: string): Promise<void> {
  const step = readOnlyStep(ports, order.volumeId);
  await ports.mounter.bindMount({ source, target: step, readOnly: true });
  try {
    await ports.mounter.bindMount({ source: step, target: order.targetPath, readOnly: true });
  } finally {
    await removeReadOnlyStep(ports, order.volumeId);
  }
}

/** Also what a crash left. */
export async function removeReadOnlyStep(ports: NodeVolumesPorts, volumeId: VolumeId): Promise<void> {
  await ports.mounter.unmountAndRemove(readOnlyStep(ports, volumeId));
}

/** Removes what publish made at the target. Fine when nothing is there; never removes contents. */
export async function unpublishVolume(ports: NodeVolumesPorts, volumeId: VolumeId, targetPath: string): Promise<void> {
  const present = await mountAt(ports, targetPath);
  if (present) {
    const status = await ports.attach.status(volumeId);
    checkOurs(present, volumeId, status?.devicePath ?? '');
  }
  try {
    await ports.mounter.unmountAndRemove(targetPath);
  } catch (error) {
    if (errnoOf(error) !== 'ENOTEMPTY') throw error;
    throw precondition(`${printable(targetPath)} is not empty though nothing is mounted there: ${messageOf(error)}`);
  }
}
