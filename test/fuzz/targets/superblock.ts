// Superblock slots: any two files are read as one good superblock, told to be lost or damaged, or refused as those of a newer version;
// nothing that is taken for a superblock lacks a field, and nothing is written meanwhile.

import { crc32c, HoldfastError } from '../../../src/base/index.js';
import { encodeSuperblock, FieldReader, type Superblock } from '../../../src/format/index.js';
import { SuperblockStore } from '../../../src/segment/index.js';
import { superblockPath } from '../../../src/segment/superblock-store.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { reignOf } from '../../lib/frame-maker.js';
import { emptySuperblock } from '../../lib/memory-replica.js';
import { RecordingDisk } from '../../lib/recording-disk.js';
import { mutateBytes } from '../mutate.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

const HEADER = 32;
const id = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}` as never;

function superblock(epoch: number): Superblock {
  const place = { epoch: 2, ordinal: 4 };
  const checkpoint = {
    coveredThrough: 40,
    segment: place,
    frameOffset: 4096,
    replayFrom: { segment: place, offset: 8192 },
  };
  const parts = { volumeId: id(1), lineageId: id(2), replicaId: id(3), incarnationId: id(4), nodeId: 'n1' as never };
  return {
    ...emptySuperblock({ ...parts, sizeBytes: 1 << 30 }),
    promised: reignOf(epoch),
    reigns: [reignOf(1), reignOf(epoch)],
    members: [{ replicaId: id(3), incarnationId: id(4) }],
    flushed: { epoch: 1, seq: 9, digest: 'ab'.repeat(16) },
    ...{
      checkpoint,
      previousCheckpoint: checkpoint,
      wrappedKey: { cipher: 'aes-256-gcm', wrappedBy: 'k', blob: 'AAAA' },
    },
    cache: { bootId: 'b', mountId: 'm' },
  };
}

/** An input: length of the first slot (u32), the first slot, the second. */
function join(first: Buffer, second: Buffer): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(first.length);
  return Buffer.concat([head, first, second]);
}
function split(input: Buffer): [Buffer, Buffer] {
  const length = input.length < 4 ? 0 : Math.min(input.readUInt32LE(0), input.length - 4);
  return [input.subarray(4, 4 + length), input.subarray(4 + length)];
}

/** By FORMAT.md alone. */
function isGood(slot: Buffer): boolean {
  if (slot.length < HEADER || slot.toString('latin1', 0, 4) !== 'HFB1' || slot.readUInt16LE(4) !== 1) return false;
  const end = HEADER + slot.readUInt32LE(24);
  return end <= slot.length && crc32c(slot.subarray(12, end)) === slot.readUInt32LE(8);
}

function saysSame(text: string, found: unknown): boolean {
  try {
    return JSON.stringify(JSON.parse(text)) === JSON.stringify(found);
  } catch {
    return false;
  }
}

function fit(slot: Buffer): void {
  if (slot.length < HEADER) return;
  const length = Math.min(slot.readUInt32LE(24), slot.length - HEADER);
  slot.writeUInt32LE(length, 24);
  slot.writeUInt32LE(crc32c(slot.subarray(12, HEADER + length)), 8);
}

const values = ['null', '[]', '{}', '-1', '1e300', '"x"', 'true', '9007199254740993', '{"__proto__":{"a":1}}'];

/** The same JSON with one value exchanged, or a field gone. */
function mutateJson(slot: Buffer, chance: Chance): Buffer {
  const text = slot.toString('utf8', HEADER);
  const fields = [...text.matchAll(/"[A-Za-z]+":("[^"]*"|[0-9]+|null|true|false|\{\}|\[\])/g)];
  if (fields.length === 0) return slot;
  const field = chance.pick(fields);
  const at = field.index + field[0].indexOf(':') + 1;
  const changed = text.slice(0, at) + chance.pick(values) + text.slice(field.index + field[0].length);
  const bytes = Buffer.concat([slot.subarray(0, HEADER), Buffer.from(changed)]);
  bytes.writeUInt32LE(bytes.length - HEADER, 24);
  return bytes;
}

const shape = new FieldReader((what, value) => new Error(`taken for a superblock with ${what} ${String(value)}`));

/** With the right checksum. */
export function mutateSuperblock(slot: Buffer, chance: Chance): Buffer {
  const changed = slot.length > HEADER ? mutateJson(slot, chance) : Buffer.from(slot);
  fit(changed);
  return changed;
}

function otherDigit(slot: Buffer, chance: Chance): Buffer {
  const digits = [...slot.toString('latin1').matchAll(/[1-8](?=\d*[,}])/g)].filter(({ index }) => index > HEADER);
  const changed = Buffer.from(slot);
  if (digits.length > 0) changed[chance.pick(digits).index] = 0x39;
  return changed;
}

class SuperblockBench implements FuzzBench {
  readonly seeds = [
    join(encodeSuperblock(superblock(2), 7), encodeSuperblock(superblock(2), 7)),
    join(encodeSuperblock(superblock(3), 8), encodeSuperblock(superblock(2), 7)),
  ];

  mutate(input: Buffer, chance: Chance): Buffer {
    const slots = split(input).map((slot) => {
      if (chance.hit(0.3)) return slot;
      const changed = slot.length > HEADER && chance.hit(0.5) ? mutateJson(slot, chance) : mutateBytes(slot, chance);
      // One that rotted where nothing but the checksum can tell.
      if (chance.hit(0.1)) return otherDigit(slot, chance);
      if (chance.hit(0.8)) fit(changed);
      return changed;
    });
    return join(slots[0]!, slots[1]!);
  }

  run(input: Buffer): string {
    const disk = new RecordingDisk();
    disk.prepareDirectory('/r');
    for (const [i, bytes] of split(input).entries()) {
      const path = superblockPath('/r', i);
      disk.openFile(path, 'create').close();
      disk.overwrite(path, bytes);
    }
    const changes = disk.journal.length;
    try {
      const found = SuperblockStore.open(disk, '/r').current;
      shape.superblock(found);
      const good = split(input)
        .filter(isGood)
        .map((slot) => slot.toString('utf8', HEADER, HEADER + slot.readUInt32LE(24)));
      must(
        good.some((text) => saysSame(text, found)),
        'taken from a slot that is not good',
      );
      return `epoch ${found.promised.epoch === 3 ? 'new' : 'other'}`;
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      return `${error.code} ${error.message.replaceAll(/\/r\/|\d+/g, '').slice(0, 90)}`;
    } finally {
      must(disk.journal.length === changes, 'something was written');
    }
  }

  async close(): Promise<void> {}
}

export const superblocks: FuzzTarget = {
  name: 'superblocks',
  sources: ['format/superblock', 'segment/superblock-store'],
  open: async () => new SuperblockBench(),
};
