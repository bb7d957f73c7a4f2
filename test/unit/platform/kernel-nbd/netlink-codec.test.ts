// Bytes written by hand from the kernel's headers (linux/netlink.h, linux/genetlink.h, linux/nbd-netlink.h), little-endian.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HoldfastError } from '../../../../src/base/index.js';
import {
  decodeAttributes,
  decodeDatagram,
  decodeError,
  decodeFamily,
  decodeIndex,
  decodeStatus,
  encodeGetFamily,
  encodeNbd,
  nbdCommand,
  nbdGroupName,
} from '../../../../src/platform/attach/kernel-nbd/netlink-codec.js';

const hex = (...parts: string[]) => Buffer.from(parts.join('').replaceAll(' ', ''), 'hex');
const family = 0x1d;

describe('what is sent', () => {
  it('asks the controller for the family "nbd"', () => {
    const golden = hex('1c000000 1000 0500 01000000 00000000', '03 02 0000', '0800 0200 6e626400');
    expect(encodeGetFamily(1, 'nbd').toString('hex')).toBe(golden.toString('hex'));
  });

  it('connects: size, block size, no limit for requests, flags, socket, an hour without a connection, identifier', () => {
    const golden = hex(
      '74000000 1d00 0500 07000000 00000000',
      '01 01 0000',
      '0c00 0200 0000000400000000',
      '0c00 0300 0010000000000000',
      '0c00 0400 0000000000000000',
      '0c00 0500 6d01000000000000',
      '1000 0780 0c00 0180 0800 0100 11000000',
      '0c00 0800 100e000000000000',
      `1200 0a00 ${Buffer.from('holdfast/ab/v\0').toString('hex')} 0000`,
    );
    const bytes = encodeNbd(family, nbdCommand.connect, 7, {
      sizeBytes: 64 << 20,
      blockBytes: 4096,
      timeoutS: 0,
      serverFlags: 0x16d,
      descriptor: 17,
      deadTimeoutS: 3600,
      identifier: 'holdfast/ab/v',
    });
    expect(bytes.toString('hex')).toBe(golden.toString('hex'));
  });

  it('reconfigures one device: a new socket; a new size of more than 4 GiB', () => {
    const socket = hex(
      '30000000 1d00 0500 08000000 00000000',
      '03 01 0000',
      '0800 0100 02000000',
      '1000 0780 0c00 0180 0800 0100 05000000',
      '0600 0a00 7600 0000',
    );
    const withSocket = encodeNbd(family, nbdCommand.reconfigure, 8, { index: 2, descriptor: 5, identifier: 'v' });
    expect(withSocket.subarray(4).toString('hex')).toBe(socket.subarray(4).toString('hex'));
    expect(withSocket.readUInt32LE(0)).toBe(withSocket.length);
    const size = hex(
      '28000000 1d00 0500 09000000 00000000',
      '03 01 0000',
      '0800 0100 00000000',
      '0c00 0200 0010000001000000',
    );
    expect(encodeNbd(family, nbdCommand.reconfigure, 9, { index: 0, sizeBytes: 2 ** 32 + 4096 }).toString('hex')).toBe(
      size.toString('hex'),
    );
  });

  it('disconnects and asks for one device by its number', () => {
    const tail = '01 0000 0800 0100 03000000';
    const head = '1c000000 1d00 0500 0a000000 00000000';
    expect(encodeNbd(family, nbdCommand.disconnect, 10, { index: 3 })).toEqual(hex(head, '02', tail));
    expect(encodeNbd(family, nbdCommand.status, 10, { index: 3 })).toEqual(hex(head, '05', tail));
  });
});

