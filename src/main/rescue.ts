// `holdfast rescue`: what lies in pools whose daemons and metadata are gone. Reads only: no file of a pool is opened for writing, no lock of
// it is taken. Exit code 0 when everything asked for was done whole, 1 otherwise.

import { closeSync, existsSync, fsyncSync, linkSync, openSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import {
  errnoOf,
  formatBytes,
  HoldfastError,
  invalid,
  messageOf,
  parseUuid,
  precondition,
  realClock,
  realRandom,
  type SnapshotId,
  type VolumeId,
} from '../base/index.js';
import { createSqliteStore } from '../meta/index.js';
import {
  byVolume,
  type FoundPlaces,
  type FoundVolume,
  fillStore,
  findReplicas,
  inspectVolume,
  type RebuiltVolume,
  type ReplicaPlace,
  readVolume,
  rebuildVolume,
  unknown,
  volumeFacts,
  volumeText,
} from '../rescue/index.js';
import { isPoolLocked, NodeDisk, ReadOnlyDisk } from '../segment/index.js';
import { type FlagSpec, Flags } from './flags.js';
import { type ClosableSink, fileSink, streamSink } from './rescue-output.js';

export const rescueUsage = `holdfast rescue: reads volumes, and rebuilds the metadata, out of pools alone

  holdfast rescue list DIR...                what lies there, volume by volume
  holdfast rescue read --volume ID --out FILE DIR...
                                             a volume as a raw image; exit code 1 when a part could not be read
  holdfast rescue metadata --out FILE DIR... a new metadata file for "holdfast controller --database FILE"

DIR is a pool, or the directory of one replica. Name the pools of all nodes: what is in none of them can't be known. Nothing in them is
changed and no lock is taken; stop their storage daemons first (those in other containers can't be seen from here).

  --json               for programs: one JSON object a line on standard output (of "read --out -" on standard error)
  --force              also while a daemon holds a pool; for "read" also what an open would refuse, which may be old
read
  --volume ID          of the volume
  --snapshot ID        of one of its snapshots instead of the volume as it is now
  --key-file FILE      the key of an encrypted volume, as the field "encryptionKey" of its secret has it, or 32 raw bytes
  --out FILE           a new file, sparse; "-" for standard output
metadata
  --out FILE           a new file
  --accept-loss ID     rebuild this volume though not all its replicas were found; repeatable, kept in the metadata
  --leave-out ID       don't rebuild this volume; repeatable
`;

const flagSpec: FlagSpec = {
  json: { type: 'boolean' },
  force: { type: 'boolean' },
  volume: { type: 'string' },
  snapshot: { type: 'string' },
  'key-file': { type: 'string' },
  out: { type: 'string' },
  'accept-loss': { type: 'string', multiple: true },
  'leave-out': { type: 'string', multiple: true },
};

interface Order {
  readonly flags: Flags;
  readonly json: boolean;
  readonly force: boolean;
  readonly disk: ReadOnlyDisk;
  readonly found: FoundPlaces;
  /** The directories as they were resolved. */
  readonly paths: readonly string[];
  readonly signal: AbortSignal;
}

type Say = (facts: object, text: string) => void;

/** Resolves with the exit code. */
export async function runRescue(argv: readonly string[], signal: AbortSignal): Promise<number> {
  // Whoever stops reading (`| head`) is no reason to fail loudly.
  if (process.stdout.listenerCount('error') === 0) process.stdout.on('error', () => {});
  const [name, ...rest] = argv;
  const run = name === undefined ? undefined : { list: runList, read: runRead, metadata: runMetadata }[name];
  if (run === undefined)
    throw invalid(
      `it must be "list", "read" or "metadata", not ${JSON.stringify(name ?? '')}; see holdfast rescue --help`,
    );
  const flags = new Flags(rest, flagSpec, {}, true);
  checkFlags(flags, name!);
  if (flags.operands.length === 0) throw invalid('name the pools, or directories of replicas, to look at');
  const paths = [...new Set(flags.operands.map(resolved))];
  const force = flags.isSet('force');
  for (const path of paths) refuseLocked(path, force);
  const disk = new ReadOnlyDisk(new NodeDisk());
  const found = findReplicas(disk, paths);
  return run({ flags, json: flags.isSet('json'), force, disk, found, paths, signal });
}

/** A flag that does nothing here is a mistake that must not go unnoticed. */
function checkFlags(flags: Flags, name: string): void {
  const known: Record<string, readonly string[]> = {
    read: ['volume', 'snapshot', 'key-file', 'out'],
    metadata: ['out', 'accept-loss', 'leave-out'],
  };
  for (const flag of ['volume', 'snapshot', 'key-file', 'out', 'accept-loss', 'leave-out']) {
    const given = flags.optional(flag) !== undefined || flags.list(flag).length > 0;
    if (given && !known[name]?.includes(flag)) throw invalid(`--${flag} means nothing to "holdfast rescue ${name}"`);
  }
}

function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    throw precondition(`${path} can't be looked at: ${messageOf(error)}`, 'PoolMissing');
  }
}

