// The driver's netlink interface: requests answered one by one, and the multicast group that tells of connections that died.
// Owner: kernel.ts, one a process. The kernel works on a request while it is sent, so what it answers is there at once; the
// bound on waiting is for answers that were lost (a full receive queue).

import { constants, endianness } from 'node:os';
import { getSystemErrorName } from 'node:util';
import {
  type Clock,
  HoldfastError,
  type Logger,
  messageOf,
  precondition,
  type TimerHandle,
} from '../../../base/index.js';
import type { SocketHub } from './handover.js';
import {
  decodeDatagram,
  decodeError,
  decodeFamily,
  decodeIndex,
  decodeStatus,
  encodeGetFamily,
  encodeNbd,
  familyMin,
  messageError,
  type NbdFields,
  type NetlinkMessage,
  nbdCommand,
  nbdFamilyName,
  nbdGroupName,
} from './netlink-codec.js';

const genericNetlink = 16;
const datagramBytes = 64 * 1024;
const answerTimeoutMs = 10_000;
/** Datagrams taken in a row before other events get their turn. */
const datagramsMax = 64;

/** The kernel's refusal of a request. */
export class NetlinkRefusal extends Error {
  override readonly name = 'NetlinkRefusal';
  /** For example EINVAL. */
  readonly code: string;

  constructor(what: string, negative: number) {
    const code = getSystemErrorName(negative);
    super(`${what}: ${code}`);
    this.code = code;
  }
}

interface Waiting {
  readonly what: string;
  readonly replies: Buffer[];
  readonly end: (error: Error | null) => void;
}

export class NetlinkNbd {
  readonly #hub: SocketHub;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #socket: number;
  readonly #waiting = new Map<number, Waiting>();
  readonly #bytes = Buffer.alloc(datagramBytes);
  #sequence = 0;
  #family = 0;
  #linkDead: (index: number | undefined) => void = () => {};

  /** Throws FAILED_PRECONDITION where there is no generic netlink. */
  constructor(hub: SocketHub, clock: Clock, logger: Logger) {
    if (endianness() !== 'LE') throw precondition('this machine is big-endian');
    this.#hub = hub;
    this.#clock = clock;
    this.#logger = logger;
    this.#socket = hub.sockets.openNetlink(genericNetlink);
    if (this.#socket < 0) throw precondition(`no generic netlink: ${getSystemErrorName(this.#socket)}`);
    this.#watch();
  }

  #watch(): void {
    this.#hub.watch(this.#socket, (broken) => {
      this.#receive();
      // A full queue is an error that passes once it was received.
      if (broken) this.#watch();
    });
  }

  /** Finds the driver and begins to listen to it. False when it is not loaded (or not for this network namespace). */
  async open(): Promise<boolean> {
    let replies: Buffer[];
    try {
      replies = await this.#ask('looking for the driver', (sequence) => encodeGetFamily(sequence, nbdFamilyName));
    } catch (error) {
      if (error instanceof NetlinkRefusal && error.code === 'ENOENT') return false;
      throw error;
    }
    if (replies[0] === undefined) throw precondition('the kernel did not describe the nbd driver');
    const { family, group } = decodeFamily(replies[0], nbdGroupName);
    const status = this.#hub.sockets.joinGroup(this.#socket, group);
    if (status < 0) throw precondition(`can't listen to the nbd driver: ${getSystemErrorName(status)}`);
    this.#family = family;
    return true;
  }

  onLinkDead(listener: (index: number | undefined) => void): void {
    this.#linkDead = listener;
  }

  /** The number of the new device. */
  async connect(fields: NbdFields): Promise<number> {
    const [reply] = await this.#command('connecting a device', nbdCommand.connect, fields);
    if (reply === undefined) throw new HoldfastError('INTERNAL', 'the kernel made an nbd device and did not name it');
    return decodeIndex(reply);
  }

  async reconfigure(fields: NbdFields): Promise<void> {
    await this.#command(`changing nbd${fields.index}`, nbdCommand.reconfigure, fields);
  }

  async disconnect(index: number): Promise<void> {
    await this.#command(`disconnecting nbd${index}`, nbdCommand.disconnect, { index });
  }

  async isConnected(index: number): Promise<boolean> {
    const replies = await this.#command(`asking for nbd${index}`, nbdCommand.status, { index });
    return replies.flatMap(decodeStatus).some((one) => one.index === index && one.connected);
  }

  close(): void {
    this.#hub.close(this.#socket);
    for (const waiting of [...this.#waiting.values()]) waiting.end(precondition('netlink was closed'));
  }

  #command(what: string, command: number, fields: NbdFields): Promise<Buffer[]> {
    return this.#ask(what, (sequence) => encodeNbd(this.#family, command, sequence, fields));
  }

  /** Payloads of what the kernel answered before its acknowledgement. Rejects with a NetlinkRefusal. */
  #ask(what: string, encode: (sequence: number) => Buffer): Promise<Buffer[]> {
    this.#sequence = (this.#sequence + 1) >>> 0 || 1;
    const sequence = this.#sequence;
    const bytes = encode(sequence);
    return new Promise((resolve, reject) => {
      const replies: Buffer[] = [];
      let timer: TimerHandle | undefined;
      const end = (error: Error | null) => {
        timer?.cancel();
        this.#waiting.delete(sequence);
        if (error === null) resolve(replies);
        else reject(error);
      };
      this.#waiting.set(sequence, { what, replies, end });
      timer = this.#clock.after(answerTimeoutMs, () => {
        const text = `${what}: the kernel did not answer within ${answerTimeoutMs} ms`;
        end(new HoldfastError('DEADLINE_EXCEEDED', text, { reason: 'Deadline' }));
      });
      const sent = this.#hub.sockets.send(this.#socket, bytes, 0, bytes.length);
      if (sent !== bytes.length) end(new NetlinkRefusal(what, sent < 0 ? sent : -constants.errno.EIO));
    });
  }

  #receive(): void {
    for (let taken = 0; taken < datagramsMax; taken++) {
      const length = this.#hub.sockets.receive(this.#socket, this.#bytes, 0, this.#bytes.length);
      if (length <= 0) {
        const code = length < 0 ? getSystemErrorName(length) : 'EAGAIN';
        if (code === 'EAGAIN') return;
        // ENOBUFS: the queue was full, and what did not fit is lost.
        this.#logger.warn({ code }, 'netlink messages were lost');
        this.#linkDead(undefined);
        if (code === 'ENOBUFS') continue;
        return;
      }
      try {
        for (const message of decodeDatagram(Buffer.from(this.#bytes.subarray(0, length)))) this.#take(message);
      } catch (error) {
        this.#logger.error({ reason: messageOf(error) }, 'netlink message ignored');
      }
    }
  }

  #take(message: NetlinkMessage): void {
    const waiting = this.#waiting.get(message.sequence);
    if (message.type === messageError) {
      const result = decodeError(message.payload);
      waiting?.end(result === 0 ? null : new NetlinkRefusal(waiting.what, result));
    } else if (message.type === this.#family && message.command === nbdCommand.linkDead) {
      this.#linkDead(decodeIndex(message.payload));
    } else if (message.type >= familyMin) {
      waiting?.replies.push(message.payload);
    }
  }
}
