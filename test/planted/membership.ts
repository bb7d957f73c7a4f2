// Bugs in the changes of a volume's replicas that tests of single parts must catch, each by the tests that are named; the simulator does not
// change the number of replicas.

import type { PlantedBug } from './bugs.js';

export interface MembershipBug extends PlantedBug {
  /** Files of tests, one of which must fail. */
  readonly tests: readonly string[];
}

const control = [
  'test/unit/control/repairs.test.ts',
  'test/unit/control/operator.test.ts',
  'test/unit/control/missing-copies.test.ts',
];
const engine = ['test/unit/engine/follow.test.ts', 'test/unit/engine/follow-random.test.ts'];
const agent = ['test/unit/agent/membership.test.ts'];

export const membershipBugs: readonly MembershipBug[] = [
  {
    name: 'delete a replica before the store is without it',
    breaks: 'order of leaving',
    file: 'src/control/membership-plan.ts',
    edits: [
      ['replicas.filter((replica) => hasLeft(record, replica))', "replicas.filter(({ state }) => state === 'leaving')"],
    ],
    tests: control,
  },
  {
    name: 'count a copy that is not in sync when one is to leave',
    breaks: 'grow before shrink',
    file: 'src/control/membership-plan.ts',
    edits: [['  if (whole.length >= wanted) {', '  if (staying.length >= wanted) {']],
    tests: control,
  },
  {
    name: 'take a new replica for whole as soon as it is made',
    breaks: 'promise 5',
    file: 'src/control/membership-plan.ts',
    edits: [
      [
        "const isInSync = ({ id, state }: ReplicaRecord) => state === 'ok' && record.inSync.includes(id);",
        "const isInSync = ({ state }: ReplicaRecord) => state === 'ok';",
      ],
    ],
    tests: control,
  },
  {
    name: 'drop a drained replica without another',
    breaks: 'grow before shrink',
    file: 'src/control/membership-plan.ts',
    edits: [['  if (missing > 0 && facts.noPlace', '  if (missing > 9 && facts.noPlace']],
    tests: control,
  },
  {
    name: 'stop counting what is to leave before the store has confirmed it',
    breaks: 'promise 6',
    file: 'src/engine/replica-set.ts',
    edits: [['one.leaving && !one.counted', 'one.leaving']],
    tests: engine,
  },
  {
    name: 'let the last one leave',
    breaks: 'section 6: the set is never empty',
    file: 'src/engine/replica-set.ts',
    edits: [['const stay = [...staying, ...kept];', 'const stay = staying;']],
    tests: engine,
  },
  {
    name: 'admit before everything was copied',
    breaks: 'promise 5',
    file: 'src/engine/catch-up.ts',
    edits: [
      [
        '      if (frames?.length === 0) {',
        '      if (frames?.length === 0 || (source !== undefined && position > 0)) {',
      ],
    ],
    tests: engine,
  },
  {
    name: 'go on with one that was let go on its way in',
    breaks: 'order of leaving',
    file: 'src/engine/replica-set.ts',
    edits: [
      [
        '      if (member === undefined || member.leaving === true) link.leaving = true;',
        '      if (member?.leaving === true) link.leaving = true;',
      ],
    ],
    tests: engine,
  },
  {
    name: 'take back one that has left',
    breaks: 'order of leaving',
    file: 'src/meta/replica-states.ts',
    edits: [['      return isInSync;', '      return true || isInSync;']],
    tests: agent,
  },
  {
    name: 'tell an engine of one that has left',
    breaks: 'order of leaving',
    file: 'src/agent/reigns.ts',
    edits: [["state !== 'creating' && state !== 'leaving'", "state !== 'creating'"]],
    tests: agent,
  },
  {
    name: 'make a new replica without the mark that it is not whole',
    breaks: 'promise 5',
    file: 'src/control/replica-steps.ts',
    edits: [['      joining: true,', '      joining: false,']],
    tests: control,
  },
  {
    name: 'accept a loss first and record it then',
    breaks: 'audit',
    file: 'src/control/accept-loss.ts',
    edits: [
      [
        '    if (!(await records.create(auditKey, audit)))',
        "    await this.#give(record, verdict, 'x');\n    if (!(await records.create(auditKey, audit)))",
      ],
    ],
    tests: control,
  },
  {
    name: 'go on from a copy that was being made',
    breaks: 'promise 5',
    file: 'src/control/accept-loss.ts',
    edits: [
      ["missing(replica) === '' && sights.get(replica.id)?.report?.joining === false;", "missing(replica) === '';"],
    ],
    tests: control,
  },
  {
    name: 'accept a loss without a new epoch',
    breaks: 'promise 2',
    file: 'src/control/accept-loss.ts',
    edits: [['const epoch = now.epoch + 1;', 'const epoch = now.epoch;']],
    tests: control,
  },
  {
    name: 'use the place of a lost replica without asking its node',
    breaks: 'decision 033',
    file: 'src/control/replica-steps.ts',
    edits: [[' && held.replicas.every(({ volume_id }) => volume_id !== record.id);', ';']],
    tests: control,
  },
  {
    name: 'put two replicas into one zone',
    breaks: 'failure domains',
    file: 'src/control/placement.ts',
    edits: [
      [
        'if (domain === undefined || !taken.has(domain)) return node;',
        'if (domain === undefined || taken.size >= 0) return node;',
      ],
    ],
    tests: control,
  },
  {
    name: 'forget a drain when the node registers',
    breaks: 'decision 033',
    file: 'src/control/nodes.ts',
    edits: [['return { ...before, ...record, pools };', 'return { ...before, drains: undefined, ...record, pools };']],
    tests: control,
  },
  {
    name: 'replace a node that is only away',
    breaks: 'decision 033',
    file: 'src/control/membership-plan.ts',
    edits: [['const silent = facts.goneAfterMs > 0 && silentMs > facts.goneAfterMs;', 'const silent = silentMs > 0;']],
    tests: control,
  },
  {
    name: 'move all volumes of a drained node at once',
    breaks: 'decision 033',
    file: 'src/control/repairs.ts',
    edits: [['!step.urgent && !pass.turns.has(id)', '!step.urgent && pass.turns.size < 0']],
    tests: control,
  },
  {
    name: 'keep trying without a pause',
    breaks: 'decision 033',
    file: 'src/control/repairs.ts',
    edits: [
      [
        '      this.#backoff.failed(id, clock.monotonicMs());\n      // Somebody is at it',
        '      // Somebody is at it',
      ],
    ],
    tests: control,
  },
  {
    name: 'delete what was given up before the volume has opened without it',
    breaks: 'decision 033',
    file: 'src/meta/replica-states.ts',
    edits: [
      ['givenUpEpoch !== undefined && (record.flushedPoint?.epoch ?? 0) > givenUpEpoch', 'givenUpEpoch !== undefined'],
    ],
    tests: control,
  },
  {
    name: 'call a replica stalled that has no source',
    breaks: 'decision 033',
    file: 'src/control/repairs.ts',
    edits: [['|| !hasSource) {', ') {']],
    tests: control,
  },
  {
    name: 'leave the number of replicas in superblocks as it was',
    breaks: 'promise 8',
    file: 'src/replica/superblock-change.ts',
    edits: [
      ['    parameters: { ...current.parameters, ...update.parameters },', '    parameters: current.parameters,'],
    ],
    tests: ['test/unit/rescue/metadata.test.ts'],
  },
  {
    name: 'delete by the word of a store that went back in time',
    breaks: 'section 6: a store that went back',
    file: 'src/replica/replica-host.ts',
    edits: [['promised.epoch <= order.epoch && setVersion <= order.setVersion', 'setVersion >= 0']],
    tests: ['test/unit/replica/replica-host.test.ts'],
  },
  {
    name: 'claim to know all of a volume when a replica is to be deleted',
    breaks: 'section 6: a store that went back',
    file: 'src/control/volume-state.ts',
    edits: [
      [
        'if (wasReady(record)) return { epoch: record.epoch, set_version: record.setVersion };',
        'if (wasReady(record)) return { epoch: 2 ** 40, set_version: 2 ** 40 };',
      ],
    ],
    tests: control,
  },
  {
    name: 'delete a good replica by the word of the record',
    breaks: 'decision 033',
    file: 'src/control/replica-steps.ts',
    edits: [['if (whole < parameters.replicas) {', 'if (whole < 0) {']],
    tests: control,
  },
  {
    name: 'never call a replica back',
    breaks: 'decision 033',
    file: 'src/control/membership-plan.ts',
    edits: [['if (spare !== undefined && here', 'if (spare?.spare === undefined && here']],
    tests: control,
  },
  {
    name: 'make all copies that are missing or none',
    breaks: 'decision 033',
    file: 'src/control/repairs.ts',
    edits: [['for (let fewer = count; fewer > 0; fewer--) {', 'for (let fewer = count; fewer === count; fewer--) {']],
    tests: control,
  },
  {
    name: 'let volumes that wait fill the slots of rebuilds',
    breaks: 'decision 033',
    file: 'src/control/repairs.ts',
    edits: [
      [
        "if (kind === 'create' || this.#copying.has(id)) rebuilding++;",
        'if (record.replicas.some((one) => !record.inSync.includes(one.id))) rebuilding++;',
      ],
    ],
    tests: control,
  },
  {
    name: 'count the dead among the copies that would not fare better',
    breaks: 'decision 033',
    file: 'src/control/membership-plan.ts',
    edits: [
      [
        "replica.state === 'ok' && !isInSync(replica) && isAlive(replica));",
        "replica.state === 'ok' && !isInSync(replica));",
      ],
    ],
    tests: control,
  },
  {
    name: 'let one go for a member that is not durable yet',
    breaks: 'promise 1',
    file: 'src/engine/replica-set.ts',
    edits: [["staying.filter((link) => link.state === 'in-sync' || link.ready).length", 'staying.length']],
    tests: engine,
  },
  {
    name: 'lose an attach to a maintenance engine',
    breaks: 'promise 9',
    file: 'src/agent/volumes.ts',
    edits: [['if (!lost || attempt === attachAttemptsMax', 'if (!lost || attempt > 0']],
    tests: ['test/unit/agent/volumes.test.ts'],
  },
  {
    name: 'order elsewhere while a volume is being attached',
    breaks: 'promise 9',
    file: 'src/control/engine-orders.ts',
    edits: [
      [
        'const preferred = record.publications[0]?.nodeId ?? record.engine?.nodeId;',
        'const preferred = record.engine?.nodeId ?? record.publications[0]?.nodeId;',
      ],
    ],
    tests: control,
  },
  {
    name: 'take for gone who was not heard while the controller slept',
    breaks: 'decision 033',
    file: 'src/control/repairs.ts',
    edits: [['if (clock.monotonicMs() - wakeMs > OVERSLEPT_MS) this', 'if (wakeMs < 0) this']],
    tests: control,
  },
  {
    name: 'drain a volume away from all nodes where it may be used',
    breaks: 'dataLocality required',
    file: 'src/control/membership-plan.ts',
    edits: [['  return pinnedTo.includes(nodeId) && !others', '  return pinnedTo.length > 9 && !others']],
    tests: control,
  },
];
