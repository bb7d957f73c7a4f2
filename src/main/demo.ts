// `holdfast demo`: the life of a replicated volume in about a minute, on this machine, through CSI. It starts a cluster of three
// nodes (`holdfast dev`), takes the parts of Kubernetes itself, and compares everything it is told with what it finds.
// Leaves nothing behind, however it ends. Exit code 0 only when every check held.

import { isatty } from 'node:tty';
import { formatBytes, HoldfastError, MiB, messageOf, precondition, realClock, realRandom } from '../base/index.js';
import { createExec } from '../platform/index.js';
import { type Clone, cloneSnapshot } from './demo/chapters/clone-snapshot.js';
import { createVolume } from './demo/chapters/create-volume.js';
import { expandVolume } from './demo/chapters/expand-volume.js';
import { type FailOver, failOver } from './demo/chapters/fail-over.js';
import { keepSecrets, refuseWrongKey } from './demo/chapters/keep-secrets.js';
import { killReplica } from './demo/chapters/kill-replica.js';
import { type Insight, lookInside } from './demo/chapters/look-inside.js';
import { sizeIsFree } from './demo/chapters/size-is-free.js';
import { startCluster } from './demo/chapters/start-cluster.js';
import { takeDown } from './demo/chapters/take-down.js';
import { type Overwritten, takeSnapshot } from './demo/chapters/take-snapshot.js';
import { writeFiles } from './demo/chapters/write-files.js';
import type { Cluster } from './demo/cluster.js';
import type { FileTree } from './demo/file-tree.js';
import { Interrupted, Interrupts } from './demo/interrupts.js';
import type { Pauses } from './demo/load.js';
import { lookAtMachine } from './demo/machine.js';
import { Report } from './demo/report.js';
import { type Scene, type Stage, seconds } from './demo/scene.js';
import { countLeftovers, describeLeftovers, Workplace } from './demo/workplace.js';
import { type FlagSpec, Flags } from './flags.js';

export const demoUsage = `holdfast demo: a replicated, encrypted volume through CSI on this machine, in about a minute

  --dir DIR    where its temporary directory is made (the system's)
  --nbd        drive the volume by an NBD client even where it could be mounted
  --plain      no colours

It needs root, FUSE and loop devices to mount the volume; without them it uses an NBD client.
`;

const flagSpec: FlagSpec = { dir: { type: 'string' }, nbd: { type: 'boolean' }, plain: { type: 'boolean' } };
const chapters = 12;
/** Three copies of the smallest tree and of what is added to it. */
const freeBytesMin = 800 * MiB;

export async function runDemo(argv: readonly string[]): Promise<number> {
  const flags = new Flags(argv, flagSpec, {});
  const plain = flags.isSet('plain') || (process.env.NO_COLOR ?? '') !== '';
  const screen = {
    write: (text: string) => process.stdout.write(text),
    isTTY: isatty(1),
    columns: process.stdout.columns,
  };
  // Whoever stops reading (`| head`) must not keep it from cleaning up.
  process.stdout.on('error', () => {});
  const report = new Report(screen, realClock, { stepsTotal: chapters, plain });
  const interrupts = new Interrupts(realClock, (name) => {
    report.note(`\n${name}: cleaning up; once more to do it by force`);
    report.endProgress();
  });
  const machine = lookAtMachine();
  const place = new Workplace(flags.optional('dir'));
  const mounts = machine.mountProblem === '' && !flags.isSet('nbd');
  const common = { report, clock: realClock, exec: createExec(), machine, place, mounts };
  const stage: Stage = { ...common, signal: interrupts.signal };
  let cluster: Cluster | undefined;
  let failure: unknown;
  try {
    introduce(stage);
    const scene = await report.step('Start a cluster of three nodes', () =>
      startCluster(stage, (started) => {
        cluster = started;
      }),
    );
    scene.cluster.onDeath((error) => interrupts.end(error));
    await tell(scene);
  } catch (error) {
    failure = interrupts.signal.aborted ? interrupts.signal.reason : error;
    explain(stage, cluster, failure);
  }
  const clean = await cleanUp(stage, cluster, interrupts.force);
  interrupts.dispose();
  return conclude(stage, failure, clean);
}

function introduce(stage: Stage): void {
  const { report, machine, place, mounts } = stage;
  report.heading('Holdfast: the life of a replicated volume, on this machine');
  if (mounts) report.say('root, FUSE and loop devices are here: the volume is mounted and used by ordinary programs');
  else {
    const why = machine.mountProblem === '' ? 'as asked by --nbd' : machine.mountProblem;
    report.note(`        NOT MOUNTED: the volume is driven by an NBD client instead of a mount (${why})`);
  }
  if (mounts && !machine.hasFio) report.say('fio is not installed: a copy loop takes its place');
  report.say(`everything lives in ${place.directory} and is removed at the end`);
  const free = place.freeBytes();
  if (free >= freeBytesMin) return;
  throw precondition(
    `${place.directory} has ${formatBytes(free)} free and the demo needs ${formatBytes(freeBytesMin)}: name another place with --dir`,
    'NoSpace',
  );
}

