// An NBD server on a device that checks what reaches it, and one connection to it whose client is the test's.

import { silentLogger } from '../../../src/base/index.js';
import type { BlockRequest } from '../../../src/engine/index.js';
import { ExportTable, type NbdConnection, NbdServer } from '../../../src/nbd/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';
import { type FakeSocket, socketPair } from '../../unit/nbd/fake-socket.js';
import { streamOf } from '../../unit/nbd/fake-stream.js';
import { Inbox } from '../../unit/nbd/raw-peer.js';

export const SIZE = 64 * 1024;
export const limits = {
  payloadBytesMax: 16 * 1024,
  inFlightBytesMax: 40 * 1024,
  inFlightRequestsMax: 9,
  optionBytesMax: 8192,
};
/** What the limits allow to wait for a peer that does not read: replies in bytes, and their heads. */
export const UNSENT_MAX = limits.inFlightBytesMax + 64 * 1024;

/** Checks the port's contract on everything that arrives. */
export class StrictDevice extends MemoryDevice {
  pending: BlockRequest[] = [];
  override submit(requests: readonly BlockRequest[]): void {
    for (const asked of requests) {
      const inRange = asked.offset >= 0 && asked.offset + asked.length <= this.sizeBytes;
      if (!Number.isSafeInteger(asked.offset) || !inRange) throw new Error(`out of range: ${asked.op} ${asked.offset}`);
      if (asked.length === 0 && asked.op !== 'flush') throw new Error(`empty ${asked.op}`);
      const carries = asked.op === 'read' || asked.op === 'write';
      if (carries !== (asked.data !== null)) throw new Error(`${asked.op} with${carries ? 'out' : ''} data`);
      if (carries && asked.dataAt + asked.length > asked.data!.length) throw new Error(`data of ${asked.op} too short`);
      this.pending.push(asked);
    }
    const bytes = this.pending.reduce((sum, { data, length }) => sum + (data === null ? 0 : length), 0);
    if (this.pending.length > limits.inFlightRequestsMax || bytes > limits.inFlightBytesMax)
      throw new Error('too much');
  }
  work(): void {
    for (const asked of this.pending.splice(0)) {
      this.apply(asked);
      asked.complete(null);
    }
  }
}

export interface Attack {
  device: StrictDevice;
  /** The same server's, under another name. */
  other: MemoryDevice;
  server: NbdServer;
  near: FakeSocket;
  far: FakeSocket;
  inbox: Inbox;
  connection: NbdConnection;
}

export function attack(): Attack {
  const device = new StrictDevice(SIZE);
  const exports = new ExportTable();
  exports.add({ name: 'vol', description: 'target', device });
  const other = new MemoryDevice(SIZE);
  exports.add({ name: 'other', description: 'bystander', device: other });
  const [near, far] = socketPair();
  near.kernelBytes = 4096;
  far.kernelBytes = 4096;
  const server = new NbdServer({ exports, logger: silentLogger, limits });
  const connection = server.serve(streamOf(far));
  return { device, other, server, near, far, inbox: new Inbox(near), connection };
}

/** The answer by the rules of the protocol document, with structured replies and no metadata contexts negotiated. */
export function errnoFor({
  command,
  flags,
  offset,
  length,
}: {
  command: number;
  flags: number;
  offset: bigint;
  length: number;
}): number {
  const EINVAL = 22;
  const known: Record<number, number> = { 0: 1 | 4, 1: 1, 3: 1, 4: 1, 6: 1 | 2 | 16 };
  const allowed = known[command];
  if (allowed === undefined || (flags & ~allowed) !== 0) return EINVAL;
  if (command === 3) return offset === 0n && length === 0 ? 0 : EINVAL;
  if (command === 0 && length > limits.payloadBytesMax) return (flags & 4) !== 0 ? 75 : EINVAL;
  if (command === 1 && length > limits.payloadBytesMax) return EINVAL;
  if (length === 0) return EINVAL;
  if (offset + BigInt(length) <= BigInt(SIZE)) return 0;
  return command === 1 || command === 6 ? 28 : EINVAL;
}
