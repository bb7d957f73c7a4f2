// A kernel with an nbd driver, as the holder sees it: devices that live on by themselves, connections that die, the driver's
// habit of dropping a new connection without a word while the old one is not known to be dead.

import { HoldfastError } from '../../../../src/base/index.js';
import type {
  ConnectOptions,
  KernelDevice,
  KernelNbd,
  OpenDevice,
  ReadySocket,
  ReconfigureOptions,
} from '../../../../src/platform/attach/kernel-nbd/port.js';
import type { ExportAddress } from '../../../../src/platform/index.js';

export interface FakeDevice {
  identifier: string;
  sizeBytes: number;
  readOnly: boolean;
  options: ConnectOptions;
  /** The connection that the driver uses; dead once it knows. */
  socket: FakeSocket;
  dead: boolean;
  connected: boolean;
  openers: number;
  waiting: ((answered: boolean) => void)[];
  limits: { timeoutS: number; deadTimeoutS: number; lookMs: number };
  sendLimitS: number;
}

export interface FakeSocket extends ReadySocket {
  readonly serial: number;
  alive: boolean;
  released: boolean;
}

export class FakeKernel {
  readonly devices = new Map<number, FakeDevice>();
  readonly dials: { clientId: string; socketPath: string }[] = [];
  readonly log: string[] = [];
  exportBytes = 64 << 20;
  /** Answers dials; rejects while the daemon is away. */
  daemon: 'up' | 'away' | 'silent' = 'up';
  mounted = false;
  sysWritable = true;
  /** The export answers reads with an error. */
  readErrors = false;
  /** Called when the driver has taken a new connection, before its holder hears of it. */
  reconnected: () => void = () => {};
  /** Nothing can be asked. */
  noReads = false;
  /** The driver hears of the death of a connection that the server dropped only when told(). */
  slowToNotice = false;
  #sockets = 0;
  #listeners: ((index: number | undefined) => void)[] = [];

  /** The port as one holder has it; a holder that is killed is simply forgotten. */
  port(): KernelNbd {
    let heard: (index: number | undefined) => void = () => {};
    const listener = (index: number | undefined) => heard(index);
    this.#listeners.push(listener);
    return {
      find: async (identifier) => this.#find(identifier),
      dial: (address, clientId, signal) => this.#dial(address, clientId, signal),
      connect: async (socket, options) => this.#connect(socket as FakeSocket, options),
      reconfigure: async (index, options) => this.#reconfigure(index, options),
      disconnect: async (index, identifier) => this.#disconnect(index, identifier),
      isConfigured: async (index) => this.devices.has(index),
      lookEvery: async ({ index }, ms) => {
        if (this.sysWritable) this.devices.get(index)!.limits.lookMs = ms;
        return this.sysWritable;
      },
      read: ({ index }) => this.#read(index),
      open: async ({ index }) => this.#open(index),
      claim: async ({ index }) => {
        if (this.mounted) throw new HoldfastError('FAILED_PRECONDITION', 'mounted', { reason: 'Busy' });
        return this.#open(index);
      },
      counters: async () => ({ reads: 1 }),
      onLinkDead: (next) => {
        heard = next;
      },
      close: () => {
        this.log.push('closed');
        this.#listeners = this.#listeners.filter((one) => one !== listener);
      },
    };
  }

  /** The daemon dies: the driver notices. */
  killDaemon(): void {
    this.daemon = 'away';
    for (const [index, device] of this.devices) this.#drop(index, device);
  }

