// What a client asks for next, and the data of its writes.

import { BLOCK_SIZE, KiB, MiB } from '../../src/base/index.js';
import type { BlockOp, BlockRequest } from '../../src/engine/index.js';
import type { Chance } from '../lib/crash/virtual-time.js';
import type { Settings } from './settings.js';

export interface Wish {
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  /** Number of the register that it is about. */
  readonly block: number | null;
  readonly fua: boolean;
}

export function nextWish(chance: Chance, habits: Settings['client'], sizeBytes: number): Wish {
  const register = chance.hit(habits.registerShare);
  const dice = chance.next();
  let op: BlockOp = 'write';
  if (dice < habits.readShare) op = 'read';
  else if (dice < habits.readShare + habits.flushShare) op = 'flush';
  else if (!register && dice < habits.readShare + habits.flushShare + habits.trimShare)
    op = chance.hit(0.5) ? 'trim' : 'zero';
  if (op === 'flush') return { op, offset: 0, length: 0, block: null, fua: false };
  const fua = op !== 'read' && chance.hit(habits.fuaShare);
  if (!register) return { op, ...extent(chance, habits, sizeBytes, op), block: null, fua };
  const block = chance.below(habits.registers);
  return { op, offset: block * BLOCK_SIZE, length: BLOCK_SIZE, block, fua };
}

/** Behind the registers, most of it in a small region; whole blocks, sectors, any byte. */
function extent(
  chance: Chance,
  habits: Settings['client'],
  sizeBytes: number,
  op: BlockOp,
): { offset: number; length: number } {
  const from = habits.registers * BLOCK_SIZE;
  const spot = chance.next();
  const base = spot < 0.8 ? from : spot < 0.95 ? 4 * MiB : sizeBytes - MiB;
  const room = Math.min(MiB, sizeBytes - base);
  if (chance.hit(habits.largeShare)) {
    const length = op === 'trim' || op === 'zero' ? chance.pick([4, 8]) * MiB : chance.between(1, 3) * 256 * KiB;
    return { offset: from, length: Math.min(length, sizeBytes - from) };
  }
  if (chance.hit(0.12)) {
    const unit = chance.hit(0.7) ? 512 : 1;
    const length = Math.max(unit, chance.below(Math.floor(20_000 / unit)) * unit);
    return { offset: base + chance.below(Math.floor((room - length) / unit)) * unit, length };
  }
  const blocks = chance.pick([1, 1, 1, 2, 3, 8]);
  return {
    offset: base + chance.below(Math.floor(room / BLOCK_SIZE) - blocks) * BLOCK_SIZE,
    length: blocks * BLOCK_SIZE,
  };
}

/** Payloads rarely begin where their memory does. */
export const margin = Buffer.alloc(28, 0x5a);

/** As a server does whose memory is received into again: what the engine still needs goes elsewhere, and the rest is overwritten. */
export function receiveOver(request: BlockRequest, bytes: Uint8Array): void {
  if (request.data !== null) {
    request.data = Buffer.from(bytes.subarray(request.dataAt, request.dataAt + request.length));
    request.dataAt = 0;
  }
  bytes.fill(0xee);
}

/** Data of one write: every sector names the write and its own place; half of it can be compressed. */
export function fill(chance: Chance, id: number, offset: number, length: number): Buffer {
  const data = Buffer.alloc(length, id & 0xff);
  if (chance.hit(0.5)) {
    let state = (id * 2654435761) >>> 0;
    for (let at = 0; at + 4 <= length; at += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      data.writeUInt32LE(state, at);
    }
  }
  for (let at = 0; at + 16 <= length; at += 512) {
    data.writeUInt32LE(id, at);
    data.writeDoubleLE(offset + at, at + 8);
  }
  return data;
}
