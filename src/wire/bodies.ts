// The JSON bodies of the replica protocol, checked field by field: what a peer sends is not trusted to have the shape its
// type claims. Each parser throws FAILED_PRECONDITION/Protocol naming the field; the connection is then closed.

import {
  type ErrorCode,
  type ErrorReason,
  errorCodes,
  errorReasons,
  HoldfastError,
  isUuid,
  type NodeId,
  parseNodeId,
  printable,
  type ReplicaId,
  type VolumeId,
} from '../base/index.js';
import type { CheckpointPlace, LogPoint, Member, Reign, SegmentName, Superblock, WrappedKey } from '../format/index.js';
import { type Channel, protocolError } from './message.js';
import type { CloneOrder, DescribeUpdate, FrameInfo, ReplicaStatus, SegmentInfo } from './replica-port.js';

type Fields = Readonly<Record<string, unknown>>;

function bad(what: string, value: unknown): HoldfastError {
  return protocolError(`bad ${what} in a message: ${printable(value)}`);
}

export function parseJson(body: Buffer): Fields {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8'));
  } catch {
    throw protocolError('a message body is no JSON');
  }
  return fields(value, 'body');
}

function fields(value: unknown, what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(what, value);
  return value as Fields;
}
function list<T>(value: unknown, what: string, item: (value: unknown) => T): T[] {
  if (!Array.isArray(value)) throw bad(what, value);
  return value.map(item);
}
function safe(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw bad(what, value);
  return value;
}
function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw bad(what, value);
  return value;
}
function flag(value: unknown, what: string): boolean {
  if (typeof value !== 'boolean') throw bad(what, value);
  return value;
}
function uuid<T extends string>(value: unknown, what: string): T {
  if (typeof value !== 'string' || !isUuid(value)) throw bad(what, value);
  return value as T;
}
function digest(value: unknown, what: string): string {
  if (typeof value !== 'string' || !/^[0-9a-f]{32}$/.test(value)) throw bad(what, value);
  return value;
}
function orNull<T>(value: unknown, parse: (value: unknown) => T): T | null {
  return value === null ? null : parse(value);
}
function optional<T>(value: unknown, parse: (value: unknown) => T): T | undefined {
  return value === undefined ? undefined : parse(value);
}

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

export function parseWelcome(value: Fields): { version: number; nodeId: NodeId } {
  return { version: safe(value.version, 'version'), nodeId: parseNodeId(value.nodeId) };
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

function parseReign(value: unknown): Reign {
  const reign = fields(value, 'reign');
  return { epoch: safe(reign.epoch, 'epoch'), reignId: uuid(reign.reignId, 'reignId') };
}
function parseSegment(value: unknown): SegmentName {
  const name = fields(value, 'segment');
  const ordinal = safe(name.ordinal, 'ordinal');
  if (ordinal > 0xffff_ffff) throw bad('ordinal', ordinal);
  return { epoch: safe(name.epoch, 'epoch'), ordinal };
}
function parsePoint(value: unknown): LogPoint {
  const point = fields(value, 'point');
  return { epoch: safe(point.epoch, 'epoch'), seq: safe(point.seq, 'seq'), digest: digest(point.digest, 'digest') };
}
function parseMember(value: unknown): Member {
  const member = fields(value, 'member');
  return { replicaId: uuid(member.replicaId, 'replicaId'), incarnationId: uuid(member.incarnationId, 'incarnationId') };
}
function parseKey(value: unknown): WrappedKey {
  const key = fields(value, 'wrappedKey');
  return {
    cipher: text(key.cipher, 'cipher'),
    wrappedBy: text(key.wrappedBy, 'wrappedBy'),
    blob: text(key.blob, 'blob'),
  };
}
function parseCheckpoint(value: unknown): CheckpointPlace {
  const place = fields(value, 'checkpoint');
  const from = fields(place.replayFrom, 'replayFrom');
  return {
    coveredThrough: safe(place.coveredThrough, 'coveredThrough'),
    segment: parseSegment(place.segment),
    frameOffset: safe(place.frameOffset, 'frameOffset'),
    replayFrom: { segment: parseSegment(from.segment), offset: safe(from.offset, 'replayFrom.offset') },
  };
}
function parseParameters(value: unknown): Record<string, string> {
  const parameters = fields(value, 'parameters');
  return Object.fromEntries(
    Object.entries(parameters).map(([key, item]) => [key, text(item, `parameter ${printable(key)}`)]),
  );
}

export function parseSegments(value: unknown): SegmentName[] {
  return list(value, 'segments', parseSegment);
}

export function parseDescribe(body: Buffer): DescribeUpdate {
  const value = parseJson(body);
  return {
    sizeBytes: optional(value.sizeBytes, (size) => safe(size, 'sizeBytes')),
    wrappedKey: optional(value.wrappedKey, (key) => orNull(key, parseKey)),
    parameters: optional(value.parameters, parseParameters),
    setVersion: optional(value.setVersion, (version) => safe(version, 'setVersion')),
    members: optional(value.members, (members) => list(members, 'members', parseMember)),
    flushed: optional(value.flushed, parsePoint),
    checkpoint: optional(value.checkpoint, parseCheckpoint),
    joining: optional(value.joining, (joining) => flag(joining, 'joining')),
    addReign: optional(value.addReign, parseReign),
  };
}

export function parseSuperblock(input: unknown): Superblock {
  const value = fields(input, 'superblock');
  return {
    volumeId: uuid(value.volumeId, 'volumeId'),
    lineageId: uuid(value.lineageId, 'lineageId'),
    replicaId: uuid(value.replicaId, 'replicaId'),
    incarnationId: uuid(value.incarnationId, 'incarnationId'),
    poolId: uuid(value.poolId, 'poolId'),
    nodeId: parseNodeId(value.nodeId),
    sizeBytes: safe(value.sizeBytes, 'sizeBytes'),
    parameters: parseParameters(value.parameters),
    wrappedKey: orNull(value.wrappedKey, parseKey),
    promised: parseReign(value.promised),
    reigns: list(value.reigns, 'reigns', parseReign),
    setVersion: safe(value.setVersion, 'setVersion'),
    members: list(value.members, 'members', parseMember),
    flushed: orNull(value.flushed, parsePoint),
    checkpoint: orNull(value.checkpoint, parseCheckpoint),
    previousCheckpoint: orNull(value.previousCheckpoint, parseCheckpoint),
    joining: flag(value.joining, 'joining'),
    retired: flag(value.retired, 'retired'),
    cache: orNull(value.cache, (item) => {
      const cache = fields(item, 'cache');
      return { bootId: text(cache.bootId, 'bootId'), mountId: text(cache.mountId, 'mountId') };
    }),
  };
}

export function parseClone(body: Buffer): CloneOrder {
  const value = parseJson(body);
  return { superblock: parseSuperblock(value.superblock), segments: parseSegments(value.segments) };
}

export function parseStatus(value: Fields): ReplicaStatus {
  return {
    superblock: parseSuperblock(value.superblock),
    end: parsePoint(value.end),
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
      ...parseSegment(info),
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
