// The JSON bodies of the replica protocol, checked field by field: what a peer sends is not trusted to have the shape its
// type claims. Each parser throws FAILED_PRECONDITION/Protocol naming the field; the connection is then closed.

import {
  type ErrorCode,
  type ErrorReason,
  errorCodes,
  errorReasons,
  HoldfastError,
  type NodeId,
  printable,
  type ReplicaId,
  type VersionRange,
  type VolumeId,
} from '../base/index.js';
import { FieldReader, type Fields, type SegmentName } from '../format/index.js';
import { type Channel, protocolError } from './message.js';
import type { CloneOrder, DescribeUpdate, FrameInfo, ReplicaStatus, SegmentInfo } from './replica-port.js';

function bad(what: string, value: unknown): HoldfastError {
  return protocolError(`bad ${what} in a message: ${printable(value)}`);
}

const reader = new FieldReader(bad);

export function parseJson(body: Buffer): Fields {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    throw protocolError('a message body is no JSON');
  }
  return reader.fields(value, 'body');
}

const { fields, list, safe, text, flag, uuid, digest, orNull, optional } = reader;

export interface Hello {
  readonly minVersion: number;
  readonly maxVersion: number;
  readonly volumeId: VolumeId;
  readonly replicaId: ReplicaId;
  readonly channel: Channel;
  /** Random, the same for the three connections of one port. */
  readonly session: string;
}

export function parseHello(body: Buffer): Hello {
  const value = parseJson(body);
  const channel = value.channel;
  if (channel !== 'data' && channel !== 'bulk' && channel !== 'control') throw bad('channel', channel);
  return {
    minVersion: safe(value.minVersion, 'minVersion'),
    maxVersion: safe(value.maxVersion, 'maxVersion'),
    volumeId: uuid(value.volumeId, 'volumeId'),
    replicaId: uuid(value.replicaId, 'replicaId'),
    channel,
    session: uuid(value.session, 'session'),
  };
}

export interface Welcome {
  /** Agreed on. */
  readonly version: number;
  readonly nodeId: NodeId;
  /** Of the disk format: what the server can check and read. */
  readonly formats: VersionRange;
}

export function parseWelcome(value: Fields): Welcome {
  const formats = fields(value.formats, 'formats');
  return {
    version: safe(value.version, 'version'),
    nodeId: reader.nodeId(value.nodeId),
    formats: { min: safe(formats.min, 'formats.min'), max: safe(formats.max, 'formats.max') },
  };
}

export function errorBody(error: HoldfastError): { code: ErrorCode; reason: ErrorReason; message: string } {
  return { code: error.code, reason: error.reason, message: error.message };
}

export function parseError(body: Buffer): HoldfastError {
  const value = parseJson(body);
  const code = errorCodes.find((known) => known === value.code) ?? 'INTERNAL';
  const reason = errorReasons.find((known) => known === value.reason) ?? 'Generic';
  return new HoldfastError(code, text(value.message, 'message').slice(0, 4096), { reason });
}

export function parseSegments(value: unknown): SegmentName[] {
  return list(value, 'segments', reader.segment);
}

export function parseDescribe(body: Buffer): DescribeUpdate {
  const value = parseJson(body);
  return {
    sizeBytes: optional(value.sizeBytes, (size) => safe(size, 'sizeBytes')),
    wrappedKey: optional(value.wrappedKey, (key) => orNull(key, reader.wrappedKey)),
    parameters: optional(value.parameters, reader.parameters),
    setVersion: optional(value.setVersion, (version) => safe(version, 'setVersion')),
    members: optional(value.members, (members) => list(members, 'members', reader.member)),
    flushed: optional(value.flushed, reader.point),
    checkpoint: optional(value.checkpoint, reader.checkpoint),
    joining: optional(value.joining, (joining) => flag(joining, 'joining')),
    addReign: optional(value.addReign, reader.reign),
  };
}

export function parseClone(body: Buffer): CloneOrder {
  const value = parseJson(body);
  return { superblock: reader.superblock(value.superblock), segments: parseSegments(value.segments) };
}

export function parseStatus(value: Fields): ReplicaStatus {
  return {
    superblock: reader.superblock(value.superblock),
    end: reader.point(value.end),
    cacheSurvived: flag(value.cacheSurvived, 'cacheSurvived'),
    damage: orNull(value.damage, (damage) => text(damage, 'damage')),
    flushedThrough: safe(value.flushedThrough, 'flushedThrough'),
    stoppedEngine: flag(value.stoppedEngine, 'stoppedEngine'),
  };
}

export interface Page<T> {
  readonly items: readonly T[];
  /** More items follow the last one. */
  readonly more: boolean;
}

export function parseSegmentPage(value: Fields): Page<SegmentInfo> {
  const items = list(value.items, 'items', (item): SegmentInfo => {
    const info = fields(item, 'item');
    return {
      ...reader.segment(info),
      slot: safe(info.slot, 'slot'),
      firstSeq: safe(info.firstSeq, 'firstSeq'),
      lastSeq: safe(info.lastSeq, 'lastSeq'),
      lastDigest: digest(info.lastDigest, 'lastDigest'),
      length: safe(info.length, 'length'),
      sealed: flag(info.sealed, 'sealed'),
      links: safe(info.links, 'links'),
    };
  });
  return { items, more: flag(value.more, 'more') };
}

export function parseFramePage(value: Fields): Page<FrameInfo> {
  const items = list(value.items, 'items', (item): FrameInfo => {
    const info = fields(item, 'item');
    return {
      seq: safe(info.seq, 'seq'),
      offset: safe(info.offset, 'offset'),
      length: safe(info.length, 'length'),
      digest: digest(info.digest, 'digest'),
    };
  });
  return { items, more: flag(value.more, 'more') };
}

export function parseUsage(value: Fields): { storedBytes: number; sharedBytes: number } {
  return { storedBytes: safe(value.storedBytes, 'storedBytes'), sharedBytes: safe(value.sharedBytes, 'sharedBytes') };
}
