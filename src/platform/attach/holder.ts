// The holder of one attached volume. Purpose: outlive the restarts of node plugin and storage daemon, with what must
// survive them: the device (the FUSE descriptor, or the connection of a kernel nbd device), the key, the record of what is
// attached. Owner: the process `holdfast attach`.
//
// Invariants
// - One holder per volume and machine: it runs while it has the volume's lock, clears a dead predecessor's leftovers
//   before it listens, and is gone when its device is gone. The only normal end is `detach`.
// - The key is held from `open` to the end, given to the export source only, and wiped before the process ends.
// - open, grow and detach run one at a time; status answers at once.
// - A failed holder (another node took the volume) keeps its device, answering EIO, until detach: a device number
//   freed by itself could be reused for another volume under a pod that still has it open.
//
// What may fail: the daemon (reconnects for ever; kernel nbd waits an hour), the bridge (replaced), both together. A killed holder
// takes its bridge with it and the device answers EIO; the next attach or detach clears up. A kernel nbd device lives on, and
// the next attach gives it a holder again.

import { timingSafeEqual } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { type Clock, HoldfastError, type Logger, messageOf, precondition, type VolumeId } from '../../base/index.js';
import type { Exec } from '../exec.js';
import { mountsUsing } from '../mount/index.js';
import type { BridgeCommand } from './bridge-supervisor.js';
import type { ControlRequest } from './control-protocol.js';
import { listenControl } from './control-server.js';
import { ExportKeeper, isDeposed } from './export-keeper.js';
import { FuseLoopDevice } from './fuse-loop-device.js';
import type { HeldDevice } from './held-device.js';
import { chooseKernel, type KernelChoice } from './kernel-nbd/choice.js';
import { KernelNbdDevice, type KernelNbdOptions } from './kernel-nbd/device.js';
import type { KernelNbd } from './kernel-nbd/port.js';
import { clearLeftovers, lockVolume, removeFiles } from './leftovers.js';
import { attachPaths } from './paths.js';
import type { AttachedDevice, AttachSpec, AttachState, AttachStatus, DeviceChoice, ExportSource } from './port.js';

export interface HolderOptions {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly volumeId: VolumeId;
  /** Without symbolic links: the kernel reports the real path of the file under the loop device. */
  readonly runDir: string;
  readonly bridge: BridgeCommand;
  readonly source: ExportSource;
  readonly device: DeviceChoice;
  readonly kernelNbd: KernelChoice;
}

/** A holder that nobody gives a volume to ends by itself. */
const idleMs = 30_000;
/** How long the first open waits for a daemon that is away; the caller repeats. */
const firstOpenPatienceMs = 20_000;
const firstConnectMs = 20_000;
const closeTriesMax = 10;
const closeDelayMs = 1_000;

export class Holder {
  readonly #options: HolderOptions;
  #spec: AttachSpec | undefined;
  #device: HeldDevice | undefined;
  #keeper: ExportKeeper | undefined;
  #failed = '';
  #detaching = false;
  #queue: Promise<unknown> = Promise.resolve();
  #firstConnect: (() => void) | undefined;
  readonly #gone: Promise<void>;
  #leave: () => void = () => {};

