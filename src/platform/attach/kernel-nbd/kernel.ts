// The kernel's NBD driver as a port. Owner: the holder, one each.

import { release } from 'node:os';
import { type Clock, HoldfastError, type Logger, messageOf, precondition, unavailable } from '../../../base/index.js';
import type { NativeNet } from '../../../hotpath/index.js';
import { type Exec, ExecError } from '../../exec.js';
import {
  claimDevice,
  describe,
  findDevice,
  identifierOf,
  ioTimeoutFile,
  nodeExists,
  openDevice,
  readCounters,
} from './block-files.js';
import { deadTimeoutS } from './device.js';
import { dialExport, SocketHub } from './handover.js';
import { NetlinkNbd, NetlinkRefusal } from './netlink-nbd.js';
import type { ConnectOptions, KernelDevice, KernelNbd, ReadySocket, ReconfigureOptions } from './port.js';

export interface KernelNbdParts {
  /** Null where the native crate was not built. */
  readonly binding: NativeNet | null;
  readonly exec: Exec;
  readonly clock: Clock;
  readonly logger: Logger;
}

const modprobeTimeoutMs = 20_000;
const lookTimeoutMs = 5_000;
/** Longer than a device waits for a connection. */
const readTimeoutMs = 2 * deadTimeoutS * 1_000;
/** devtmpfs has a device's node at once; where something else makes them it takes a moment. */
const nodeTriesMax = 40;
const nodeDelayMs = 50;
/**
 * Since 5.10 the driver sends a request again over the connection that took the place of a dead one also where requests have
 * no time limit.
 */
const kernelLeast = [5, 10] as const;

/**
 * Opens the driver, loading its module when that is needed and possible. Throws FAILED_PRECONDITION saying why when there is
 * none to be had; that is an answer, not a fault.
 */
export async function openKernelNbd(parts: KernelNbdParts): Promise<KernelNbd> {
  const { binding, exec, clock, logger } = parts;
  if (binding === null) throw precondition('the native crate was not built, and Node itself has no netlink');
  if (!kernelFits(release())) throw precondition(`the kernel is ${release()}, needed is ${kernelLeast.join('.')}`);
  const hub = new SocketHub(binding);
  const netlink = new NetlinkNbd(hub, clock, logger);
  try {
    if (!(await netlink.open())) {
      // Partitions are the business of whoever gets the device, and looking for them would be a read at every open.
      await exec.run('modprobe', ['nbd', 'max_part=0'], { timeoutMs: modprobeTimeoutMs }).catch((error) => {
        throw precondition(`the kernel's nbd driver is not there: ${messageOf(error)}`);
      });
      if (!(await netlink.open())) {
        throw precondition("the kernel's nbd driver can't be reached from this network namespace: use the host's");
      }
    }
  } catch (error) {
    netlink.close();
    throw error;
  }
  return new RealKernelNbd(hub, netlink, exec, clock);
}

/** Of a release such as "6.1.0-56-amd64". */
export function kernelFits(text: string): boolean {
  const [major = 0, minor = 0] = text.split(/[.-]/).map(Number);
  return major > kernelLeast[0] || (major === kernelLeast[0] && minor >= kernelLeast[1]);
}

class RealKernelNbd implements KernelNbd {
  readonly find = findDevice;
  readonly #hub: SocketHub;
  readonly #netlink: NetlinkNbd;
  readonly #exec: Exec;
  readonly #clock: Clock;

  constructor(hub: SocketHub, netlink: NetlinkNbd, exec: Exec, clock: Clock) {
    this.#hub = hub;
    this.#netlink = netlink;
    this.#exec = exec;
    this.#clock = clock;
  }

  dial(address: Parameters<KernelNbd['dial']>[0], clientId: string, signal: AbortSignal): Promise<ReadySocket> {
    return dialExport(this.#hub, this.#clock, address, clientId, signal);
  }

  async connect(socket: ReadySocket, options: ConnectOptions): Promise<KernelDevice> {
    const index = await this.#netlink.connect({ ...options, descriptor: socket.descriptor }).catch(refused);
    for (let attempt = 1; !(await nodeExists(`/dev/nbd${index}`)); attempt++) {
      if (attempt >= nodeTriesMax) {
        await this.disconnect(index, options.identifier);
        throw precondition(`/dev/nbd${index} does not appear: the host's /dev is needed here`);
      }
      await this.#clock.sleep(nodeDelayMs);
    }
    return describe(index);
  }

  async reconfigure(index: number, { socket, ...options }: ReconfigureOptions): Promise<void> {
    const fields = { index, ...options, ...(socket === undefined ? {} : { descriptor: socket.descriptor }) };
    await this.#netlink.reconfigure(fields).catch(refused);
  }

  async disconnect(index: number, identifier: string): Promise<void> {
    // The command itself knows numbers only, and a number can have been given to another volume.
    if ((await identifierOf(index)) !== identifier) return;
    await this.#netlink.disconnect(index).catch(refused);
  }

  isConfigured(index: number): Promise<boolean> {
    return this.#netlink.isConnected(index).catch((error) => {
      if (error instanceof NetlinkRefusal && ['EINVAL', 'ENODEV', 'ENOENT'].includes(error.code)) return false;
      throw error;
    });
  }

  async lookEvery({ index }: KernelDevice, ms: number): Promise<boolean> {
    try {
      await this.#exec.run('tee', [ioTimeoutFile(index)], { input: String(ms), timeoutMs: lookTimeoutMs });
      return true;
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'DEADLINE_EXCEEDED') return true;
      if (error instanceof ExecError) return false;
      throw error;
    }
  }

  async read({ devicePath }: KernelDevice): Promise<boolean> {
    const args = [`if=${devicePath}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct'];
    try {
      await this.#exec.run('dd', args, { timeoutMs: readTimeoutMs });
      return true;
    } catch (error) {
      if (error instanceof ExecError) return false;
      throw error;
    }
  }

  open(device: KernelDevice) {
    return openDevice(device.devicePath);
  }

  claim(device: KernelDevice) {
    return claimDevice(device.devicePath);
  }

  counters(device: KernelDevice) {
    return readCounters(device.index);
  }

  onLinkDead(listener: (index: number | undefined) => void): void {
    this.#netlink.onLinkDead(listener);
  }

  close(): void {
    this.#netlink.close();
  }
}

/** The driver's refusals in the port's terms. */
function refused(error: unknown): never {
  if (!(error instanceof NetlinkRefusal)) throw error;
  const { code, message } = error;
  if (code === 'EPERM') throw precondition(`${message}: attaching needs root on the host (CAP_SYS_ADMIN)`);
  if (['EINVAL', 'ENODEV', 'ENOENT'].includes(code)) {
    throw new HoldfastError('FAILED_PRECONDITION', `${message}: the device is not configured`, { reason: 'Closed' });
  }
  throw unavailable(message, error);
}