/** The pool's lock, or that of the pool in which a replica's directory lies. */
function refuseLocked(path: string, force: boolean): void {
  const pools = [path, ...(basename(dirname(path)) === 'replicas' ? [dirname(dirname(path))] : [])];
  const locked = pools.find((pool) => isPoolLocked(join(pool, 'pool.lock')));
  if (locked === undefined) return;
  if (!force)
    throw precondition(
      `a running daemon holds pool ${locked}: stop it, or look with --force, and what it changes meanwhile may be missed`,
      'PoolInUse',
    );
  warn(`a running daemon holds pool ${locked}: what it changes meanwhile may be missed`);
}

function warn(text: string): void {
  process.stderr.write(`holdfast rescue: ${text}\n`);
}

function interrupted(): HoldfastError {
  return new HoldfastError('CANCELLED', 'interrupted');
}

async function runList({ json, disk, found, signal }: Order): Promise<number> {
  let whole = found.notes.length === 0;
  for (const note of found.notes) warn(note);
  const volumes = byVolume(found.places);
  if (volumes.size === 0) warn('there is no replica in these directories');
  for (const [volumeId, places] of volumes) {
    if (signal.aborted) throw interrupted();
    const volume = await inspectVolume(disk, volumeId, places, realClock);
    try {
      if (volume.replicas.some(({ replica }) => replica === null)) whole = false;
      process.stdout.write(json ? `${JSON.stringify(volumeFacts(volume))}\n` : `${volumeText(volume)}\n`);
    } finally {
      volume.close();
    }
  }
  return whole ? 0 : 1;
}

// --- read

async function runRead(order: Order): Promise<number> {
  const { flags, json, force, disk, found, paths, signal } = order;
  const volumeId = parseUuid<VolumeId>(flags.text('volume'), '--volume');
  const snapshot = flags.optional('snapshot');
  const snapshotId = snapshot === undefined ? null : parseUuid<SnapshotId>(snapshot, '--snapshot');
  const out = flags.text('out');
  if (out !== '-') refuseInside(out, paths);
  for (const note of found.notes) warn(note);
  const keyFile = readKey(flags.optional('key-file'));
  const say = sayer(json, out === '-');
  const volume = await inspectVolume(disk, volumeId, placesOf(found, volumeId), realClock);
  let sink: ClosableSink | undefined;
  let used: readonly { readonly directory: string; changed(): boolean }[] = [];
  try {
    const openSink = async () => {
      sink = out === '-' ? streamSink(process.stdout) : await fileSink(out);
      return sink;
    };
    const copied = await readVolume(
      volume,
      { snapshotId, keyFile, force, signal },
      openSink,
      eventsTo(say, (all) => {
        used = all;
      }),
      realClock,
    );
    const changed = used.filter((replica) => replica.changed()).map(({ directory }) => directory);
    for (const directory of changed)
      warn(`${directory} changed while it was read: what was read may be wrong; stop its daemon and read again`);
    const bad =
      copied.unreadableRanges === 0
        ? 'all of it was read'
        : `${copied.unreadableBytes} bytes in ${copied.unreadableRanges} ranges COULD NOT BE READ and are zeroes in ${out}`;
    say(
      { event: 'done', ...copied, changed },
      `${formatBytes(copied.sizeBytes)}, ${formatBytes(copied.dataBytes)} of data: ${bad}`,
    );
    return copied.unreadableRanges === 0 && changed.length === 0 ? 0 : 1;
  } finally {
    keyFile?.fill(0);
    await sink?.close();
    volume.close();
  }
}

function eventsTo(say: Say, used: (all: readonly { readonly directory: string; changed(): boolean }[]) => void) {
  return {
    chosen({ source, others, warnings }: Parameters<Parameters<typeof readVolume>[3]['chosen']>[0]) {
      used([source, ...others]);
      for (const warning of warnings) warn(`WARNING: ${warning}`);
      const { end } = source.status;
      say(
        {
          event: 'source',
          directory: source.directory,
          end,
          others: others.map(({ directory }) => directory),
          warnings,
        },
        `from ${source.directory} (log ends at ${end.epoch}/${end.seq})`,
      );
    },
    substituted(directory: string, segment: string, offset: number, length: number) {
      const place = `${directory}/${segment}, bytes ${offset} to ${offset + length}`;
      say({ event: 'damaged', directory, segment, offset, length }, `damaged and read from another replica: ${place}`);
    },
    unreadable(offset: number, length: number) {
      say({ event: 'unreadable', offset, length }, `UNREADABLE: bytes ${offset} to ${offset + length} of the volume`);
    },
  };
}

/** Where the volume itself goes to standard output, everything else goes to standard error. */
function sayer(json: boolean, toStderr: boolean): Say {
  const stream = toStderr ? process.stderr : process.stdout;
  return (facts, text) => stream.write(json ? `${JSON.stringify(facts)}\n` : `${text}\n`);
}

function placesOf(found: FoundPlaces, volumeId: VolumeId): readonly ReplicaPlace[] {
  const places = byVolume(found.places).get(volumeId);
  if (places !== undefined) return places;
  const none = `no replica of volume ${volumeId} is in these directories; "holdfast rescue list" shows what is`;
  throw new HoldfastError('NOT_FOUND', none);
}

