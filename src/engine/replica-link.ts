// What an engine knows of one of its volume's replicas, and the states that one goes through. Owner: the replica set.
//
//   unreachable ──connect──▶ catching-up ──reached the tail──▶ counting ──synced, CAS──▶ in-sync ──lost──▶ unreachable
//        │                        └──────────────lost──────────────┴───────────────────────────────────────▲
//        └──other incarnation, or none──▶ lost (never connected again)
//
//   any ──ordered to leave, and neither in the set nor in a proposed one──▶ gone (port closed, link forgotten)
//
// A replica that is ordered to leave while it counts goes on counting until the store has confirmed a set without it; one that is
// on its way into the set is not asked for any more. `gone` is final for the link: a replica that is called back gets a new one.

import type { EngineMember, EngineReplicaState } from './engine-api.js';
import type { ReplicaPort } from './replica-port.js';

export interface Link {
  readonly member: EngineMember;
  state: 'in-sync' | 'counting' | 'catching-up' | 'unreachable' | 'lost' | 'gone';
  /** It is to leave the set, and then to be forgotten. */
  leaving: boolean;
  port: ReplicaPort | undefined;
  appendedThrough: number;
  syncedThrough: number;
  /** Seq of the sync call under way, 0 for none. */
  syncing: number;
  /** While counting: everything up to the join is durable on it and its superblock says so; it may join the set. */
  ready: boolean;
  /** Its acknowledgements count: a member of the set, of a proposed one, or one that is joining. Kept by the replica set. */
  counted: boolean;
  /** Called when appendedThrough or syncedThrough rose, or when the port was lost. */
  onProgress: (() => void) | undefined;
  /** When the newest question or frame that this replica answered was sent, as far as the lease knows. */
  confirmedMs: number;
  /** Last of the frames whose acknowledgement confirms the reign as of `questionMs`, when they were sent; 0: none is awaited. */
  questionSeq: number;
  questionMs: number;
  message: string;
}

/** Of a member before anything is known of it. */
export function newLink(member: EngineMember): Link {
  return {
    member,
    state: member.lost ? 'lost' : 'unreachable',
    leaving: member.leaving ?? false,
    port: undefined,
    appendedThrough: 0,
    syncedThrough: 0,
    syncing: 0,
    ready: false,
    counted: false,
    onProgress: undefined,
    confirmedMs: Number.NEGATIVE_INFINITY,
    questionSeq: 0,
    questionMs: 0,
    message: member.lost ? 'its disk came back empty or foreign' : '',
  };
}

/** As it is told outside of the engine. */
export function shownState({ state }: Link): EngineReplicaState['state'] {
  switch (state) {
    case 'counting':
      return 'catching-up';
    case 'gone':
      return 'lost';
    case 'in-sync':
    case 'catching-up':
    case 'unreachable':
    case 'lost':
      return state;
  }
}
