// The conversation with the driver, against a kernel that answers as told: in time, late, wrongly, or not at all.

import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../../src/base/index.js';
import type { NativeNet, NativeSockets } from '../../../../src/hotpath/index.js';
import { SocketHub } from '../../../../src/platform/attach/kernel-nbd/handover.js';
import { NetlinkNbd } from '../../../../src/platform/attach/kernel-nbd/netlink-nbd.js';
import { ManualClock } from '../../nbd/manual-clock.js';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const { EAGAIN, EINVAL, ENOBUFS, ENOENT } = constants.errno;

function le32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

function message(type: number, sequence: number, body: Buffer): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(16 + body.length, 0);
  head.writeUInt16LE(type, 4);
  head.writeUInt32LE(sequence, 8);
  return Buffer.concat([head, body]);
}

const acknowledge = (sequence: number, errno = 0) =>
  message(2, sequence, Buffer.concat([le32(-errno), Buffer.alloc(16)]));
const nbd = (sequence: number, command: number, attributes: string) =>
  message(0x1d, sequence, Buffer.concat([Buffer.of(command, 1, 0, 0), hex(attributes)]));
const family = (sequence: number) =>
  message(
    0x10,
    sequence,
    hex(
      '01020000 0600 0100 1d00 0000 2400 0780 2000 0100 0800 0200 09000000 1100 0100 6e62645f6d635f67726f757000 000000',
    ),
  );

function kernel() {
  const clock = new ManualClock();
  const sent: Buffer[] = [];
  const inbox: (Buffer | number)[] = [];
  const groups: number[] = [];
  const state = { answer: (_sequence: number, _bytes: Buffer): (Buffer | number)[] => [], closed: 0 };
  let ready: (id: number, events: number) => void = () => {};
  let watched = false;
  const tell = (...what: (Buffer | number)[]) => {
    inbox.push(...what);
    if (watched) ready(1, 1);
  };
  /** The queue is full: the system reports an error, and looks no more until it is asked to. */
  const overflow = () => {
    watched = false;
    inbox.push(-ENOBUFS);
    ready(1, 4);
  };
  const sockets = {
    openNetlink: (protocol: number) => (protocol === 16 ? 1 : -EINVAL),
    joinGroup: (_id: number, group: number) => groups.push(group) - 1 && 0,
    watch: (_id: number, events: number) => {
      watched = events === 1;
      return 0;
    },
    close: () => ++state.closed,
    send: (_id: number, bytes: Uint8Array, from: number, to: number) => {
      const copy = Buffer.from(bytes.subarray(from, to));
      sent.push(copy);
      inbox.push(...state.answer(copy.readUInt32LE(8), copy));
      setImmediate(() => ready(1, 1));
      return to - from;
    },
    receive: (_id: number, bytes: Uint8Array) => {
      const next = inbox.shift() ?? -EAGAIN;
      if (typeof next === 'number') return next;
      bytes.set(next);
      return next.length;
    },
  } as unknown as NativeSockets;
  const net: NativeNet = {
    openNet: (listener) => {
      ready = listener;
      return sockets;
    },
  };
  const netlink = new NetlinkNbd(new SocketHub(net), clock, silentLogger);
  const opened = async () => {
    state.answer = (sequence) => [family(sequence), acknowledge(sequence)];
    expect(await netlink.open()).toBe(true);
    return netlink;
  };
  return { clock, netlink, state, sent, groups, tell, overflow, opened };
}

describe('netlink to the driver', () => {
  it('finds the driver and joins its group; a kernel without it is an answer', async () => {
    const one = kernel();
    await one.opened();
    expect(one.groups).toEqual([9]);
    const other = kernel();
    other.state.answer = (sequence) => [acknowledge(sequence, ENOENT)];
    expect(await other.netlink.open()).toBe(false);
    expect(other.groups).toEqual([]);
  });

  it('takes the number of a new device from the reply, in whatever datagrams it comes', async () => {
    const { opened, state } = kernel();
    const netlink = await opened();
    state.answer = (sequence) => [nbd(sequence, 1, '0800 0100 05000000'), acknowledge(sequence)];
    expect(await netlink.connect({ sizeBytes: 4096 })).toBe(5);
    state.answer = (sequence) => [Buffer.concat([nbd(sequence, 1, '0800 0100 06000000'), acknowledge(sequence)])];
    expect(await netlink.connect({ sizeBytes: 4096 })).toBe(6);
    state.answer = (sequence) => [acknowledge(sequence)];
    await expect(netlink.connect({ sizeBytes: 4096 })).rejects.toThrow('did not name it');
  });

  it('says what was refused, and gives answers to whom they belong', async () => {
    const { opened, state, tell } = kernel();
    const netlink = await opened();
    state.answer = (sequence) => [acknowledge(sequence, EINVAL)];
    await expect(netlink.reconfigure({ index: 3 })).rejects.toMatchObject({
      code: 'EINVAL',
      message: 'changing nbd3: EINVAL',
    });
    state.answer = () => [];
    const first = netlink.isConnected(1);
    const second = netlink.isConnected(2);
    const status = (index: string) => `1800 0980 1400 0180 0800 0100 ${index}000000 0500 0200 01 000000`;
    tell(nbd(4, 5, status('02')), acknowledge(4), nbd(3, 5, status('07')), acknowledge(3));
    expect([await first, await second]).toEqual([false, true]);
  });

  it('tells of dead connections, whatever else comes between, and when some may have been missed', async () => {
    const { opened, state, tell, overflow } = kernel();
    const netlink = await opened();
    const dead: (number | undefined)[] = [];
    netlink.onLinkDead((index) => dead.push(index));
    state.answer = (sequence) => [nbd(0, 4, '0800 0100 00000000'), acknowledge(sequence)];
    await netlink.disconnect(9);
    tell(hex('ffffffff'), nbd(0, 4, '0800 0100 07000000'), nbd(0, 4, '0600 0100 0700 0000'), nbd(0, 9, ''));
    overflow();
    tell(nbd(0, 4, '0800 0100 08000000'));
    expect(dead).toEqual([0, 7, undefined, 8]);
  });

  it('gives up on an answer that never comes, and on all when it is closed', async () => {
    const { opened, state, clock, tell } = kernel();
    const netlink = await opened();
    state.answer = () => [];
    const lost = netlink.disconnect(1);
    clock.pass(10_001);
    await expect(lost).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    tell(acknowledge(2));
    const open = netlink.disconnect(1);
    netlink.close();
    await expect(open).rejects.toThrow('closed');
    expect(state.closed).toBe(1);
  });
});
