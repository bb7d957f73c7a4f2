// JSON that comes from a peer or a disk, field by field: what it claims to be is not trusted. What is not known here is left where it
// is: a newer version's fields of a superblock are passed on and written again.

import { isUuid, type NodeId, parseNodeId, printable } from '../base/index.js';
import type { Member } from './control-entry.js';
import type { Reign, SegmentName } from './segment.js';
import type { CheckpointPlace, LogPoint, Superblock, WrappedKey } from './superblock.js';

export type Fields = Readonly<Record<string, unknown>>;

/** Every method throws what `bad` makes of the first field that is not what it must be. They may be taken off the object. */
export class FieldReader {
  readonly #bad: (what: string, value: unknown) => Error;

  constructor(bad: (what: string, value: unknown) => Error) {
    this.#bad = bad;
  }

  fields = (value: unknown, what: string): Fields => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.#bad(what, value);
    return value as Fields;
  };
  list = <T>(value: unknown, what: string, item: (value: unknown) => T): T[] => {
    if (!Array.isArray(value)) throw this.#bad(what, value);
    return value.map((each) => item(each));
  };
  safe = (value: unknown, what: string, most: number = Number.MAX_SAFE_INTEGER): number => {
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0 || value > most)
      throw this.#bad(what, value);
    return value;
  };
  text = (value: unknown, what: string): string => {
    if (typeof value !== 'string') throw this.#bad(what, value);
    return value;
  };
  flag = (value: unknown, what: string): boolean => {
    if (typeof value !== 'boolean') throw this.#bad(what, value);
    return value;
  };
  uuid = <T extends string>(value: unknown, what: string): T => {
    if (typeof value !== 'string' || !isUuid(value)) throw this.#bad(what, value);
    return value as T;
  };
  nodeId = (value: unknown): NodeId => {
    try {
      return parseNodeId(value);
    } catch {
      throw this.#bad('nodeId', value);
    }
  };
  digest = (value: unknown, what: string): string => {
    if (typeof value !== 'string' || !/^[0-9a-f]{32}$/.test(value)) throw this.#bad(what, value);
    return value;
  };
  orNull = <T>(value: unknown, parse: (value: unknown) => T): T | null => (value === null ? null : parse(value));
  optional = <T>(value: unknown, parse: (value: unknown) => T): T | undefined =>
    value === undefined ? undefined : parse(value);

  parameters = (value: unknown): Readonly<Record<string, string>> => {
    const parameters = this.fields(value, 'parameters');
    for (const [key, item] of Object.entries(parameters)) this.text(item, `parameter ${printable(key)}`);
    return parameters as Readonly<Record<string, string>>;
  };
  reign = (value: unknown): Reign => {
    const reign = this.fields(value, 'reign');
    return { epoch: this.safe(reign.epoch, 'epoch'), reignId: this.uuid(reign.reignId, 'reignId') };
  };
  segment = (value: unknown): SegmentName => {
    const name = this.fields(value, 'segment');
    return { epoch: this.safe(name.epoch, 'epoch'), ordinal: this.safe(name.ordinal, 'ordinal', 0xffff_ffff) };
  };
  point = (value: unknown): LogPoint => {
    const { epoch, seq, digest } = this.fields(value, 'point');
    return { epoch: this.safe(epoch, 'epoch'), seq: this.safe(seq, 'seq'), digest: this.digest(digest, 'digest') };
  };
  member = (value: unknown): Member => {
    const { replicaId, incarnationId } = this.fields(value, 'member');
    return {
      replicaId: this.uuid(replicaId, 'replicaId'),
      incarnationId: this.uuid(incarnationId, 'incarnationId'),
    };
  };
  wrappedKey = (value: unknown): WrappedKey => {
    const { cipher, wrappedBy, blob } = this.fields(value, 'wrappedKey');
    return {
      cipher: this.text(cipher, 'cipher'),
      wrappedBy: this.text(wrappedBy, 'wrappedBy'),
      blob: this.text(blob, 'blob'),
    };
  };
  checkpoint = (value: unknown): CheckpointPlace => {
    const place = this.fields(value, 'checkpoint');
    const from = this.fields(place.replayFrom, 'replayFrom');
    return {
      coveredThrough: this.safe(place.coveredThrough, 'coveredThrough'),
      segment: this.segment(place.segment),
      frameOffset: this.safe(place.frameOffset, 'frameOffset'),
      replayFrom: { segment: this.segment(from.segment), offset: this.safe(from.offset, 'replayFrom.offset') },
    };
  };

  /** The very object, with whatever else it holds. */
  superblock = (input: unknown): Superblock => {
    const value = this.fields(input, 'superblock');
    for (const name of ['volumeId', 'lineageId', 'replicaId', 'incarnationId', 'poolId']) this.uuid(value[name], name);
    this.nodeId(value.nodeId);
    this.safe(value.sizeBytes, 'sizeBytes');
    this.parameters(value.parameters);
    this.orNull(value.wrappedKey, this.wrappedKey);
    this.reign(value.promised);
    this.list(value.reigns, 'reigns', this.reign);
    this.safe(value.setVersion, 'setVersion');
    this.list(value.members, 'members', this.member);
    this.orNull(value.flushed, this.point);
    this.orNull(value.checkpoint, this.checkpoint);
    this.orNull(value.previousCheckpoint, this.checkpoint);
    this.flag(value.joining, 'joining');
    this.flag(value.retired, 'retired');
    this.orNull(value.cache, (item) => {
      const cache = this.fields(item, 'cache');
      this.text(cache.bootId, 'bootId');
      this.text(cache.mountId, 'mountId');
    });
    return value as unknown as Superblock;
  };
}
