// The device of one volume by the kernel's NBD driver: the kernel itself is the export's client, and this process is asked for
// only when its connection is lost. Owner: the holder, which is also the monitor of the connection.
//
//   none ─▶ linked ◀─▶ lost (I/O waits in the kernel, for at most deadTimeoutS)
//              │          │
//              └─▶ ended ◀┘   failed, or torn down
//
// Invariants
// - One device for a volume: what bears its identifier is taken over, never doubled. It outlives this process.
// - One connection, and one attempt at the next at a time. A new one is dialled when the old one is dead; its handshake makes the
//   server drop the old one and drain it (nbd/constants.ts, OPT_HOLDFAST_CLIENT), so no late write can land.
// - A connection counts when something was read over it: the driver drops a new one silently if it has not yet noticed
//   the death of the old.
// - Never given a smaller export than the device is: that would be another volume.
//
// Times. Requests have no limit of their own: a write may wait for a replica for long, and a connection that is cut for that
// would make reads wait, too. What was in flight when a connection died is looked at by the driver every lookMs: while the
// connection is lost it is put back (a limit is set for that time: without one each look would be a line in the kernel's log),
// and after a quick reconnect it is sent again. So that is what a restart costs beyond its own time. Where the interval can't
// be set, requests get a limit instead.

import { type Clock, HoldfastError, type Logger, messageOf, precondition } from '../../../base/index.js';
import type { Exec } from '../../exec.js';
import type { HeldDevice } from '../held-device.js';
import type { ExportAddress } from '../port.js';
import type { KernelDevice, KernelNbd, OpenDevice, ReadySocket } from './port.js';

export interface KernelNbdOptions {
  readonly kernel: KernelNbd;
  readonly exec: Exec;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The kernel's name for it: attachPaths().identifier. */
  readonly identifier: string;
  /** Names the device to the server, over all its connections. */
  readonly clientId: string;
  readonly readOnly: boolean;
  readonly onConnection: (connected: boolean, message: string) => void;
  readonly onBroken: (message: string) => void;
}

const blockBytes = 4096;
/** NBD transmission flag: the device is to be read-only whatever the export is. */
const readOnlyFlag = 1 << 1;
/** Longer than any restart, an image that has to be pulled first included; bounded so that a node from which all of Holdfast has gone gets its processes back. */
export const deadTimeoutS = 3_600;
export const lookMs = 1_000;
/** Where the driver can't be told how often to look: above the latency of any healthy request. */
const fallbackLimitS = 10;
const lostLimitS = 1;
const dialDelayMs = 100;
/** A death that is told this soon after a new connection may be that of the one before it. */
const staleNewsMs = 2_000;
/** How long a connection that may be alive has to prove it. */
const proofMs = 1_000;
/** No healthy read takes this long. */
const unansweredMs = 30_000;
const askDelayMs = 1_000;
const holdPatienceMs = 1_000;
const flushTimeoutMs = 60_000;
const endTriesMax = 50;
const endDelayMs = 100;

export class KernelNbdDevice implements HeldDevice {
  readonly kind = 'kernel-nbd';
  readonly bridgePid = 0;
  readonly respawns = 0;
  readonly #options: KernelNbdOptions;
  readonly #stop = new AbortController();
  #device: KernelDevice | undefined;
  #inherited = false;
  #address: ExportAddress | undefined;
  #socket: ReadySocket | undefined;
  #link: 'linked' | 'lost' = 'lost';
  #linkedAtMs = 0;
  #deathsHeard = 0;
  #relinking = false;
  /** Of requests while there is a connection, in seconds; 0: none. */
  #limitS = 0;
  #reading: Promise<boolean> | undefined;
  #ending: Promise<void> | undefined;
  #hold: OpenDevice | undefined;

