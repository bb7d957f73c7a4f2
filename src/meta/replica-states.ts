// The states of a replica in its volume's record, and who moves it from one to the next. Pure; control and agent both go by it.
//
//                         formatted                     its disk came back empty or foreign
//   (named) ─▶ creating ─────────────▶ ok ────────────────────────────────────────────────▶ lost
//                  │                    │ surplus, drained, replaced, given up with its data  │ the same, or nothing is there
//                  │ given up           ▼                                                    ▼
//                  └───────────────▶ leaving ◀──────────────────────────────────────────────┘
//                                       │ out of the in-sync set, and its data deleted or its node forgotten
//                                       ▼
//                                   (no longer named)
//
// creating  control has chosen a place; the replica may be there or not. Never in the in-sync set of a volume that has one.
// ok        formatted. In the in-sync set, or to be brought there by the volume's engine.
// lost      never connected again, never re-admitted under this id. Set by the engine alone.
// leaving   the engine takes it out of the in-sync set; nobody brings it back. Data is deleted only once the store's set is without it.
//
// An id names one replica for good: what comes back is a new replica with a new id and a new incarnation. So a set change that was
// delayed can only name a replica that is still the one that was meant, or one that is refused.

import { assert } from '../base/index.js';
import type { ReplicaRecord, ReplicaState, VolumeRecord } from './records.js';

/** Why a replica leaves; shown to people. */
export type LeaveReason = 'surplus' | 'drained' | 'replaced' | 'given-up' | 'empty' | 'failed';

const next: Readonly<Record<ReplicaState, readonly ReplicaState[]>> = {
  creating: ['ok', 'leaving'],
  ok: ['lost', 'leaving'],
  lost: ['leaving'],
  leaving: [],
};

/** The replica in its next state. A move that the drawing does not show is a bug. */
export function moved(replica: ReplicaRecord, state: ReplicaState, message = ''): ReplicaRecord {
  assert(next[replica.state].includes(state), `a replica does not go from ${replica.state} to ${state}`);
  const { message: _, ...rest } = replica;
  return { ...rest, state, ...(message === '' ? {} : { message }) };
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
