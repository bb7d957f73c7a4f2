// The contents of control entries, as typed values. Layouts: FORMAT.md, "Control entries". Pages, nodes and tables have
// their own file (checkpoint.ts) because they are handled as raw typed arrays.

import {
  assert,
  corrupt,
  type GroupId,
  type IncarnationId,
  type ReignId,
  type ReplicaId,
  type SnapshotId,
  uuidFromBytes,
  uuidToBytes,
  type VolumeId,
} from '../base/index.js';
import { ENTRY_PREFIX_SIZE } from './constants.js';
import { encodeControlEntry, entryKind } from './entry.js';
import { readSafe, writeSafe } from './frame.js';
import type { SegmentName } from './segment.js';

export interface Member {
  readonly replicaId: ReplicaId;
  readonly incarnationId: IncarnationId;
}

/** First entry of each reign. */
export interface OpenEntry {
  readonly kind: 'open';
  readonly epoch: number;
  readonly reignId: ReignId;
  readonly keyed: boolean;
  readonly sizeBytes: number;
}
/** Blocks that read as zeroes from here on. */
export interface RangeEntry {
  readonly kind: 'range';
  readonly why: 'trim' | 'zero';
  readonly block: number;
  readonly count: number;
}
export interface FreezeEntry {
  readonly kind: 'freeze';
  readonly snapshotId: SnapshotId;
  /** All zeroes when the snapshot belongs to no group. */
  readonly groupId: GroupId;
  readonly wallMs: number;
}
export interface SnapshotDeleteEntry {
  readonly kind: 'snapshotDelete';
  readonly snapshotId: SnapshotId;
}
export interface ResizeEntry {
  readonly kind: 'resize';
  readonly sizeBytes: number;
}
export interface MembersEntry {
  readonly kind: 'members';
  readonly setVersion: number;
  readonly members: readonly Member[];
}
/** The segment before this entry's frame is the last one that the new volume shares. */
export interface CloneEntry {
  readonly kind: 'clone';
  readonly newVolumeId: VolumeId;
  /** The snapshot it starts from. */
  readonly snapshotId: SnapshotId;
}
/** Segments that nothing refers to any more. */
export interface DropEntry {
  readonly kind: 'drop';
  readonly segments: readonly SegmentName[];
}

export type ControlEntry =
  | OpenEntry
  | RangeEntry
  | FreezeEntry
  | SnapshotDeleteEntry
  | ResizeEntry
  | MembersEntry
  | CloneEntry
  | DropEntry;

export function encodeControl(entry: ControlEntry): Buffer {
  switch (entry.kind) {
    case 'open': {
      const content = Buffer.alloc(40);
      writeSafe(content, entry.epoch, 0);
      writeSafe(content, entry.sizeBytes, 8);
      uuidToBytes(entry.reignId, content, 16);
      content[32] = entry.keyed ? 1 : 0;
      return encodeControlEntry(entryKind.open, content);
    }
    case 'range': {
      const content = Buffer.alloc(16);
      writeSafe(content, entry.block, 0);
      writeSafe(content, entry.count, 8);
      return encodeControlEntry(entryKind.range, content, entry.why === 'zero' ? 1 : 0);
    }
    case 'freeze': {
      const content = Buffer.alloc(40);
      uuidToBytes(entry.snapshotId, content, 0);
      uuidToBytes(entry.groupId, content, 16);
      writeSafe(content, entry.wallMs, 32);
      return encodeControlEntry(entryKind.freeze, content);
    }
    case 'snapshotDelete': {
      const content = Buffer.alloc(16);
      uuidToBytes(entry.snapshotId, content, 0);
      return encodeControlEntry(entryKind.snapshotDelete, content);
    }
    case 'resize': {
      const content = Buffer.alloc(8);
      writeSafe(content, entry.sizeBytes, 0);
      return encodeControlEntry(entryKind.resize, content);
    }
    case 'members': {
      const content = Buffer.alloc(16 + entry.members.length * 32);
      writeSafe(content, entry.setVersion, 0);
      content.writeUInt32LE(entry.members.length, 8);
      entry.members.forEach((member, i) => {
        uuidToBytes(member.replicaId, content, 16 + i * 32);
        uuidToBytes(member.incarnationId, content, 32 + i * 32);
      });
      return encodeControlEntry(entryKind.members, content);
    }
    case 'clone': {
      const content = Buffer.alloc(32);
      uuidToBytes(entry.newVolumeId, content, 0);
      uuidToBytes(entry.snapshotId, content, 16);
      return encodeControlEntry(entryKind.clone, content);
    }
    case 'drop': {
      const content = Buffer.alloc(8 + entry.segments.length * 16);
      content.writeUInt32LE(entry.segments.length, 0);
      entry.segments.forEach((segment, i) => {
        writeSafe(content, segment.epoch, 8 + i * 16);
        writeSafe(content, segment.ordinal, 16 + i * 16);
      });
      return encodeControlEntry(entryKind.drop, content);
    }
  }
}

