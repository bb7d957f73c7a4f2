// The first step of every creation: a name comes to stand for one object, and that object's record exists. Repetitions find both;
// a name whose object is gone, or going, is given to a new one.

import { HoldfastError, printable, type Random } from '../base/index.js';
import { ORDER_ATTEMPTS_MAX } from './limits.js';
import type { Records } from './records.js';
import type { SerialQueue } from './serial-queue.js';

export interface NameClaim<T extends object> {
  /** For messages: "volume". */
  readonly what: string;
  readonly name: string;
  readonly nameKey: string;
  readonly objectKey: (id: string) => string;
  /** False for an object that is being deleted: the name is then free. */
  readonly isCurrent: (object: T) => boolean;
  /** The record to write. Throws what the caller shall be told; nothing is left behind then. */
  readonly plan: (id: string) => Promise<T>;
}

/** Thrown when others got in between; the caller repeats. */
export function changedMeanwhile(what: string, name: string): HoldfastError {
  const message = `${what} ${printable(name)} was changed by others while it was created; retry`;
  return new HoldfastError('ABORTED', message, { reason: 'Conflict' });
}

/** The object of the name, as it was before or as `plan` made it now. */
export async function claimName<T extends object>(
  records: Records,
  intents: SerialQueue,
  random: Random,
  claim: NameClaim<T>,
): Promise<T> {
  for (let attempt = 0; attempt < ORDER_ATTEMPTS_MAX; attempt++) {
    const claimed = await intents.run(() => claimOnce(records, random, claim));
    if (claimed !== undefined) return claimed;
  }
  throw changedMeanwhile(claim.what, claim.name);
}

/** Undefined: something changed on the way. */
async function claimOnce<T extends object>(
  records: Records,
  random: Random,
  claim: NameClaim<T>,
): Promise<T | undefined> {
  const { what, name, nameKey, objectKey } = claim;
  const entry = await records.name(nameKey);
  if (entry !== undefined && entry.name !== name) {
    const message = `${what} ${printable(name)} has the same digest as ${printable(entry.name)}; choose another name`;
    throw new HoldfastError('ALREADY_EXISTS', message);
  }
  const present = entry && (await records.store.get<T>(objectKey(entry.id)))?.value;
  if (present !== undefined && claim.isCurrent(present)) return present;
  if (entry !== undefined && present !== undefined) {
    await records.freeName(nameKey, entry.id);
    return undefined;
  }
  const id = entry?.id ?? random.uuid();
  const planned = await claim.plan(id);
  if (entry === undefined && !(await records.create(nameKey, { name, id }))) return undefined;
  return (await records.create(objectKey(id), planned)) ? planned : undefined;
}
