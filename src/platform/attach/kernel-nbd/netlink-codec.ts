// Messages of generic netlink and of its family "nbd", as bytes. Pure. Layouts and numbers are those of the kernel's headers
// linux/netlink.h, linux/genetlink.h and linux/nbd-netlink.h; numbers travel in the machine's own order, which is little-endian
// on every machine Node is built for here (netlink-nbd.ts refuses any other). What comes in is not believed: a length that
// does not fit is an error, never a read beyond the bytes.

import { HoldfastError } from '../../../base/index.js';

/** An attribute as it travels: its kind, and its payload or what is nested in it. */
export interface Attribute {
  readonly type: number;
  readonly value: Buffer | readonly Attribute[];
}

export interface NetlinkMessage {
  /** NLMSG_ERROR, a control type, or a family's number. */
  readonly type: number;
  readonly sequence: number;
  /** Of a family's message; 0 for the others. */
  readonly command: number;
  /** What follows the headers. */
  readonly payload: Buffer;
}

const headerBytes = 16;
const genericHeaderBytes = 4;
const attributeHeaderBytes = 4;
/** The two bits above the kind are flags. */
const kindMask = 0x3fff;
const nestedFlag = 0x8000;

const requestFlag = 1;
const acknowledgeFlag = 4;

export const messageError = 2;
/** Below this are messages of netlink itself. */
export const familyMin = 0x10;

/** The family that knows the others (GENL_ID_CTRL). */
export const controlFamily = 0x10;
const controlVersion = 2;
const getFamily = 3;
const familyId = 1;
const familyName = 2;
const familyGroups = 7;
const groupName = 1;
const groupId = 2;

/** linux/nbd-netlink.h */
export const nbdFamilyName = 'nbd';
export const nbdGroupName = 'nbd_mc_group';
const nbdVersion = 1;
export const nbdCommand = { connect: 1, disconnect: 2, reconfigure: 3, linkDead: 4, status: 5 } as const;
const attr = {
  index: 1,
  sizeBytes: 2,
  blockBytes: 3,
  timeout: 4,
  serverFlags: 5,
  sockets: 7,
  deadTimeout: 8,
  devices: 9,
  identifier: 10,
} as const;
const socketItem = 1;
const socketDescriptor = 1;
const deviceItem = 1;
const deviceIndex = 1;
const deviceConnected = 2;

export interface NbdFields {
  /** Left out of a connect the kernel chooses one. */
  readonly index?: number;
  readonly sizeBytes?: number;
  readonly blockBytes?: number;
  /** Seconds until a request without an answer cuts its connection; 0: never. */
  readonly timeoutS?: number;
  readonly serverFlags?: number;
  readonly descriptor?: number;
  /** Seconds that requests wait for a new connection when there is none. */
  readonly deadTimeoutS?: number;
  readonly identifier?: string;
}