function readKey(path: string | undefined): Buffer | null {
  if (path === undefined) return null;
  try {
    return readFileSync(path);
  } catch (error) {
    throw precondition(`--key-file ${path} can't be read: ${messageOf(error)}`, 'MissingKey');
  }
}

function refuseInside(out: string, paths: readonly string[]): void {
  const folder = resolved(dirname(out));
  const inside = paths.find((path) => folder === path || folder.startsWith(path + sep));
  if (inside !== undefined)
    throw invalid(`--out ${out} lies in ${inside}, where nothing may be changed: choose another place`);
}

// --- metadata

async function runMetadata({ flags, json, disk, found, paths, signal }: Order): Promise<number> {
  const out = flags.text('out');
  refuseInside(out, paths);
  if (existsSync(out)) throw notEmpty(out);
  const listed = (name: string) => new Set(flags.list(name).map((id) => parseUuid<VolumeId>(id, `--${name}`)));
  const [accepted, leftOut] = [listed('accept-loss'), listed('leave-out')];
  const say = sayer(json, false);
  for (const note of found.notes) warn(note);
  const volumes = byVolume(found.places);
  for (const id of [...accepted, ...leftOut])
    if (!volumes.has(id)) throw invalid(`there is no replica of volume ${id} in these directories`);
  const rebuilt: RebuiltVolume[] = [];
  let refused = 0;
  for (const [volumeId, places] of volumes) {
    if (signal.aborted) throw interrupted();
    if (leftOut.has(volumeId)) continue;
    const volume = await inspectVolume(disk, volumeId, places, realClock);
    try {
      rebuilt.push(await rebuildOne(volume, accepted.has(volumeId)));
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      refused++;
      say({ event: 'refused', volumeId, message: error.message }, `REFUSED: ${error.message}`);
    } finally {
      volume.close();
    }
  }
  if (rebuilt.length + refused === 0) throw precondition('there is nothing to rebuild in these directories');
  if (refused > 0)
    throw precondition(
      `nothing was written: ${refused} of ${rebuilt.length + refused} volumes can't be rebuilt safely; see above, or leave them out with --leave-out ID`,
    );
  const clashes = await writeStore(out, rebuilt);
  report(say, rebuilt, [...leftOut], clashes, out);
  return 0;
}

function notEmpty(out: string): HoldfastError {
  return new HoldfastError('ALREADY_EXISTS', `${out} exists already: rebuilt metadata goes into a new file only`);
}

async function rebuildOne(volume: FoundVolume, acceptLoss: boolean): Promise<RebuiltVolume> {
  const rebuilt = await rebuildVolume(volume, acceptLoss, realClock);
  const changing = volume.replicas.find(({ replica }) => replica?.changed());
  if (changing !== undefined)
    throw precondition(
      `${changing.place.directory} changed while it was looked at: stop its daemon first`,
      'PoolInUse',
    );
  return rebuilt;
}

/** The file appears whole, under its name, or not at all. Its versions begin above those of any store that daemons may remember. */
async function writeStore(out: string, rebuilt: readonly RebuiltVolume[]): Promise<string[]> {
  const partial = `${out}.${realRandom.uuid()}`;
  try {
    const store = await createSqliteStore({ file: partial, random: realRandom }, realClock.wallMs());
    let clashes: string[];
    try {
      clashes = await fillStore(store, rebuilt);
    } finally {
      await store.close();
    }
    try {
      linkSync(partial, out);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      throw notEmpty(out);
    }
    syncDirectory(dirname(out));
    return clashes;
  } finally {
    for (const suffix of ['', '-journal', '-wal', '-shm']) rmSync(partial + suffix, { force: true });
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function report(
  say: Say,
  rebuilt: readonly RebuiltVolume[],
  leftOut: readonly VolumeId[],
  clashes: readonly string[],
  out: string,
): void {
  for (const { volume, snapshots, rescue, notes } of rebuilt) {
    const lines = [
      `volume ${volume.id} ${JSON.stringify(volume.name)}: ${formatBytes(volume.sizeBytes)}, ${volume.inSync.length} of ${volume.replicas.length} replicas in sync, epoch ${volume.epoch}, ${snapshots.length} snapshots, from ${rescue.readFrom}`,
      ...rescue.acceptedLoss.map(
        (member) => `  LOSS ACCEPTED: replica ${member.replicaId}, incarnation ${member.incarnationId}`,
      ),
      ...notes.map((note) => `  ${note}`),
    ];
    say({ event: 'rebuilt', volume, snapshots, rescue, notes }, lines.join('\n'));
  }
  for (const clash of clashes) say({ event: 'note', message: clash }, clash);
  for (const volumeId of leftOut) say({ event: 'left-out', volumeId }, `left out: volume ${volumeId}`);
  const lines = [
    'what the pools do not know, and the new metadata therefore lacks:',
    ...unknown.map((one) => `  - ${one}`),
  ];
  say({ event: 'unknown', unknown }, lines.join('\n'));
  say({ event: 'written', file: out, volumes: rebuilt.length }, `${rebuilt.length} volumes are in ${out}`);
}
