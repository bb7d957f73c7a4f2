// The states of a replica in its volume's record, and who moves it from one to the next. Pure; control and agent both go by it.
//
//                         formatted                     its disk came back empty or foreign
//   (named) ─▶ creating ─────────────▶ ok ────────────────────────────────────────────────▶ lost
//                  │                    │ surplus, drained, replaced, given up with its data  │ the same, or nothing is there
//                  │ given up           ▼                                                    ▼
//                  └───────────────▶ leaving ◀──────────────────────────────────────────────┘
//                                       │      └──spare, and copies are missing──▶ ok
//                                       │ out of the in-sync set, and its data deleted or its node forgotten
//                                       ▼
//                                   (no longer named)
//
// creating  control has chosen a place; the replica may be there or not. Never in the in-sync set of a volume that has one.
// ok        formatted. In the in-sync set, or to be brought there by the volume's engine.
// lost      never connected again, never re-admitted under this id. Set by the engine, or by an accepted loss, which may be gone back on
//           until the volume has opened without it.
// leaving   the engine takes it out of the in-sync set. Data is deleted only once the store's set is without it, and of one that was
//           good only when the engine itself shows as many others in sync as there are to be. Until then it is `spare`: the mark goes
//           before the order that deletes it, and without the mark nothing brings it back.
//
// An id names one replica for good: what is made anew is a new replica with a new id and a new incarnation. So a set change that was
// delayed can only name a replica that is still the one that was meant, or one that is refused.

import { assert } from '../base/index.js';
import type { ReplicaRecord, ReplicaState, VolumeRecord } from './records.js';

/** Why a replica leaves; shown to people. */
export type LeaveReason = 'surplus' | 'drained' | 'replaced' | 'given-up' | 'empty' | 'failed' | 'abandoned';

const next: Readonly<Record<ReplicaState, readonly ReplicaState[]>> = {
  creating: ['ok', 'leaving'],
  ok: ['lost', 'leaving'],
  lost: ['leaving'],
  leaving: ['ok'],
};

/** The replica in its next state. A move that the drawing does not show is a bug. */
export function moved(replica: ReplicaRecord, state: ReplicaState, message = ''): ReplicaRecord {
  assert(next[replica.state].includes(state), `a replica does not go from ${replica.state} to ${state}`);
  const { message: _, spare: __, ...rest } = replica;
  return { ...rest, state, ...(message === '' ? {} : { message }) };
}

/** Told to leave because others are to take its place, or it is one too many. A good one stays at hand. */
export function toLeave(replica: ReplicaRecord, message: string): ReplicaRecord {
  const next = moved(replica, 'leaving', message);
  return replica.state === 'ok' ? { ...next, spare: true } : next;
}

/** Out of the set, with its data: it may go back. */
export function isAtHand(record: Pick<VolumeRecord, 'inSync'>, replica: ReplicaRecord): boolean {
  return replica.spare === true && hasLeft(record, replica);
}

/** It is to be brought up to date again, as after an absence. */
export function calledBack(replica: ReplicaRecord): ReplicaRecord {
  assert(replica.spare === true, 'only what is spare comes back');
  return moved(replica, 'ok');
}

/** From now on its data may be deleted. */
export function condemned(replica: ReplicaRecord): ReplicaRecord {
  const { spare: _, ...rest } = replica;
  return rest;
}

/** Given up by an accepted loss that grants `epoch`. Lost, also when it was to leave, until the volume has opened without it; then it leaves. */
export function givenUp(replica: ReplicaRecord, epoch: number, message: string): ReplicaRecord {
  return { ...condemned(replica), state: 'lost', givenUpEpoch: epoch, message };
}

/** Chosen after all by a further acceptance, before its data was deleted: the only way back from `lost`. */
export function restored(replica: ReplicaRecord): ReplicaRecord {
  assert(replica.state === 'lost' && replica.givenUpEpoch !== undefined, 'only what was given up is gone back to');
  const { message: _, givenUpEpoch: __, ...rest } = replica;
  return { ...rest, state: 'ok' };
}

/** Whether the volume went on without it: an engine of a later reign has made everything durable on those that were left. */
export function isAbandoned(record: Pick<VolumeRecord, 'flushedPoint'>, { givenUpEpoch }: ReplicaRecord): boolean {
  return givenUpEpoch !== undefined && (record.flushedPoint?.epoch ?? 0) > givenUpEpoch;
}

/** Whether an engine may name it in a new in-sync set. One that leaves may stay until it has left, but never comes back. */
export function mayBeInSync({ state }: ReplicaRecord, isInSync: boolean): boolean {
  switch (state) {
    case 'ok':
      return true;
    case 'leaving':
      return isInSync;
    case 'creating':
    case 'lost':
      return false;
  }
}

/** Whether a replica that leaves has left: its data may go, and then its name. */
export function hasLeft(record: Pick<VolumeRecord, 'inSync'>, { id, state }: ReplicaRecord): boolean {
  return state === 'leaving' && !record.inSync.includes(id);
}
