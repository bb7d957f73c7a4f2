// The device of one volume: FUSE connection, bridge, loop device, in this order up and in the reverse order down. Owner:
// the holder. Invariants: each step down may be repeated after a failure; the descriptor is closed last, so that the
// kernel never fails I/O that could still have been served.

import { type Clock, HoldfastError, type Logger } from '../../base/index.js';
import type { Exec } from '../exec.js';
import { createFilesystems } from '../mount/index.js';
import type { Endpoint } from './bridge-messages.js';
import { type BridgeCommand, BridgeSupervisor } from './bridge-supervisor.js';
import { abortFuse, type FuseConnection, openFuse, unmountFuse } from './fuse-mount.js';
import type { HeldDevice } from './held-device.js';
import { refreshLoop, releaseLoop, setupLoop } from './loop-device.js';
import type { AttachPaths } from './paths.js';
import type { AttachSpec, ExportAddress } from './port.js';

export interface DeviceOptions {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly paths: AttachPaths;
  readonly spec: AttachSpec;
  readonly bridge: BridgeCommand;
  readonly onConnection: (connected: boolean, message: string) => void;
  readonly onBroken: (message: string) => void;
}

const flushTimeoutMs = 60_000;
const growTriesMax = 50;
const growDelayMs = 100;

export class FuseLoopDevice implements HeldDevice {
  readonly kind = 'fuse-loop';
  /** A holder that dies takes this kind of device with it. */
  readonly inherited = false;
  readonly #options: DeviceOptions;
  #fuse: FuseConnection | undefined;
  #bridge: BridgeSupervisor | undefined;
  #devicePath = '';
  #sizeBytes = 0;

  constructor(options: DeviceOptions) {
    this.#options = options;
  }

  get devicePath(): string {
    return this.#devicePath;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get bridgePid(): number {
    return this.#bridge?.pid ?? 0;
  }

  get respawns(): number {
    return this.#bridge?.respawns ?? 0;
  }

  counters(): Promise<Readonly<Record<string, number>>> {
    return this.#bridge?.report() ?? Promise.resolve({});
  }

  /**
   * Starts the bridge, and once the export is known mounts and waits for `connected`, then puts the loop device on top. Starting a
   * process takes as long as opening an engine: both go on at once.
   */
  async setUp(opening: Promise<ExportAddress>, connected: () => Promise<void>): Promise<void> {
    const { exec, clock, logger, paths, spec, bridge, onConnection, onBroken } = this.#options;
    const fuse = await openFuse();
    this.#fuse = fuse;
    const ready = opening.then(async (address) => {
      this.#sizeBytes = address.sizeBytes;
      await fuse.mount(exec, paths.file, spec.volumeId);
      return { endpoint: endpointOf(address), sizeBytes: address.sizeBytes };
    });
    this.#bridge = new BridgeSupervisor({
      exec,
      clock,
      logger,
      command: bridge,
      fuseFd: fuse.fd,
      ready,
      clientId: spec.volumeId,
      readOnly: spec.readOnly,
      onConnection,
      onBroken,
    });
    await this.#bridge.start();
    await connected();
    this.#devicePath = await setupLoop(exec, clock, paths.file, spec.readOnly);
  }

  undoSetUp(unused: () => Promise<void>): Promise<void> {
    return this.tearDown(unused);
  }

  moveTo(address: ExportAddress): void {
    this.#bridge?.setEndpoint(endpointOf(address));
  }

  /** All I/O gets EIO from now on, what waits included. */
  fail(): void {
    this.#bridge?.fail();
  }

  /** Fails all I/O when no bridge can answer any more. */
  abort(): Promise<void> {
    return abortFuse(this.#options.exec, this.#options.paths.file);
  }

  /** Shows the new size and waits until the loop device has it. */
  async grow(sizeBytes: number): Promise<void> {
    const { exec, clock, paths } = this.#options;
    const filesystems = createFilesystems(exec);
    this.#bridge?.setSize(sizeBytes);
    for (let attempt = 1; ; attempt++) {
      // A bridge that is just being replaced answers the question for the size a little later.
      await refreshLoop(exec, this.#devicePath, paths.file);
      if ((await filesystems.deviceSize(this.#devicePath)) === sizeBytes) break;
      if (attempt >= growTriesMax) {
        throw new HoldfastError('UNAVAILABLE', `${this.#devicePath} does not show ${sizeBytes} bytes yet: try again`);
      }
      await clock.sleep(growDelayMs);
    }
    this.#sizeBytes = sizeBytes;
  }

  /** Everything written so far is on stable storage of every in-sync replica when this resolves. */
  async flush(): Promise<void> {
    if (this.#devicePath === '') return;
    // fsync on the device; "blockdev --flushbufs" would write the page cache out but send no flush after it.
    await this.#options.exec.run('sync', [this.#devicePath], { timeoutMs: flushTimeoutMs });
  }

  /**
   * Takes everything down; what is gone is skipped. FAILED_PRECONDITION/Busy when the device is in use. Calls `unused`
   * once no I/O can come any more, before the connection goes.
   */
  async tearDown(unused: () => Promise<void>): Promise<void> {
    const { exec, clock, paths } = this.#options;
    if (this.#devicePath !== '') await releaseLoop(exec, clock, this.#devicePath, paths.file);
    this.#devicePath = '';
    await unused();
    this.#bridge?.retire();
    if (this.#fuse) await unmountFuse(exec, clock, paths.file);
    await this.#bridge?.stop();
    this.#bridge = undefined;
    await this.#fuse?.close();
    this.#fuse = undefined;
  }
}

function endpointOf(address: ExportAddress): Endpoint {
  return { socketPath: address.socketPath, exportName: address.exportName };
}