  constructor(options: HolderOptions) {
    this.#options = options;
    this.#gone = new Promise((resolve) => {
      this.#leave = resolve;
    });
  }

  /** Serves until the volume was detached (or never came). Resolves at once when another holder has the volume. */
  async run(): Promise<void> {
    const { exec, clock, logger, volumeId, runDir } = this.#options;
    const paths = attachPaths(runDir, volumeId);
    await mkdir(paths.directory, { recursive: true, mode: 0o700 });
    const lock = await lockVolume(paths);
    if (!lock) return logger.info({ volumeId }, 'another holder has this volume');
    try {
      await clearLeftovers(exec, clock, paths, volumeId);
      const server = await listenControl(paths.socket, (request) => this.#answer(request));
      logger.info({ volumeId, pid: process.pid }, 'holder is ready');
      const idle = clock.after(idleMs, () => {
        void this.#queue.then(() => {
          if (!this.#spec) this.#leave();
        });
      });
      await this.#gone;
      idle.cancel();
      await server.close();
      await removeFiles([paths.socket, paths.file]);
      logger.info({ volumeId }, 'holder ends');
    } finally {
      await lock.release();
    }
  }

  /** SIGTERM and SIGINT: ignored while something is attached, because ending would turn its I/O into errors. */
  onSignal(name: string): void {
    if (!this.#spec) return this.#leave();
    this.#options.logger.warn({ signal: name }, 'signal ignored: a volume is attached; detach ends the holder');
  }

  #answer(request: ControlRequest): Promise<object> {
    if (request.op === 'status') return this.#status();
    const result = this.#queue.then((): Promise<object> => {
      switch (request.op) {
        case 'open':
          return this.#open(request);
        case 'grow':
          return this.#grow(request.sizeBytes);
        case 'detach':
          return this.#detach(request.force);
      }
    });
    this.#queue = result.catch(() => {});
    return result;
  }

  get #state(): AttachState {
    if (this.#detaching) return 'detaching';
    if (this.#failed !== '') return 'failed';
    if (!this.#device || this.#device.devicePath === '') return 'opening';
    return this.#keeper?.connected ? 'attached' : 'reconnecting';
  }

  async #status(): Promise<AttachStatus> {
    const counters = (await this.#device?.counters()) ?? {};
    return {
      kind: this.#device?.kind ?? 'fuse-loop',
      volumeId: this.#options.volumeId,
      state: this.#state,
      devicePath: this.#device?.devicePath ?? '',
      sizeBytes: this.#device?.sizeBytes ?? 0,
      readOnly: this.#spec?.readOnly ?? false,
      pid: process.pid,
      bridgePid: this.#device?.bridgePid ?? 0,
      reconnects: this.#keeper?.reconnects ?? 0,
      respawns: this.#device?.respawns ?? 0,
      lastError: this.#failed || (this.#keeper?.lastError ?? ''),
      counters,
    };
  }

  #attached(device: HeldDevice): AttachedDevice {
    return {
      kind: device.kind,
      volumeId: this.#options.volumeId,
      devicePath: device.devicePath,
      sizeBytes: device.sizeBytes,
      readOnly: this.#spec?.readOnly ?? false,
      pid: process.pid,
    };
  }

  async #open(spec: AttachSpec): Promise<AttachedDevice> {
    const { volumeId } = this.#options;
    if (spec.volumeId !== volumeId) {
      throw new HoldfastError('INVALID_ARGUMENT', `this holder is volume ${volumeId}'s, not ${spec.volumeId}'s`);
    }
    if (!this.#spec) return this.#setUp(spec);
    const same = sameKey(this.#spec.key, spec.key);
    spec.key?.fill(0);
    if (this.#detaching)
      throw new HoldfastError('ABORTED', `volume ${volumeId} is being detached: detach it fully first`);
    if (this.#failed !== '') throw precondition(this.#failed, 'StaleReign');
    if (!same) throw precondition(`volume ${volumeId} is attached with another key: detach it first`, 'WrongKey');
    if (this.#spec.readOnly !== spec.readOnly) {
      const mode = this.#spec.readOnly ? 'read-only' : 'writable';
      throw new HoldfastError('ALREADY_EXISTS', `volume ${volumeId} is attached ${mode}: detach it first`, {
        reason: 'Conflict',
      });
    }
    return this.#attached(this.#device!);
  }

  async #setUp(spec: AttachSpec): Promise<AttachedDevice> {
    const { clock, logger, volumeId, source } = this.#options;
    this.#spec = spec;
    const keeper = new ExportKeeper({
      source,
      clock,
      logger,
      volumeId,
      key: spec.key,
      readOnly: spec.readOnly,
      onOpened: (address) => this.#device?.moveTo(address),
      onDeposed: (error) => this.#fail(`volume ${volumeId} is another node's now: ${error.message}`),
    });
    this.#keeper = keeper;
    let device: HeldDevice | undefined;
    try {
      device = await this.#makeDevice(spec, keeper);
      this.#device = device;
      await device.setUp(keeper.openFirst(firstOpenPatienceMs), () => this.#waitConnected());
      logger.info({ device: device.devicePath, kind: device.kind, sizeBytes: device.sizeBytes }, 'attached');
      return this.#attached(device);
    } catch (error) {
      // Nothing has been written through this device: it can go without a flush. One of a former holder's stays, and so
      // does the engine behind it.
      logger.error({ reason: messageOf(error) }, 'attach failed');
      const stays = device?.inherited ?? false;
      if (stays && isDeposed(error)) {
        this.#fail(`volume ${volumeId} is another node's now: ${error.message}`);
        throw error;
      }
      this.#detaching = true;
      const undo = device?.undoSetUp(async () => keeper.stop());
      await undo?.catch((left) => logger.error({ reason: messageOf(left) }, 'cannot take the device down'));
      if (!stays) await this.#closeExport(1);
      this.#end();
      throw error;
    }
  }

  async #makeDevice(spec: AttachSpec, keeper: ExportKeeper): Promise<HeldDevice> {
    const { exec, clock, logger, volumeId, runDir, bridge, device, kernelNbd } = this.#options;
    const paths = attachPaths(runDir, volumeId);
    const onConnection = (connected: boolean, message: string) => {
      keeper.setConnected(connected, message);
      if (connected) this.#firstConnect?.();
    };
    const onBroken = (message: string) => {
      this.#fail(message);
      const aborted = this.#device?.abort();
      aborted?.catch((error) => logger.error({ reason: messageOf(error) }, 'connection cannot be aborted'));
    };
    const { identifier } = paths;
    const kernel = await chooseKernel(kernelNbd, device, identifier, logger);
    const common = { exec, clock, logger, onConnection, onBroken };
    if (!kernel) return new FuseLoopDevice({ ...common, paths, spec, bridge });
    return this.#kernelDevice(kernel, identifier, spec.readOnly, { onConnection, onBroken });
  }

  #kernelDevice(
    kernel: KernelNbd,
    identifier: string,
    readOnly: boolean,
    listeners: Pick<KernelNbdOptions, 'onConnection' | 'onBroken'>,
  ): KernelNbdDevice {
    const { exec, clock, logger, volumeId } = this.#options;
    return new KernelNbdDevice({ kernel, exec, clock, logger, identifier, clientId: volumeId, readOnly, ...listeners });
  }

  #waitConnected(): Promise<void> {
    if (this.#keeper?.connected) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const timer = this.#options.clock.after(firstConnectMs, () => {
        const why = this.#keeper?.lastError || 'no connection to the export';
        reject(new HoldfastError('UNAVAILABLE', `volume ${this.#options.volumeId} cannot be attached: ${why}`));
      });
      this.#firstConnect = () => {
        timer.cancel();
        this.#firstConnect = undefined;
        resolve();
      };
    });
  }

  #fail(message: string): void {
    if (this.#failed !== '') return;
    this.#failed = message;
    this.#options.logger.error({ reason: message }, 'failing all I/O');
    this.#device?.fail();
  }

  async #grow(sizeBytes: number): Promise<AttachedDevice> {
    const { volumeId } = this.#options;
    const device = this.#device;
    if (!device || device.devicePath === '') {
      throw new HoldfastError('NOT_FOUND', `volume ${volumeId} is not attached here`);
    }
    if (this.#detaching) throw new HoldfastError('ABORTED', `volume ${volumeId} is being detached`);
    if (this.#failed !== '') throw precondition(this.#failed, 'StaleReign');
    if (sizeBytes <= device.sizeBytes) return this.#attached(device);
    const address = await this.#keeper!.open();
    if (address.sizeBytes < sizeBytes) {
      throw precondition(
        `volume ${volumeId} has ${address.sizeBytes} bytes, not ${sizeBytes}: expand the volume first`,
      );
    }
    device.moveTo(address);
    await device.grow(address.sizeBytes);
    this.#options.logger.info({ sizeBytes: device.sizeBytes }, 'grown');
    return this.#attached(device);
  }

  async #detach(force: boolean): Promise<object> {
    const orphan = this.#spec ? undefined : await this.#inherit();
    try {
      await this.#letGo(force);
    } catch (error) {
      // A repeat finds it again.
      if (orphan) {
        await orphan.undoSetUp(async () => {});
        this.#device = undefined;
        this.#detaching = false;
        this.#failed = '';
      }
      throw error;
    }
    this.#options.logger.info({ volumeId: this.#options.volumeId }, 'detached');
    return {};
  }

  async #letGo(force: boolean): Promise<void> {
    const { exec, volumeId } = this.#options;
    const device = this.#device;
    if (device && device.devicePath !== '') {
      const [mounted] = await mountsUsing(exec, device.devicePath);
      if (mounted) {
        const text = `volume ${volumeId} is still mounted at ${mounted.target}: unmount it first`;
        throw new HoldfastError('FAILED_PRECONDITION', text, { reason: 'Busy' });
      }
      // Flushed while the device still is what it was: when that fails, nothing has been given up yet.
      if (force) this.#fail(`volume ${volumeId} is being detached by force`);
      else if (this.#failed === '') await this.#flush(device);
      this.#detaching = true;
    }
    await this.#takeDown(force ? 1 : closeTriesMax);
  }

  /** A detach without an open before it is about what a holder that was killed left. */
  async #inherit(): Promise<KernelNbdDevice | undefined> {
    const { runDir, volumeId, kernelNbd } = this.#options;
    const { identifier } = attachPaths(runDir, volumeId);
    const present = await kernelNbd.find(identifier);
    if (!present) return undefined;
    const listeners = { onConnection: () => {}, onBroken: () => {} };
    const device = this.#kernelDevice(await kernelNbd.open(), identifier, present.readOnly, listeners);
    device.inherit(present);
    this.#device = device;
    return device;
  }

  async #flush(device: HeldDevice): Promise<void> {
    try {
      await device.flush();
    } catch (error) {
      // Without its key nothing can connect an orphan again, so waiting for longer would not help it.
      if (!device.inherited) throw error;
      this.#options.logger.error({ reason: messageOf(error) }, 'what was not flushed before is lost');
    }
  }

  /** Device, export and key, then the process. Throws FAILED_PRECONDITION/Busy from the device; may be repeated. */
  async #takeDown(closeTries: number): Promise<void> {
    // Without I/O nobody needs the connection: what is heard of it from then on must not open the engine again.
    await this.#device?.tearDown(async () => this.#keeper?.stop());
    await this.#closeExport(closeTries);
    this.#end();
  }

  #end(): void {
    this.#spec?.key?.fill(0);
    this.#leave();
  }

  /** A daemon that is away has no engine open any more, and one that hangs is fenced by the next reign: go on. */
  async #closeExport(triesMax: number): Promise<void> {
    const { source, clock, logger, volumeId } = this.#options;
    for (let tries = 1; ; tries++) {
      try {
        return await source.close(volumeId);
      } catch (error) {
        if (tries >= triesMax || !(error instanceof HoldfastError) || error.code !== 'UNAVAILABLE') {
          return logger.warn({ reason: messageOf(error) }, 'the export was not closed; the next reign will fence it');
        }
      }
      await clock.sleep(closeDelayMs);
    }
  }
}

function sameKey(left: Buffer | null, right: Buffer | null): boolean {
  if (left === null || right === null) return left === right;
  return left.length === right.length && timingSafeEqual(left, right);
}