  constructor(options: KernelNbdOptions) {
    this.#options = options;
    options.kernel.onLinkDead((index) => this.#heardOfDeath(index));
  }

  get devicePath(): string {
    return this.#device?.devicePath ?? '';
  }

  get sizeBytes(): number {
    return this.#device?.sizeBytes ?? 0;
  }

  get inherited(): boolean {
    return this.#inherited;
  }

  async counters(): Promise<Readonly<Record<string, number>>> {
    return this.#device ? this.#options.kernel.counters(this.#device) : {};
  }

  /** Takes over what a holder that is dead left, for a detach: without an export nothing can be connected again. */
  inherit(device: KernelDevice): void {
    this.#device = device;
    this.#inherited = true;
  }

  async setUp(opening: Promise<ExportAddress>, connected: () => Promise<void>): Promise<void> {
    const { kernel, identifier } = this.#options;
    opening.catch(() => {});
    const present = await kernel.find(identifier);
    if (present) this.inherit(present);
    const address = await opening;
    this.#address = address;
    if (present) await this.#takeOver(present, address);
    else await this.#make(address);
    await connected();
    // From here on it is ours to take down.
    this.#inherited = false;
  }

  async #make(address: ExportAddress): Promise<void> {
    const { kernel, identifier, clientId, readOnly, logger } = this.#options;
    const socket = await kernel.dial(address, clientId, this.#stop.signal);
    this.#socket = socket;
    this.#device = await kernel.connect(socket, {
      identifier,
      sizeBytes: socket.sizeBytes,
      blockBytes,
      serverFlags: readOnly ? socket.flags | readOnlyFlag : socket.flags,
      timeoutS: 0,
      deadTimeoutS,
    });
    logger.info({ device: this.#device.devicePath }, 'kernel nbd device made');
    this.#linked();
    await this.#setLook(this.#device);
    this.#prove();
  }

  async #takeOver(device: KernelDevice, address: ExportAddress): Promise<void> {
    const { kernel, identifier, readOnly, logger } = this.#options;
    const { index, devicePath } = device;
    if (device.readOnly !== readOnly) {
      const text = `${devicePath} is attached ${device.readOnly ? 'read-only' : 'writable'}: detach it first`;
      throw new HoldfastError('ALREADY_EXISTS', text, { reason: 'Conflict' });
    }
    if (address.sizeBytes < device.sizeBytes) throw smaller(device, address.sizeBytes);
    try {
      // The former holder may have died while it had set a limit.
      await kernel.reconfigure(index, { identifier, deadTimeoutS, timeoutS: 0 });
    } catch (error) {
      if (!isClosed(error)) throw error;
      throw precondition(`${devicePath} was disconnected and is still in use: unmount it first`, 'Busy');
    }
    logger.info({ device: devicePath }, 'kernel nbd device of a former holder taken over');
    // Its connection may be well; cutting it for nothing would be a pause for its users.
    this.#linked();
    if (await this.#proven()) await this.#setLook(device);
    else this.#lost('the connection of the former holder is dead');
  }

  /** The driver sets an interval of its own with each limit. */
  async #setLook(device: KernelDevice): Promise<void> {
    const { kernel, identifier, logger } = this.#options;
    if (this.#limitS !== 0 || (await kernel.lookEvery(device, lookMs))) return;
    logger.warn(
      { seconds: fallbackLimitS },
      '/sys is not writable: a restart of the storage daemon pauses I/O for longer',
    );
    this.#limitS = fallbackLimitS;
    await kernel.reconfigure(device.index, { identifier, timeoutS: fallbackLimitS });
  }

  moveTo(address: ExportAddress): void {
    this.#address = address;
    if (this.#link === 'lost') void this.#relink();
    // The export is open, and for long nothing was read of it: whatever went unnoticed, a new connection settles it.
    else if (this.#reading && this.#linkAgeMs > unansweredMs) this.#lost('the connection answers nothing');
  }

  // --- the monitor

  #heardOfDeath(index: number | undefined): void {
    if (!this.#device || this.#ended || (index !== undefined && index !== this.#device.index)) return;
    this.#deathsHeard++;
    if (this.#link === 'lost') return;
    if (index !== undefined && this.#linkAgeMs >= staleNewsMs)
      return this.#lost('the connection to the storage daemon was lost');
    const since = this.#linkedAtMs;
    void this.#proven().then((proven) => {
      if (!proven && !this.#ended && this.#link === 'linked' && since === this.#linkedAtMs) {
        this.#lost('the connection to the storage daemon was lost');
      }
    });
  }

  get #linkAgeMs(): number {
    return this.#options.clock.monotonicMs() - this.#linkedAtMs;
  }

  get #ended(): boolean {
    return this.#stop.signal.aborted;
  }

  #linked(): void {
    this.#link = 'linked';
    this.#linkedAtMs = this.#options.clock.monotonicMs();
  }