  /** News of the death of a device's connection. */
  told(index: number | undefined): void {
    for (const listener of [...this.#listeners]) listener(index);
  }

  /** The driver waited for a connection for as long as it was told to. */
  giveUp(index: number): void {
    const device = this.devices.get(index)!;
    for (const answer of device.waiting.splice(0)) answer(false);
  }

  #find(identifier: string): KernelDevice | undefined {
    for (const [index, device] of this.devices) {
      if (device.identifier === identifier) return described(index, device);
    }
    return undefined;
  }

  async #dial(address: ExportAddress, clientId: string, signal: AbortSignal): Promise<ReadySocket> {
    this.dials.push({ clientId, socketPath: address.socketPath });
    if (this.daemon === 'away') throw new HoldfastError('UNAVAILABLE', 'nobody listens');
    if (this.daemon === 'silent') {
      return new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(new HoldfastError('CANCELLED', 'stopped')));
      });
    }
    const serial = ++this.#sockets;
    // The server drops older connections of this client.
    for (const [index, device] of this.devices) {
      if (!device.socket.alive) continue;
      device.socket.alive = false;
      if (!this.slowToNotice) this.#drop(index, device);
    }
    const socket: FakeSocket = {
      serial,
      alive: true,
      released: false,
      descriptor: 10 + serial,
      sizeBytes: this.exportBytes,
      flags: 0x16d,
      cut: () => {
        this.log.push(`cut ${serial}`);
      },
      release: () => {
        socket.released = true;
      },
    };
    return socket;
  }

  #drop(index: number, device: FakeDevice): void {
    device.socket.alive = false;
    if (device.dead || !device.connected) return;
    device.dead = true;
    this.told(index);
  }

  /** The driver hears at last that the connection it uses is dead. */
  notice(index: number): void {
    this.#drop(index, this.devices.get(index)!);
  }

  #connect(socket: FakeSocket, options: ConnectOptions): KernelDevice {
    let index = 0;
    while (this.devices.has(index)) index++;
    const device: FakeDevice = {
      identifier: options.identifier,
      sizeBytes: options.sizeBytes,
      readOnly: (options.serverFlags & 2) !== 0,
      options,
      socket,
      dead: false,
      connected: true,
      openers: 0,
      waiting: [],
      limits: { timeoutS: options.timeoutS, deadTimeoutS: options.deadTimeoutS, lookMs: 30_000 },
      sendLimitS: options.timeoutS,
    };
    this.devices.set(index, device);
    return described(index, device);
  }

  #reconfigure(index: number, options: ReconfigureOptions): void {
    const device = this.devices.get(index);
    if (!device?.connected || device.identifier !== options.identifier) {
      throw new HoldfastError('FAILED_PRECONDITION', 'not configured', { reason: 'Closed' });
    }
    if (options.sizeBytes !== undefined) device.sizeBytes = options.sizeBytes;
    if (options.timeoutS !== undefined) {
      this.log.push(`limit ${options.timeoutS}`);
      device.limits.timeoutS = options.timeoutS;
      device.limits.lookMs = 30_000;
    }
    if (options.deadTimeoutS !== undefined) device.limits.deadTimeoutS = options.deadTimeoutS;
    if (options.socket === undefined || !device.dead) return;
    device.socket = options.socket as FakeSocket;
    // As the driver does: how long a blocked send may take is settled when a connection comes.
    device.sendLimitS = device.limits.timeoutS;
    device.dead = false;
    this.log.push(`reconnected ${device.socket.serial}`);
    for (const answer of device.waiting.splice(0)) answer(true);
    this.reconnected();
  }

  #disconnect(index: number, identifier: string): void {
    const device = this.devices.get(index);
    if (device?.identifier !== identifier) return;
    this.log.push(`disconnected ${index}`);
    device.connected = false;
    for (const answer of device.waiting.splice(0)) answer(false);
    this.#gone(index, device);
  }

  #gone(index: number, device: FakeDevice): void {
    if (!device.connected && device.openers === 0) this.devices.delete(index);
  }

  #read(index: number): Promise<boolean> {
    if (this.noReads) return Promise.reject(new Error('no processes left'));
    const device = this.devices.get(index);
    if (!device?.connected) return Promise.resolve(false);
    if (!device.dead && device.socket.alive) return Promise.resolve(!this.readErrors);
    return new Promise((resolve) => device.waiting.push(resolve));
  }

  #open(index: number): OpenDevice {
    const device = this.devices.get(index);
    if (device) device.openers++;
    return {
      close: async () => {
        if (!device) return;
        device.openers--;
        this.#gone(index, device);
      },
    };
  }
}

function described(index: number, { sizeBytes, readOnly }: FakeDevice): KernelDevice {
  return { index, devicePath: `/dev/nbd${index}`, sizeBytes, readOnly };
}
