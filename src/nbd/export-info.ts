// What a server tells about an export: transmission flags and the answers of EXPORT_NAME, INFO, GO and LIST.

import {
  BLOCK_SIZE_MIN,
  BLOCK_SIZE_PREFERRED,
  EXPORT_NAME_PADDING_BYTES,
  FLAG_CAN_MULTI_CONN,
  FLAG_HAS_FLAGS,
  FLAG_READ_ONLY,
  FLAG_SEND_DF,
  FLAG_SEND_FAST_ZERO,
  FLAG_SEND_FLUSH,
  FLAG_SEND_FUA,
  FLAG_SEND_TRIM,
  FLAG_SEND_WRITE_ZEROES,
  INFO_BLOCK_SIZE,
  INFO_DESCRIPTION,
  INFO_EXPORT,
  INFO_NAME,
} from './constants.js';
import type { NbdExport } from './export-table.js';
import { writeU64 } from './messages.js';

/**
 * CAN_MULTI_CONN holds because a device's flush covers writes of every connection. FAST_ZERO holds because an engine zeroes
 * whole blocks by one range entry, whatever the length.
 */
export function transmissionFlags(entry: NbdExport, structured: boolean): number {
  const always = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_CAN_MULTI_CONN;
  const writable = FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO;
  return always | (entry.device.readOnly ? FLAG_READ_ONLY : writable) | (structured ? FLAG_SEND_DF : 0);
}

export function exportNameReply(entry: NbdExport, structured: boolean, noZeroes: boolean): Buffer {
  const bytes = Buffer.alloc(10 + (noZeroes ? 0 : EXPORT_NAME_PADDING_BYTES));
  writeU64(bytes, 0, entry.device.sizeBytes);
  bytes.writeUInt16BE(transmissionFlags(entry, structured), 8);
  return bytes;
}

/** The data of the REP_INFO replies to INFO and GO: the export always, the rest as far as asked for and known. */
export function exportReplies(
  entry: NbdExport,
  kinds: ReadonlySet<number>,
  structured: boolean,
  payloadBytesMax: number,
): Buffer[] {
  const about = Buffer.alloc(12);
  about.writeUInt16BE(INFO_EXPORT, 0);
  writeU64(about, 2, entry.device.sizeBytes);
  about.writeUInt16BE(transmissionFlags(entry, structured), 10);
  const replies: Buffer[] = [about];
  if (kinds.has(INFO_NAME)) replies.push(textInfo(INFO_NAME, entry.name));
  if (kinds.has(INFO_DESCRIPTION) && entry.description !== undefined) {
    replies.push(textInfo(INFO_DESCRIPTION, entry.description));
  }
  if (kinds.has(INFO_BLOCK_SIZE)) {
    const sizes = Buffer.alloc(14);
    sizes.writeUInt16BE(INFO_BLOCK_SIZE, 0);
    sizes.writeUInt32BE(BLOCK_SIZE_MIN, 2);
    sizes.writeUInt32BE(BLOCK_SIZE_PREFERRED, 6);
    sizes.writeUInt32BE(payloadBytesMax, 10);
    replies.push(sizes);
  }
  return replies;
}

function textInfo(kind: number, text: string): Buffer {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(kind, 0);
  return Buffer.concat([head, Buffer.from(text, 'utf8')]);
}

/** The data of one REP_SERVER reply to LIST: length of the name, name, description. */
export function listEntry(entry: NbdExport): Buffer {
  const name = Buffer.from(entry.name, 'utf8');
  const head = Buffer.alloc(4);
  head.writeUInt32BE(name.length, 0);
  return Buffer.concat([head, name, Buffer.from(entry.description ?? '', 'utf8')]);
}