export interface NbdDeviceStatus {
  readonly index: number;
  readonly connected: boolean;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`, 'utf8');

function encodeAttribute({ type, value }: Attribute): Buffer {
  const nested = !Buffer.isBuffer(value);
  const payload = nested ? Buffer.concat((value as readonly Attribute[]).map(encodeAttribute)) : value;
  const length = attributeHeaderBytes + payload.length;
  const bytes = Buffer.alloc(aligned(length));
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(nested ? type | nestedFlag : type, 2);
  payload.copy(bytes, attributeHeaderBytes);
  return bytes;
}

const aligned = (length: number): number => (length + 3) & ~3;

/** A request that is to be acknowledged. */
function encodeRequest(
  type: number,
  command: number,
  version: number,
  sequence: number,
  attributes: readonly Attribute[],
): Buffer {
  const body = Buffer.concat(attributes.map(encodeAttribute));
  const bytes = Buffer.alloc(headerBytes + genericHeaderBytes);
  bytes.writeUInt32LE(headerBytes + genericHeaderBytes + body.length, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.writeUInt16LE(requestFlag | acknowledgeFlag, 6);
  bytes.writeUInt32LE(sequence, 8);
  bytes.writeUInt8(command, 16);
  bytes.writeUInt8(version, 17);
  return Buffer.concat([bytes, body]);
}

/** Asks for the number of a family and of its multicast groups. */
export function encodeGetFamily(sequence: number, name: string): Buffer {
  const attributes = [{ type: familyName, value: text(name) }];
  return encodeRequest(controlFamily, getFamily, controlVersion, sequence, attributes);
}

/** A command of the family "nbd", whose number is `family`. */
export function encodeNbd(family: number, command: number, sequence: number, fields: NbdFields): Buffer {
  const attributes: Attribute[] = [];
  const add = (type: number, value: Buffer | readonly Attribute[] | undefined) => {
    if (value !== undefined) attributes.push({ type, value });
  };
  const maybe = <T>(value: number | undefined, as: (value: number) => T) =>
    value === undefined ? undefined : as(value);
  add(attr.index, maybe(fields.index, u32));
  add(attr.sizeBytes, maybe(fields.sizeBytes, u64));
  add(attr.blockBytes, maybe(fields.blockBytes, u64));
  add(attr.timeout, maybe(fields.timeoutS, u64));
  add(attr.serverFlags, maybe(fields.serverFlags, u64));
  const socket = (descriptor: number): Attribute[] => [
    { type: socketItem, value: [{ type: socketDescriptor, value: u32(descriptor) }] },
  ];
  add(attr.sockets, maybe(fields.descriptor, socket));
  add(attr.deadTimeout, maybe(fields.deadTimeoutS, u64));
  add(attr.identifier, fields.identifier === undefined ? undefined : text(fields.identifier));
  return encodeRequest(family, command, nbdVersion, sequence, attributes);
}

/** The messages of one datagram. Throws INTERNAL/Protocol when a length does not fit. */
export function decodeDatagram(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < headerBytes) throw malformed('a header is cut short');
    const length = bytes.readUInt32LE(at);
    if (length < headerBytes || length > bytes.length - at) throw malformed(`a message of ${length} bytes`);
    const type = bytes.readUInt16LE(at + 4);
    const generic = type >= familyMin;
    if (generic && length < headerBytes + genericHeaderBytes) throw malformed('a message without a command');
    messages.push({
      type,
      sequence: bytes.readUInt32LE(at + 8),
      command: generic ? bytes.readUInt8(at + headerBytes) : 0,
      payload: bytes.subarray(at + headerBytes + (generic ? genericHeaderBytes : 0), at + length),
    });
    at += aligned(length);
  }
  return messages;
}

/** What an NLMSG_ERROR says: 0 for an acknowledgement, else a negative errno. */
export function decodeError(payload: Buffer): number {
  if (payload.length < 4) throw malformed('an acknowledgement without a result');
  return payload.readInt32LE(0);
}

/** Kinds and payloads of a run of attributes. Of a kind that comes twice both are kept. */
export function decodeAttributes(payload: Buffer): { readonly type: number; readonly value: Buffer }[] {
  const attributes: { type: number; value: Buffer }[] = [];
  for (let at = 0; at < payload.length; ) {
    if (payload.length - at < attributeHeaderBytes) throw malformed('an attribute is cut short');
    const length = payload.readUInt16LE(at);
    if (length < attributeHeaderBytes || length > payload.length - at)
      throw malformed(`an attribute of ${length} bytes`);
    attributes.push({
      type: payload.readUInt16LE(at + 2) & kindMask,
      value: payload.subarray(at + attributeHeaderBytes, at + length),
    });
    at += aligned(length);
  }
  return attributes;
}

const attributeOf = (payload: Buffer, type: number): Buffer | undefined =>
  decodeAttributes(payload).find((one) => one.type === type)?.value;

function u32Of(payload: Buffer, type: number, what: string): number {
  const value = attributeOf(payload, type);
  if (value?.length !== 4) throw malformed(`${what} is missing`);
  return value.readUInt32LE(0);
}

/** The answer to encodeGetFamily: the family's number and that of the group named `group`. */
export function decodeFamily(payload: Buffer, group: string): { readonly family: number; readonly group: number } {
  const id = attributeOf(payload, familyId);
  if (id?.length !== 2) throw malformed("the family's number is missing");
  for (const { value } of decodeAttributes(attributeOf(payload, familyGroups) ?? Buffer.alloc(0))) {
    const name = attributeOf(value, groupName);
    if (name?.toString('utf8').replace(/\0$/, '') !== group) continue;
    return { family: id.readUInt16LE(0), group: u32Of(value, groupId, "the group's number") };
  }
  throw malformed(`the multicast group ${group} is missing`);
}

/** The device that a connect's answer or a LINK_DEAD names. */
export function decodeIndex(payload: Buffer): number {
  return u32Of(payload, attr.index, "the device's number");
}

/** The devices that a status lists. */
export function decodeStatus(payload: Buffer): NbdDeviceStatus[] {
  return decodeAttributes(attributeOf(payload, attr.devices) ?? Buffer.alloc(0))
    .filter(({ type }) => type === deviceItem)
    .map(({ value }) => {
      const connected = attributeOf(value, deviceConnected);
      if (connected?.length !== 1) throw malformed('a device without a state');
      return { index: u32Of(value, deviceIndex, "a device's number"), connected: connected.readUInt8(0) !== 0 };
    });
}

function malformed(what: string): HoldfastError {
  return new HoldfastError('INTERNAL', `the kernel sent netlink that can't be read: ${what}`, { reason: 'Protocol' });
}
