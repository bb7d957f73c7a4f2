// The port to the kernel's NBD driver: what the holder asks of it, and what it tells. Real: kernel.ts; tests bring their own.

import type { ExportAddress } from '../port.js';

/** A device that the driver has under one of our names. */
export interface KernelDevice {
  /** N of /dev/nbdN. */
  readonly index: number;
  readonly devicePath: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/** A connection whose handshake is through and from which nothing more was read: ready for the kernel. */
export interface ReadySocket {
  readonly descriptor: number;
  readonly sizeBytes: number;
  /** NBD transmission flags of the export. */
  readonly flags: number;
  /** Ends the connection also while the kernel has it. */
  cut(): void;
  /** Closes this process's descriptor; the kernel's own stays open. */
  release(): void;
}

export interface ConnectOptions {
  /** The kernel keeps it with the device and shows it in /sys/block/nbdN/backend. */
  readonly identifier: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly serverFlags: number;
  readonly timeoutS: number;
  readonly deadTimeoutS: number;
}

export interface ReconfigureOptions {
  readonly identifier: string;
  readonly sizeBytes?: number;
  readonly timeoutS?: number;
  readonly deadTimeoutS?: number;
  /** Takes the place of the connection that died. */
  readonly socket?: ReadySocket;
}

/** Something a process has open. */
export interface OpenDevice {
  close(): Promise<void>;
}

export interface KernelNbd {
  /** The device with exactly this identifier. */
  find(identifier: string): Promise<KernelDevice | undefined>;
  /**
   * Connects to an export and shakes hands as the client `clientId`, of which the server then drops every older connection
   * and drains what it had in flight.
   */
  dial(address: ExportAddress, clientId: string, signal: AbortSignal): Promise<ReadySocket>;
  /** Makes a device of a connection; the kernel chooses its number. */
  connect(socket: ReadySocket, options: ConnectOptions): Promise<KernelDevice>;
  /** FAILED_PRECONDITION/Closed when the device is not configured (any more), or under another identifier. */
  reconfigure(index: number, options: ReconfigureOptions): Promise<void>;
  /**
   * Ends the device's connection for good: all its I/O fails at once. Its number stays taken while anybody has it open. Fine
   * when it is gone, or by now somebody else's.
   */
  disconnect(index: number, identifier: string): Promise<void>;
  /** False once the device has no connection and nobody has it open. */
  isConfigured(index: number): Promise<boolean>;
  /**
   * How often the driver looks at requests that have no answer. False when that can't be set here. Some kernels empty the queue
   * before they change it, so this is done by another process, and answered true when that takes long.
   */
  lookEvery(device: KernelDevice, ms: number): Promise<boolean>;
  /**
   * Reads from the device past all caches: waits while there is no connection. False when the answer was an error. Rejects when
   * nothing could be asked. Whoever waits in the kernel can't be killed, so it is another process that does: this one's lock and
   * sockets go with it at once.
   */
  read(device: KernelDevice): Promise<boolean>;
  /** Keeps the number from being given to another device. */
  open(device: KernelDevice): Promise<OpenDevice>;
  /** Opens it for this process alone: FAILED_PRECONDITION/Busy while it is mounted, in whatever namespace. */
  claim(device: KernelDevice): Promise<OpenDevice>;
  /** Requests by kind since the device was made. */
  counters(device: KernelDevice): Promise<Readonly<Record<string, number>>>;
  /** `listener(index)` for each connection that died, undefined when some may have been missed. */
  onLinkDead(listener: (index: number | undefined) => void): void;
  /** Ends the netlink socket; devices stay. */
  close(): void;
}