/** The story, chapter by chapter. */
async function tell(scene: Scene): Promise<void> {
  const { report } = scene;
  const key = realRandom.bytes(32).toString('hex');
  const [first, second, third] = scene.cluster.nodes.map(({ id }) => id) as [string, string, string];
  const born = await report.step('Create a volume and bring it into use', () => createVolume(scene, key, first));
  const tree = await report.step('Write a tree of files', () => writeFiles(scene, born));
  const diary = await report.step('Take a snapshot', () => takeSnapshot(scene, born));
  const pauses = await report.step('Kill a replica under load', () => killReplica(scene, born, third));
  const moved = await report.step('Kill the engine and move to another node', () =>
    failOver(scene, born, second, tree, diary),
  );
  const clone = await report.step('Clone the snapshot', () => cloneSnapshot(scene, moved.view, third, tree, diary));
  const grown = await report.step('Expand the volume', () => expandVolume(scene, moved.view));
  const insight = await report.step('Look inside', () => lookInside(scene, grown, tree));
  await report.step('Search the disks for secrets', async () => {
    await keepSecrets(scene, grown, key);
    await scene.consumer.detach(clone.view);
    await refuseWrongKey(scene, clone.view.volume, third);
  });
  await report.step('Do the same with a hundred times the size', () => sizeIsFree(scene, key));
  const volumes = [clone.view.volume, grown.volume];
  await report.step('Give everything back', () => takeDown(scene, [grown], volumes, [diary.snapshot]));
  scene.sidecars.close();
  summarise(report, { tree, diary, pauses, moved, clone, insight });
}

interface Findings {
  readonly tree: FileTree;
  readonly diary: Overwritten;
  readonly pauses: Pauses;
  readonly moved: FailOver;
  readonly clone: Clone;
  readonly insight: Insight;
}

function summarise(report: Report, { tree, diary, pauses, moved, clone, insight }: Findings): void {
  report.heading('What happened');
  report.table([
    ['step', 'time'],
    ...report.times.map((step) => [step.title, `${step.seconds.toFixed(1)} s`.padStart(7)]),
  ]);
  report.heading('What it showed');
  const { logicalBytes, allocatedBytes, storedBytes } = insight;
  const ratio = (allocatedBytes / Math.max(1, storedBytes)).toFixed(2);
  report.table([
    ['about', 'result'],
    ['volume', `${formatBytes(logicalBytes)}, three replicas in three zones, aes-256-gcm, lz4`],
    ['files', `${tree.files.length} of ${formatBytes(tree.bytes)}, the same at every step (${tree.fingerprint})`],
    ['space', `${formatBytes(allocatedBytes)} in use, ${formatBytes(storedBytes)} stored a copy, ${ratio} to 1`],
    ['snapshot, clone', `${seconds(diary.ms)}, ${seconds(clone.ms)}`],
    ['replica killed', `longest wait of a write ${seconds(pauses.longestMs)}, no error, 3 → 2 → 3 in sync`],
    ['engine killed', `in use on another node after ${seconds(moved.ms)}, nothing lost`],
    ['checks', `${report.checks} of ${report.checks} held`],
    ['time', seconds(report.times.reduce((sum, step) => sum + step.seconds * 1000, 0))],
  ]);
}

function explain(stage: Stage, cluster: Cluster | undefined, failure: unknown): void {
  if (failure instanceof Interrupted) return;
  const { report } = stage;
  report.failure(`\nIt failed: ${messageOf(failure)}`);
  if (failure instanceof Error && !(failure instanceof HoldfastError)) report.aside(failure.stack ?? '');
  const complaints = cluster?.complaints() ?? [];
  if (complaints.length === 0) return;
  report.say('what the parts complained of last:');
  for (const line of complaints) report.aside(`        ${line}`);
}

/** True when nothing had to be ended by force and nothing is left. */
async function cleanUp(stage: Stage, cluster: Cluster | undefined, force: AbortSignal): Promise<boolean> {
  const { report, place, exec, clock } = stage;
  place.endUsers();
  try {
    await cluster?.stop(force);
  } catch (error) {
    report.note(`        ${messageOf(error)}: it is ended by force`);
  }
  const left = countLeftovers(place.leftovers());
  try {
    if (left !== '') await place.sweep(exec, clock);
    place.remove();
  } catch (error) {
    report.failure(`        could not clean up: ${messageOf(error)}`);
    return false;
  }
  const stuck = describeLeftovers(place.leftovers());
  if (left !== '') report.note(`        ended by force: ${left}`);
  if (stuck !== '') report.failure(`        still there: ${stuck}`);
  return left === '' && stuck === '';
}

function conclude(stage: Stage, failure: unknown, clean: boolean): number {
  const { report, place } = stage;
  if (failure instanceof Interrupted) {
    report.note(clean ? 'Interrupted; nothing is left behind.' : 'Interrupted.');
    return failure.exitCode;
  }
  if (failure !== undefined) {
    if (clean) report.aside(`        ${place.directory} is removed, nothing is left behind`);
    report.failure('FAILED');
    return 1;
  }
  if (clean) report.success('\nEvery check held, and nothing is left behind.');
  else report.failure('\nEvery check held, but something had to be cleaned up by force.');
  return clean ? 0 : 1;
}
