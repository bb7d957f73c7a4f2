// Streams of the replica protocol as lists of messages: taken apart, changed one by one or in their order, put together again with
// checksums that fit (mostly).

import { crc32c } from '../../src/base/index.js';
import { MESSAGE_HEADER_SIZE, messageType } from '../../src/wire/message.js';
import type { Chance } from '../lib/crash/virtual-time.js';
import { mutateBytes } from './mutate.js';
import { resealFrames, resealSegment } from './reseal.js';

const CHECKSUM_AT = 68;
const PIECE_HEAD = 8;
const magic = 0x31574648;

/** What one end of one connection sends at once. */
export interface Piece {
  /** 0 data, 1 bulk, 2 control. */
  readonly channel: number;
  readonly bytes: Buffer;
}

/** An input: per piece its channel (u8), three unused bytes, its length (u32), its bytes. */
export function joinPieces(pieces: readonly Piece[]): Buffer {
  return Buffer.concat(
    pieces.flatMap(({ channel, bytes }) => {
      const head = Buffer.alloc(PIECE_HEAD);
      head[0] = channel;
      head.writeUInt32LE(bytes.length, 4);
      return [head, bytes];
    }),
  );
}

export function splitPieces(input: Buffer): Piece[] {
  const pieces: Piece[] = [];
  for (let at = 0; at + PIECE_HEAD <= input.length && pieces.length < 200; ) {
    const length = Math.min(input.readUInt32LE(at + 4), input.length - at - PIECE_HEAD);
    pieces.push({ channel: input[at]! % 3, bytes: input.subarray(at + PIECE_HEAD, at + PIECE_HEAD + length) });
    at += PIECE_HEAD + length;
  }
  return pieces;
}

/** Messages of a stream; the last may be anything. */
export function splitMessages(bytes: Buffer): Buffer[] {
  const messages: Buffer[] = [];
  let at = 0;
  while (at + MESSAGE_HEADER_SIZE <= bytes.length && bytes.readUInt32LE(at) === magic) {
    const end = Math.min(bytes.length, at + MESSAGE_HEADER_SIZE + bytes.readUInt32LE(at + 12));
    messages.push(bytes.subarray(at, end));
    at = end;
  }
  if (at < bytes.length) messages.push(bytes.subarray(at));
  return messages;
}

/** Length and checksums as they must be for what the message holds. */
export function fitMessage(message: Buffer, lengthToo: boolean): Buffer {
  if (message.length < MESSAGE_HEADER_SIZE) return message;
  if (lengthToo) message.writeUInt32LE(message.length - MESSAGE_HEADER_SIZE, 12);
  if ((message[7]! & 1) !== 0) message.writeUInt32LE(crc32c(message.subarray(MESSAGE_HEADER_SIZE)), 16);
  message.writeUInt32LE(crc32c(message.subarray(0, CHECKSUM_AT)), CHECKSUM_AT);
  return message;
}

/** Changes the stream as a list: messages lost, doubled, moved, exchanged, and changed within. */
export function mutateStream(input: Buffer, chance: Chance): Buffer {
  let pieces = splitPieces(input).flatMap(({ channel, bytes }) =>
    splitMessages(bytes).map((message) => ({ channel, bytes: message })),
  );
  for (let i = chance.between(1, 3); i > 0 && pieces.length > 0; i--) pieces = changeList(pieces, chance);
  return joinPieces(pieces);
}

function changeList(pieces: Piece[], chance: Chance): Piece[] {
  const at = chance.below(pieces.length);
  const piece = pieces[at]!;
  const changed = [...pieces];
  const dice = chance.next();
  if (dice < 0.06) changed.splice(at, 1);
  else if (dice < 0.12) changed.splice(at, 0, piece);
  else if (dice < 0.18) changed.splice(chance.below(pieces.length), 0, changed.splice(at, 1)[0]!);
  else if (dice < 0.22) changed[at] = { ...piece, channel: chance.below(3) };
  else if (dice < 0.26) changed[at] = { ...piece, bytes: mutateBytes(piece.bytes, chance) };
  else changed[at] = { ...piece, bytes: changeMessage(piece.bytes, chance) };
  return changed;
}

function changeMessage(from: Buffer, chance: Chance): Buffer {
  if (from.length < MESSAGE_HEADER_SIZE) return mutateBytes(from, chance);
  let head: Buffer = Buffer.from(from.subarray(0, MESSAGE_HEADER_SIZE));
  let body: Buffer = Buffer.from(from.subarray(MESSAGE_HEADER_SIZE));
  if (body.length === 0 || chance.hit(0.5)) {
    if (chance.hit(0.2)) head[6] = chance.pick([...Object.values(messageType), chance.below(256)]);
    else head = mutateBytes(head.subarray(8), chance, 1, 64);
    if (head.length < MESSAGE_HEADER_SIZE)
      head = Buffer.concat([from.subarray(0, 8), head, Buffer.alloc(MESSAGE_HEADER_SIZE)]).subarray(
        0,
        MESSAGE_HEADER_SIZE,
      );
  } else body = changeBody(body, from[6]!, chance);
  return fitMessage(Buffer.concat([head, body]), chance.hit(0.9));
}

function changeBody(body: Buffer, type: number, chance: Chance): Buffer {
  if (body[0] === 0x7b && chance.hit(0.7)) return changeJson(body, chance);
  const changed = mutateBytes(body, chance);
  const how = { entries: true, frames: true, chain: chance.hit(0.5) };
  if (type !== messageType.append || chance.hit(0.2)) return changed;
  if (changed.length > 4096 && changed.readUInt32LE(0) === 0x31534648) return resealSegment(changed, how);
  resealFrames(changed, 0, how, null);
  return changed;
}

const values = ['null', '[]', '{}', '-1', '0', '1e300', '9007199254740993', '4294967296', '"x"', '""', 'true', '[[]]'];

/** One value exchanged for another, or for one from elsewhere in it. */
function changeJson(body: Buffer, chance: Chance): Buffer {
  const text = body.toString('utf8');
  const found = [...text.matchAll(/"[A-Za-z]+":("[^"]*"|[0-9]+|null|true|false)/g)];
  if (found.length === 0) return mutateBytes(body, chance);
  const field = chance.pick(found);
  const at = field.index + field[0].indexOf(':') + 1;
  const value = chance.hit(0.3) ? chance.pick(found)[1]! : chance.pick(values);
  return Buffer.from(text.slice(0, at) + value + text.slice(field.index + field[0].length));
}
