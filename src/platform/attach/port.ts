// The port "attach": an open volume becomes a block device of this node, and stays one while the processes around it
// restart. Implemented by holder processes (holder-attach.ts, holder.ts), which use the kernel's NBD driver where there is one
// and a FUSE file under a loop device where not.

import { invalid, printable, type VolumeId } from '../../base/index.js';

const deviceKinds = ['kernel-nbd', 'fuse-loop'] as const;
export type DeviceKind = (typeof deviceKinds)[number];

/** What a holder is to make: a kind, or the first of them that works here. */
export type DeviceChoice = DeviceKind | 'auto';

/** Throws INVALID_ARGUMENT naming `source` and what may be chosen. */
export function parseDeviceChoice(text: string, source: string): DeviceChoice {
  const choices = ['auto', ...deviceKinds] as const;
  const choice = choices.find((one) => one === text);
  if (choice === undefined) throw invalid(`${source} must be one of ${choices.join(', ')}, not ${printable(text)}`);
  return choice;
}

export interface AttachSpec {
  readonly volumeId: VolumeId;
  /** The data key of an encrypted volume. Copied; the caller wipes its own. */
  readonly key: Buffer | null;
  /** A read-only device: also raw block consumers can't write. */
  readonly readOnly: boolean;
}

export interface AttachedDevice {
  readonly kind: DeviceKind;
  readonly volumeId: VolumeId;
  /** For example /dev/loop3 or /dev/nbd0. */
  readonly devicePath: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Process that keeps the device. */
  readonly pid: number;
}

/**
 * opening ─▶ attached ◀─▶ reconnecting (I/O waits)
 *               │              │
 *               └──▶ failed ◀──┘   another node took the volume, or the device broke: every I/O gets EIO
 * any ─▶ detaching ─▶ gone.   dead: leftovers of a holder that was killed; detach cleans them up.
 * orphaned: the device of a holder that was killed goes on by itself (kernel-nbd) until its connection is lost; attach gives it
 * a holder again.
 */
export type AttachState = 'opening' | 'attached' | 'reconnecting' | 'failed' | 'detaching' | 'dead' | 'orphaned';

export interface AttachStatus {
  readonly kind: DeviceKind;
  readonly volumeId: VolumeId;
  readonly state: AttachState;
  /** Empty until attached. */
  readonly devicePath: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Holder, 0 when it is dead. */
  readonly pid: number;
  /** Bridge from FUSE to NBD, 0 when there is none now (kernel-nbd needs none). */
  readonly bridgePid: number;
  /** Connections to the storage daemon made after the first. */
  readonly reconnects: number;
  /** Bridges started after the first. */
  readonly respawns: number;
  /** Why it is failed, or what the last try to reconnect met; empty when well. */
  readonly lastError: string;
  readonly counters: Readonly<Record<string, number>>;
}

export interface Attach {
  /**
   * Makes the volume a device here. A repeat returns the same device, and takes over an orphaned one. Errors: what the export source refuses with;
   * FAILED_PRECONDITION/Busy when a dead predecessor's device is still mounted; FAILED_PRECONDITION/WrongKey when it is
   * attached with another key; ALREADY_EXISTS/Conflict when it is attached in the other mode.
   */
  attach(spec: AttachSpec): Promise<AttachedDevice>;
  /**
   * Flushes, takes the device away and closes the export; fine when there is none. FAILED_PRECONDITION/Busy while it is
   * mounted or open. Waits for a storage daemon that is away, because what it holds back is not flushed; `force` gives
   * up on it (I/O in flight fails with EIO).
   */
  detach(volumeId: VolumeId, options?: { readonly force?: boolean }): Promise<void>;
  /** Lets the device show `sizeBytes`, which the volume must already have. A repeat is fine. NOT_FOUND if not attached. */
  grow(volumeId: VolumeId, sizeBytes: number): Promise<AttachedDevice>;
  /** All volumes attached here, those with a dead holder included. */
  list(): Promise<AttachStatus[]>;
  status(volumeId: VolumeId): Promise<AttachStatus | undefined>;
}

export interface ExportAddress {
  /** Unix socket on which the export is served over NBD. */
  readonly socketPath: string;
  readonly exportName: string;
  readonly sizeBytes: number;
}

/**
 * Where a holder gets its volume's export from: the node's storage daemon. `open` may be repeated at any time and
 * returns the present export (after a daemon's restart it opens the engine anew, which needs the key). It may block for
 * as long as an engine takes to recover. FAILED_PRECONDITION/StaleReign means for good: another node took the volume.
 * Every other error may pass.
 */
export interface ExportSource {
  open(volumeId: VolumeId, key: Buffer | null, readOnly: boolean): Promise<ExportAddress>;
  /** Lets the engine go; fine when it is not open. */
  close(volumeId: VolumeId): Promise<void>;
}
