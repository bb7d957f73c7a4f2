// Reads a volume, or a snapshot of it, out of bare replicas: choice of the source, key, copying.

import {
  type Clock,
  HoldfastError,
  KEY_SIZE,
  notFound,
  type SnapshotId,
  silentLogger,
  unwrapDataKey,
  wrappingKeyFromSecret,
} from '../base/index.js';
import { openVolumeReader } from '../engine/index.js';
import { type Compression, segmentFileName } from '../format/index.js';
import { type Choice, chooseReplica } from './choose-replica.js';
import { type Copied, copyVolume, type OnUnreadable, type Sink } from './copy-volume.js';
import { encryptionOf, type FoundVolume } from './inspect-volume.js';

const compressions: readonly Compression[] = ['none', 'lz4', 'zstd'];

export interface ReadOrder {
  readonly snapshotId: SnapshotId | null;
  /** What the key file holds; null without one. */
  readonly keyFile: Buffer | null;
  readonly force: boolean;
  readonly signal: AbortSignal;
}

export interface ReadEvents {
  /** Told before the first byte is read: whom it is read from and what is not certain. */
  chosen(choice: Choice): void;
  /** Another replica stood in for a damaged place. */
  substituted(directory: string, segment: string, offset: number, length: number): void;
  unreadable: OnUnreadable;
}

/** Throws before anything is written when it can't begin: NOT_FOUND for the snapshot, MissingKey, WrongKey, what chooseReplica() throws. */
export async function readVolume(
  volume: FoundVolume,
  order: ReadOrder,
  openSink: () => Promise<Sink>,
  events: ReadEvents,
  clock: Clock,
): Promise<Copied> {
  const choice = chooseReplica(volume, order.force);
  const dataKey = dataKeyOf(volume, order.keyFile);
  try {
    const [source, ...others] = [choice.source, ...choice.others].map((port) => ({ port, status: port.status }));
    for (const { port } of [source!, ...others])
      port.onDamage = (segment, offset, length) =>
        events.substituted(port.directory, segmentFileName(segment), offset, length);
    const { volumeId, lineageId, parameters } = source!.status.superblock;
    const compression = compressions.find((one) => one === parameters.compression);
    const parts = { volumeId, lineageId, compression, dataKey, source: source!, others, clock, logger: silentLogger };
    const reader = await openVolumeReader(parts);
    try {
      if (order.snapshotId !== null) {
        if (!reader.snapshots.some(({ snapshotId }) => snapshotId === order.snapshotId))
          throw noSnapshot(order, reader);
        reader.showSnapshot(order.snapshotId);
      }
      events.chosen(choice);
      // The log tells of a size when an engine has opened the volume, or grown it.
      const described = order.snapshotId === null ? choice.source.status.superblock.sizeBytes : 0;
      const sizeBytes = Math.max(reader.sizeBytes, described);
      return await copyVolume(reader, sizeBytes, await openSink(), events.unreadable, order.signal);
    } finally {
      reader.close();
    }
  } finally {
    dataKey?.fill(0);
  }
}

function noSnapshot(
  { snapshotId }: ReadOrder,
  { snapshots }: { readonly snapshots: readonly { readonly snapshotId: SnapshotId }[] },
): HoldfastError {
  const there = snapshots.map((snapshot) => snapshot.snapshotId).slice(0, 20);
  return notFound(
    `the volume has no snapshot ${snapshotId}; it has ${there.length === 0 ? 'none' : there.join(', ')}${snapshots.length > there.length ? ' and more' : ''}`,
  );
}

/** Throws FAILED_PRECONDITION/MissingKey or WrongKey, DATA_LOSS when the wrapped key is lost. */
function dataKeyOf(volume: FoundVolume, keyFile: Buffer | null): Buffer | null {
  const encryption = encryptionOf(volume);
  if (encryption === null || encryption.cipher === 'none') return null;
  const { wrappedKey, lineageId } = encryption;
  if (wrappedKey === null)
    throw new HoldfastError(
      'DATA_LOSS',
      `volume ${volume.volumeId} is encrypted (${encryption.cipher}) and no superblock holds its wrapped data key: its contents can't be read`,
      { reason: 'MissingKey' },
    );
  if (keyFile === null)
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `volume ${volume.volumeId} is encrypted: give the file with the key that wraps its data key (${wrappedKey.wrappedBy}) with --key-file`,
      { reason: 'MissingKey' },
    );
  const wrappingKey = wrappingKeyIn(keyFile);
  try {
    return unwrapDataKey(wrappedKey, wrappingKey, lineageId);
  } finally {
    wrappingKey.fill(0);
  }
}

/** 32 raw bytes, or what a CSI secret holds. */
function wrappingKeyIn(keyFile: Buffer): Buffer {
  if (keyFile.length === KEY_SIZE) return Buffer.from(keyFile);
  return wrappingKeyFromSecret({ encryptionKey: keyFile.toString('utf8') });
}
