// Which kind of device a holder makes.

import { type Logger, messageOf } from '../../../base/index.js';
import type { DeviceChoice } from '../port.js';
import type { KernelDevice, KernelNbd } from './port.js';

export interface KernelChoice {
  /** The device with this identifier; needs nothing but /sys. */
  find(identifier: string): Promise<KernelDevice | undefined>;
  /** FAILED_PRECONDITION saying why, where there is no kernel nbd. */
  open(): Promise<KernelNbd>;
}

/**
 * The kernel's driver when the device is to be made by it, undefined for FUSE and loop device. A device that exists decides, for
 * two devices of one volume would not know of each other's writes.
 */
export async function chooseKernel(
  kernel: KernelChoice,
  choice: DeviceChoice,
  identifier: string,
  logger: Logger,
): Promise<KernelNbd | undefined> {
  const exists = (await kernel.find(identifier)) !== undefined;
  if (choice === 'fuse-loop' && !exists) return undefined;
  try {
    return await kernel.open();
  } catch (error) {
    if (choice === 'kernel-nbd' || exists) throw error;
    logger.info({ reason: messageOf(error) }, 'no kernel nbd here: FUSE file and loop device');
    return undefined;
  }
}
