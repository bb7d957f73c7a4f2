// What a holder holds: one volume's device, whatever makes it one. FUSE file and loop device: fuse-loop-device.ts; the kernel's
// NBD driver: kernel-nbd/device.ts.

import type { DeviceKind, ExportAddress } from './port.js';

export interface HeldDevice {
  readonly kind: DeviceKind;
  /** Empty until there is one. */
  readonly devicePath: string;
  readonly sizeBytes: number;
  /** Process between device and export, 0 when there is none. */
  readonly bridgePid: number;
  /** Such processes started after the first. */
  readonly respawns: number;
  /** True while the device is a former holder's, and users of it may know nothing of this one. */
  readonly inherited: boolean;
  counters(): Promise<Readonly<Record<string, number>>>;
  /** Makes the device once the export is known; `connected` resolves when the first connection stands. */
  setUp(opening: Promise<ExportAddress>, connected: () => Promise<void>): Promise<void>;
  /** After a setUp() that failed: takes away what it made, and leaves alone what was there before. `unused` as below. */
  undoSetUp(unused: () => Promise<void>): Promise<void>;
  /** The export is at this address now. */
  moveTo(address: ExportAddress): void;
  /** All I/O gets EIO from now on, what waits included. */
  fail(): void;
  /** Fails all I/O when nobody is left who could answer it. */
  abort(): Promise<void>;
  /** Shows the new size, and resolves when the device has it. */
  grow(sizeBytes: number): Promise<void>;
  /** Everything written so far is on stable storage of every in-sync replica when this resolves. */
  flush(): Promise<void>;
  /**
   * Takes everything down; what is gone is skipped. FAILED_PRECONDITION/Busy when the device is in use. Calls `unused` once no
   * I/O can come any more, before the connection goes. May be repeated after a failure.
   */
  tearDown(unused: () => Promise<void>): Promise<void>;
}
