// Does damage to a specimen's files, lets the product meet it, and judges what came of it: the bytes are as they were again, or
// an error names the place. Never other bytes, never a hang, never another kind of failure.

import { BLOCK_SIZE, HoldfastError } from '../../../src/base/index.js';
import { decodeSuperblock, PAGE_ENTRIES, parseSegmentFileName } from '../../../src/format/index.js';
import type { RecordingDisk } from '../recording-disk.js';
import { readAt, runsOf } from './client.js';
import type { Region } from './places.js';
import { poolPath, type Session, type SimNode, type SimWorld } from './sim-world.js';
import type { Specimen } from './specimen.js';
import { checkPromises, openAgain, sameWritten } from './verify.js';

export interface Damage {
  /** For people: "a bit of ...". */
  readonly what: string;
  /** The file that an error must name. */
  readonly file: string;
  /** Or this one. */
  readonly before?: string | undefined;
  /** Where in it; null: the file as a whole. */
  readonly region: Region | null;
  apply(disk: RecordingDisk): void;
}

export interface Outcome {
  readonly kind: 'repaired' | 'reported' | 'cut';
  readonly opened: boolean;
  /** What the product said. */
  readonly text: string;
}

const fileName = (path: string) => path.replace(/^.*\//, '');

/** Files that a life after the specimen's keeps when nothing is damaged. */
export async function keptFiles(specimen: Specimen): Promise<string[]> {
  const none: Damage = { what: 'nothing', file: '', region: null, apply: () => {} };
  let kept: string[] = [];
  const outcome = await meet(specimen, none, [], (after) => {
    kept = after.nodes[0]!.disk.list(`${poolPath}/replicas/${specimen.volumeId}`);
  });
  if (outcome.text !== '') throw new Error(`an undamaged volume has something to say: ${outcome.text}`);
  return kept;
}

export async function meet(
  specimen: Specimen,
  damage: Damage,
  victims: readonly number[],
  kept: readonly string[] | ((after: SimWorld) => void),
): Promise<Outcome> {
  const { world, volumeId } = specimen;
  const meddle = (node: SimNode) => {
    if (victims.includes(node.index)) damage.apply(node.disk);
  };
  const after = await world.crashedAt(world.moment, 1, () => 'kept', ['durable', 'acked'], { meddle });
  const said: string[] = after.refused.map(sentence);
  const up = after.nodes.find((node) => node.host !== null);
  let cut = false;
  let opened = false;
  if (up !== undefined) {
    try {
      const session = await after.until(openAgain(after, volumeId, up, 2), 'open');
      opened = true;
      cut = missesTail(specimen, after, session, damage, victims);
      said.push(...(await after.until(readEverything(specimen, after, session, damage, cut), 'read')));
      said.push(...(await after.until(session.engine.scrub(), 'scrub')).damage);
      await after.until(new Promise<void>((resolve) => after.time.after(20_000, resolve)), 'time');
      said.push(...session.engine.status().replicas.map((replica) => replica.message));
      await after.until(session.engine.close(), 'close');
    } catch (error) {
      // A contradiction that a check found, and not something the product said.
      if (!(error instanceof HoldfastError)) throw error;
      said.push(sentence(error));
    }
  }
  for (const node of after.nodes) said.push(...(node.host?.status(null).map((report) => report.problem) ?? []));
  const text = [...said, ...after.log.map((line) => `${line.message} ${JSON.stringify(line.fields)}`)].join('\n');
  if (cut) return { kind: 'cut', opened, text };
  if (typeof kept === 'function') {
    kept(after);
    return { kind: 'repaired', opened, text: text.trim() };
  }
  const wrong = victims
    .map((index) => stillWrong(specimen, after, after.nodes[index]!, kept))
    .filter((fault) => fault !== null);
  if (wrong.length === 0) return { kind: 'repaired', opened, text };
  if (names(text, damage)) return { kind: 'reported', opened, text };
  throw new Error(
    `nothing was repaired and no error names the place: ${wrong.join('; ')}. What was said:\n${text || 'nothing'}`,
  );
}

function sentence(error: unknown): string {
  if (!(error instanceof HoldfastError)) throw error;
  return error.message;
}

/**
 * A frame that nothing claims durable, damaged on every replica, can't be told from one torn by a crash: it may be cut, with
 * what follows it, and nothing else.
 */
function missesTail(
  specimen: Specimen,
  after: SimWorld,
  session: Session,
  damage: Damage,
  victims: readonly number[],
): boolean {
  try {
    checkPromises(after, specimen.volumeId, session);
    return false;
  } catch (error) {
    const { takenOver, frames } = after.models.get(specimen.volumeId)!;
    const end = frames.get(takenOver.get(session.reign.epoch) ?? '')?.seq ?? 0;
    const all = victims.length === after.nodes.length;
    if (all && end >= specimen.claimedSeq && (damage.region?.seq ?? specimen.end) > end) return true;
    throw error;
  }
}

/** Every block is right or an error; returns what was said of those that were not readable. */
async function readEverything(
  specimen: Specimen,
  after: SimWorld,
  session: Session,
  damage: Damage,
  cut: boolean,
): Promise<string[]> {
  const model = after.models.get(specimen.volumeId)!;
  const state = cut ? model.stateAt(model.takenOver.get(session.reign.epoch)!) : specimen.state;
  if (session.engine.sizeBytes !== state.sizeBytes)
    throw new Error(`the volume has ${session.engine.sizeBytes} bytes, must have ${state.sizeBytes}`);
  // A damaged map may give places to blocks that were never written.
  const map = damage.region === null || /^(page|node|table|root)/.test(damage.region.name);
  for (const [block, count] of runsOf(map ? wholePages(model.touched, state.sizeBytes) : model.touched)) {
    const got = await readAt(session, block * BLOCK_SIZE, count * BLOCK_SIZE).catch(() => null);
    for (let i = 0; i < count; i++) {
      const part =
        got?.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE) ??
        (await readAt(session, (block + i) * BLOCK_SIZE, BLOCK_SIZE).catch(() => null));
      if (part === null) continue;
      const want = state.blocks.get(block + i) ?? zeroes;
      if (!part.equals(want)) throw new Error(`block ${block + i} reads other bytes than were written`);
    }
  }
  return [];
}