/**
 * Decodes a control entry that decodeEntry() accepted. Throws DATA_LOSS when its content contradicts its length: the
 * checksum matched, so a writer put it there.
 */
export function decodeControl(bytes: Buffer, at: number, kind: number, length: number): ControlEntry {
  const content = bytes.subarray(at + ENTRY_PREFIX_SIZE, at + length);
  const need = (size: number) => {
    if (content.length < size)
      throw corrupt(`control entry of kind ${kind} has ${content.length} bytes, needs ${size}`);
  };
  switch (kind) {
    case entryKind.open:
      need(40);
      return {
        kind: 'open',
        epoch: readSafe(content, 0),
        sizeBytes: readSafe(content, 8),
        reignId: uuidFromBytes(content, 16) as ReignId,
        keyed: content[32] === 1,
      };
    case entryKind.range:
      need(16);
      return {
        kind: 'range',
        why: bytes[at + 13] === 1 ? 'zero' : 'trim',
        block: readSafe(content, 0),
        count: readSafe(content, 8),
      };
    case entryKind.freeze:
      need(40);
      return {
        kind: 'freeze',
        snapshotId: uuidFromBytes(content, 0) as SnapshotId,
        groupId: uuidFromBytes(content, 16) as GroupId,
        wallMs: readSafe(content, 32),
      };
    case entryKind.snapshotDelete:
      need(16);
      return { kind: 'snapshotDelete', snapshotId: uuidFromBytes(content, 0) as SnapshotId };
    case entryKind.resize:
      need(8);
      return { kind: 'resize', sizeBytes: readSafe(content, 0) };
    case entryKind.members: {
      need(16);
      const count = content.readUInt32LE(8);
      need(16 + count * 32);
      const members: Member[] = [];
      for (let i = 0; i < count; i++) {
        members.push({
          replicaId: uuidFromBytes(content, 16 + i * 32) as ReplicaId,
          incarnationId: uuidFromBytes(content, 32 + i * 32) as IncarnationId,
        });
      }
      return { kind: 'members', setVersion: readSafe(content, 0), members };
    }
    case entryKind.clone:
      need(32);
      return {
        kind: 'clone',
        newVolumeId: uuidFromBytes(content, 0) as VolumeId,
        snapshotId: uuidFromBytes(content, 16) as SnapshotId,
      };
    case entryKind.drop: {
      need(8);
      const count = content.readUInt32LE(0);
      need(8 + count * 16);
      const segments: SegmentName[] = [];
      for (let i = 0; i < count; i++) {
        segments.push({ epoch: readSafe(content, 8 + i * 16), ordinal: readSafe(content, 16 + i * 16) });
      }
      return { kind: 'drop', segments };
    }
    default:
      assert(false, `entry kind ${kind} is no control entry`);
  }
}