  #lost(why: string): void {
    const { kernel, identifier, logger, onConnection } = this.#options;
    this.#link = 'lost';
    onConnection(false, why);
    // Sent before anything that #relink() sends.
    kernel.reconfigure(this.#device!.index, { identifier, timeoutS: lostLimitS }).catch((error) => {
      logger.warn({ reason: messageOf(error) }, 'requests in flight cannot be put back');
    });
    // Answered by the next connection, or with an error when the kernel gives up waiting for one.
    this.#prove();
    void this.#relink();
  }

  /** Dials until there is a connection. The address may change under way. */
  async #relink(): Promise<void> {
    const { clock, logger } = this.#options;
    if (this.#relinking || this.#address === undefined) return;
    this.#relinking = true;
    let said = '';
    while (this.#link === 'lost' && !this.#ended) {
      try {
        await this.#relinkOnce(this.#address);
      } catch (error) {
        if (this.#ended) break;
        if (isClosed(error)) {
          this.fail();
          this.#options.onBroken(`${this.devicePath} was disconnected by somebody else`);
          break;
        }
        const reason = messageOf(error);
        if (reason !== said) logger.warn({ reason }, 'no new connection yet');
        said = reason;
        this.#options.onConnection(false, reason);
        await clock.sleep(dialDelayMs, this.#stop.signal).catch(() => {});
      }
    }
    this.#relinking = false;
  }

  async #relinkOnce(address: ExportAddress): Promise<void> {
    const { kernel, identifier, clientId, logger } = this.#options;
    const device = this.#device!;
    const socket = await kernel.dial(address, clientId, this.#stop.signal);
    const heardBefore = this.#deathsHeard;
    try {
      if (socket.sizeBytes < device.sizeBytes) throw smaller(device, socket.sizeBytes);
      await kernel.reconfigure(device.index, { identifier, socket, timeoutS: this.#limitS });
    } catch (error) {
      socket.release();
      throw error;
    }
    if (this.#ended) return socket.release();
    this.#socket?.release();
    this.#socket = socket;
    this.#linked();
    logger.info({ device: device.devicePath }, 'connected again');
    this.#prove();
    this.#setLook(device).catch((error) => logger.warn({ reason: messageOf(error) }, 'no interval could be set'));
    // It may have been this one that died, before the driver's answer was read here.
    if (this.#deathsHeard !== heardBefore) this.#heardOfDeath(device.index);
  }

  /** Has something read, unless that is under way, and says when it was answered. */
  #prove(): void {
    void this.#read().then((answered) => {
      if (this.#ended) return;
      if (this.#link === 'linked') this.#options.onConnection(true, '');
      else if (!answered) {
        this.fail();
        this.#options.onBroken(
          `the kernel waited ${deadTimeoutS} s for the storage daemon and gave ${this.devicePath} up`,
        );
      }
    });
  }

  /** False when the answer was an error: the export's own on a connection that stands, the kernel's where there is none. */
  #read(): Promise<boolean> {
    this.#reading ??= this.#ask().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #ask(): Promise<boolean> {
    const { kernel, clock, logger } = this.#options;
    for (;;) {
      try {
        return await kernel.read(this.#device!);
      } catch (error) {
        if (this.#ended) return false;
        logger.warn({ reason: messageOf(error) }, 'the device cannot be asked for an answer');
      }
      await clock.sleep(askDelayMs, this.#stop.signal).catch(() => {});
    }
  }

  /** Whether a read is answered soon. One of its own: what was asked before may have been answered before, too. */
  async #proven(): Promise<boolean> {
    const waiting = new AbortController();
    const patience = this.#options.clock.sleep(proofMs, waiting.signal).then(
      () => false,
      () => false,
    );
    const answered = await Promise.race([this.#ask().then(() => true), patience]);
    waiting.abort();
    if (answered && !this.#ended && this.#link === 'linked') this.#options.onConnection(true, '');
    return answered;
  }

  // --- the end

  fail(): void {
    this.#end().catch((error) => {
      this.#options.logger.error({ reason: messageOf(error) }, 'the kernel device cannot be disconnected');
    });
  }

  async abort(): Promise<void> {
    this.fail();
  }

  /** Disconnects, so that all I/O fails at once. The device stays open here: its number must not become another volume's. */
  #end(): Promise<void> {
    this.#stop.abort();
    if (!this.#device) return Promise.resolve();
    this.#ending ??= this.#disconnect(this.#device).catch((error) => {
      this.#ending = undefined;
      throw error;
    });
    return this.#ending;
  }

  async #disconnect(device: KernelDevice): Promise<void> {
    const { kernel, identifier, clock } = this.#options;
    // A daemon that hangs with a full socket would block the command, too.
    this.#socket?.cut();
    const opening = kernel.open(device).then(async (hold) => {
      if (this.#hold) await hold.close();
      else this.#hold = hold;
    });
    await Promise.race([opening.catch(() => {}), clock.sleep(holdPatienceMs)]);
    await kernel.disconnect(device.index, identifier);
  }

  async grow(sizeBytes: number): Promise<void> {
    const { kernel, identifier } = this.#options;
    const device = this.#device!;
    await kernel.reconfigure(device.index, { identifier, sizeBytes });
    const grown = await kernel.find(identifier);
    if (grown?.sizeBytes !== sizeBytes) {
      throw new HoldfastError('UNAVAILABLE', `${device.devicePath} does not show ${sizeBytes} bytes yet: try again`);
    }
    this.#device = grown;
  }

  async flush(): Promise<void> {
    if (this.#device) await this.#options.exec.run('sync', [this.devicePath], { timeoutMs: flushTimeoutMs });
  }

  async undoSetUp(unused: () => Promise<void>): Promise<void> {
    if (!this.#inherited) return this.tearDown(unused);
    await unused();
    this.#letGo();
  }

  async tearDown(unused: () => Promise<void>): Promise<void> {
    const { kernel, identifier } = this.#options;
    const device = this.#device;
    if (device && (await kernel.find(identifier))?.index === device.index) {
      const claim = await kernel.claim(device);
      try {
        await unused();
        await this.#end();
      } finally {
        await claim.close();
      }
      await this.#hold?.close();
      this.#hold = undefined;
      await this.#gone(device);
    } else {
      await unused();
      await this.#hold?.close();
    }
    this.#device = undefined;
    this.#letGo();
  }

  #letGo(): void {
    this.#stop.abort();
    this.#socket?.release();
    this.#socket = undefined;
    this.#options.kernel.close();
  }

  async #gone(device: KernelDevice): Promise<void> {
    const { kernel, identifier, clock } = this.#options;
    for (let attempt = 1; await kernel.isConfigured(device.index); attempt++) {
      // Another identifier: the number has been given to another volume meanwhile.
      if ((await kernel.find(identifier))?.index !== device.index) return;
      if (attempt >= endTriesMax) {
        const text = `${device.devicePath} is still open: end the programs that use it`;
        throw new HoldfastError('FAILED_PRECONDITION', text, { reason: 'Busy' });
      }
      await clock.sleep(endDelayMs);
    }
  }
}

/** The driver does not know the device any more. */
function isClosed(error: unknown): boolean {
  return error instanceof HoldfastError && error.code === 'FAILED_PRECONDITION' && error.reason === 'Closed';
}

function smaller(device: KernelDevice, sizeBytes: number): HoldfastError {
  const text = `the export has ${sizeBytes} bytes and ${device.devicePath} has ${device.sizeBytes}`;
  return precondition(`${text}: it is another volume; it is not connected`);
}