const zeroes = Buffer.alloc(BLOCK_SIZE);

/** Every block of each map page that was touched. */
function* wholePages(blocks: Iterable<number>, sizeBytes: number): Generator<number> {
  const pages = new Set<number>();
  for (const block of blocks) pages.add(Math.floor(block / PAGE_ENTRIES));
  for (const page of pages)
    for (let i = 0; i < PAGE_ENTRIES; i++)
      if ((page * PAGE_ENTRIES + i + 1) * BLOCK_SIZE <= sizeBytes) yield page * PAGE_ENTRIES + i;
}

/** What of a replica's files is not as it was, or null. Superblocks and the log's newest part move on; they must be whole. */
function stillWrong(specimen: Specimen, after: SimWorld, node: SimNode, kept: readonly string[]): string | null {
  const original = specimen.world.nodes[0]!.disk;
  const directory = `${poolPath}/replicas/${specimen.volumeId}`;
  for (const name of original.list(directory)) {
    const path = `${directory}/${name}`;
    if (node.disk.stat(path) === undefined) {
      if (kept.includes(name)) return `${name} is missing on ${node.nodeId}`;
      continue;
    }
    const bytes = node.disk.contents(path);
    if (parseSegmentFileName(name) !== undefined) {
      // Zeroes that were written ahead of its end are cut off when it is opened.
      if (!sameWritten(bytes, original.contents(path))) return `${name} on ${node.nodeId} is not what it was`;
    } else {
      const slot = decodeSuperblock(bytes);
      if (typeof slot === 'string') return `${name} on ${node.nodeId} is bad (${slot})`;
    }
  }
  const identity = `${poolPath}/pool.json`;
  if (node.disk.stat(identity) === undefined) return 'pool.json is missing';
  if (!node.disk.contents(identity).equals(specimen.world.nodes[node.index]!.disk.contents(identity)))
    return 'pool.json is not what it was';
  const record = after.volumes.get(specimen.volumeId)!;
  const member = record.members.find((one) => one.node === node.index)!;
  return record.inSync.includes(member.replicaId) ? null : `${node.nodeId} is not in sync`;
}

/** The text names the file, and an offset within the damaged structure. */
function names(text: string, damage: Damage): boolean {
  if (damage.before !== undefined && text.includes(fileName(damage.before))) return true;
  const name = fileName(damage.file);
  if (!text.includes(name)) return false;
  if (damage.region === null || parseSegmentFileName(name) === undefined) return true;
  const { from, to } = damage.region.whole;
  for (const match of text.matchAll(/(?:byte|bytes|offset) (\d+)(?: to (\d+))?/g)) {
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (first <= to && last >= from) return true;
  }
  return false;
}