describe('what comes in', () => {
  const familyAnswer = hex(
    '0800 0200 6e626400',
    '0600 0100 1d00 0000',
    '0800 0300 01000000',
    // Two groups, of which ours is the second.
    '3c00 0780',
    '1800 0100 0800 0200 02000000 0a00 0100 6f7468657200 0000'.replace('1800', '1800'),
    '2000 0200 0800 0200 09000000 1100 0100 6e62645f6d635f67726f757000 000000',
  );

  it("finds the family's number and its multicast group's, wherever they stand", () => {
    expect(decodeFamily(familyAnswer, nbdGroupName)).toEqual({ family: 0x1d, group: 9 });
    expect(() => decodeFamily(familyAnswer, 'nbd_mc')).toThrow(/nbd_mc is missing/);
  });

  it('takes a datagram apart: the reply to a connect, the acknowledgement, news of a dead connection', () => {
    const datagram = hex(
      '1c000000 1d00 0000 07000000 39300000 01 00 0000 0800 0100 04000000',
      '24000000 0200 0001 07000000 39300000 00000000 74000000 1d000500 07000000 00000000',
      '1c000000 1d00 0000 00000000 00000000 04 00 0000 0800 0100 04000000',
    );
    const [reply, acknowledged, dead] = decodeDatagram(datagram);
    expect(reply).toMatchObject({ type: 0x1d, sequence: 7, command: nbdCommand.connect });
    expect(decodeIndex(reply!.payload)).toBe(4);
    expect(acknowledged).toMatchObject({ type: 2, sequence: 7, command: 0 });
    expect(decodeError(acknowledged!.payload)).toBe(0);
    expect(dead).toMatchObject({ sequence: 0, command: nbdCommand.linkDead });
    expect(decodeIndex(dead!.payload)).toBe(4);
    expect(decodeError(hex('eaffffff 74000000'))).toBe(-22);
  });

  it('lists devices with their state', () => {
    const listed = hex(
      '2c00 0980',
      '1400 0180 0800 0100 00000000 0500 0200 01 000000',
      '1400 0180 0800 0100 07000000 0500 0200 00 000000',
    );
    expect(decodeStatus(listed)).toEqual([
      { index: 0, connected: true },
      { index: 7, connected: false },
    ]);
    expect(decodeStatus(Buffer.alloc(0))).toEqual([]);
  });

  it('refuses every length that does not fit, and reads nothing beyond the bytes', () => {
    const whole = hex('1c000000 1d00 0000 07000000 39300000 01 00 0000 0800 0100 04000000');
    for (let length = 1; length < whole.length; length++) {
      expect(() => decodeDatagram(whole.subarray(0, length)), `cut at ${length}`).toThrow(HoldfastError);
    }
    const bad = ['00000000', '0f000000', '12000000', '1d000000', 'ffffffff'];
    for (const length of bad) {
      const bytes = Buffer.concat([hex(length), whole.subarray(4)]);
      expect(() => decodeDatagram(bytes), length).toThrow(HoldfastError);
    }
    for (const attribute of ['0800', '08000100', '0000 0100 04000000', '0300 0100', 'ffff 0100 04000000']) {
      expect(() => decodeAttributes(hex(attribute)), attribute).toThrow(HoldfastError);
    }
    expect(() => decodeError(hex('0000'))).toThrow(HoldfastError);
    expect(() => decodeIndex(hex('0600 0100 0400 0000'))).toThrow(/number is missing/);
    expect(() => decodeIndex(hex('0800 0200 04000000'))).toThrow(/number is missing/);
    expect(() => decodeStatus(hex('1000 0980 0c00 0180 0800 0100 00000000'))).toThrow(/without a state/);
    expect(() => decodeFamily(hex('0800 0100 1d000000'), nbdGroupName)).toThrow(/family's number/);
  });

  it('answers any bytes with messages or the one error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        for (const decode of [decodeDatagram, decodeAttributes, decodeIndex, decodeStatus, decodeError]) {
          try {
            decode(Buffer.from(bytes));
          } catch (error) {
            expect(error).toBeInstanceOf(HoldfastError);
          }
        }
      }),
    );
  });
});
