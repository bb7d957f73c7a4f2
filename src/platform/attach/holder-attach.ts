// The port "attach" by holder processes. This side is the node plugin's: stateless, it finds holders by their sockets, starts
// them, and clears up after dead ones. All that must survive its restart is in the holder.

import { existsSync } from 'node:fs';
import { mkdir, realpath } from 'node:fs/promises';
import { type Clock, HoldfastError, type Logger, messageOf, unavailable, type VolumeId } from '../../base/index.js';
import type { Exec } from '../exec.js';
import { askHolder, type ControlCall, NoHolderError } from './control-client.js';
import { isDeposed } from './export-keeper.js';
import { findDevice } from './kernel-nbd/block-files.js';
import type { KernelDevice } from './kernel-nbd/port.js';
import { clearLeftovers, lockVolume, removeFiles, volumesIn } from './leftovers.js';
import { listLoops } from './loop-device.js';
import { type AttachPaths, attachDirectory, attachPaths } from './paths.js';
import type { Attach, AttachedDevice, AttachSpec, AttachStatus, ExportSource } from './port.js';

export interface HolderAttachOptions {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Holds `attach/` with each volume's socket; made when missing. */
  readonly runDir: string;
  /** Starts a holder; `--volume ID --run-dir DIR` are added. */
  readonly holder: { readonly program: string; readonly args: readonly string[] };
  /** To close the export of a volume whose holder is dead. */
  readonly source: Pick<ExportSource, 'close'>;
  /** How long a holder may take until it answers, and until it is gone: 1,000 to 300,000; 15,000 without. */
  readonly launchTimeoutMs?: number;
}

/** Covers the holder's patience with a daemon that is away, plus the engine's recovery. */
const openTimeoutMs = 90_000;
const detachTimeoutMs = 120_000;
const growTimeoutMs = 60_000;
const statusTimeoutMs = 5_000;
const defaultLaunchTimeoutMs = 15_000;
/** Between two looks for a process that starts or ends. */
const pollMs = 10;
const lockedDelayMs = 200;
const attemptsMax = 4;
/**
 * RLIMIT_CORE 1 and not 0: with a core_pattern that pipes to a program the kernel ignores the limit except for this one
 * value, and a file of one byte is too small to be written.
 */
const noCoreDumps = ['--core=1:1'];

export class HolderAttach implements Attach {
  readonly #options: HolderAttachOptions;
  readonly #launchTimeoutMs: number;
  readonly #chains = new Map<VolumeId, Promise<unknown>>();
  #runDir: Promise<string> | undefined;

  constructor(options: HolderAttachOptions) {
    this.#options = options;
    this.#launchTimeoutMs = options.launchTimeoutMs ?? defaultLaunchTimeoutMs;
  }

  attach(spec: AttachSpec): Promise<AttachedDevice> {
    return this.#alone(spec.volumeId, async () => {
      const paths = await this.#paths(spec.volumeId);
      for (let attempt = 1; ; attempt++) {
        try {
          const call: ControlCall = { op: 'open', ...spec };
          return (await askHolder(paths.socket, call, openTimeoutMs)) as AttachedDevice;
        } catch (error) {
          if (attempt >= attemptsMax || !(await this.#makeWay(paths, spec.volumeId, error))) throw plain(error, paths);
        }
      }
    });
  }

  /** After a failed open: true when something was done about it, so that another try makes sense. */
  async #makeWay(paths: AttachPaths, volumeId: VolumeId, error: unknown): Promise<boolean> {
    if (error instanceof NoHolderError) {
      await this.#launch(paths, volumeId);
      return true;
    }
    // What a predecessor could not finish, or the device of a time before another node had the volume, goes first.
    const unfinished = error instanceof HoldfastError && error.code === 'ABORTED';
    if (!unfinished && !isDeposed(error)) return false;
    const status = await this.#ask(paths).catch(() => undefined);
    // A fresh holder that was refused is ending by itself: that is an answer, not a leftover.
    if (status?.state !== 'failed' && status?.state !== 'detaching') return false;
    if (status.devicePath === '') await this.#waitGone(paths, status.pid);
    else await this.#detach(paths, volumeId, status.state === 'failed');
    return true;
  }

  detach(volumeId: VolumeId, options: { readonly force?: boolean } = {}): Promise<void> {
    return this.#alone(volumeId, async () => {
      const paths = await this.#paths(volumeId);
      await this.#detach(paths, volumeId, options.force ?? false);
    });
  }

  async #detach(paths: AttachPaths, volumeId: VolumeId, force: boolean): Promise<void> {
    for (let attempt = 1; attempt <= attemptsMax; attempt++) {
      try {
        const { pid } = await this.#ask(paths);
        await askHolder(paths.socket, { op: 'detach', force }, detachTimeoutMs);
        await this.#waitGone(paths, pid);
        return await removeFiles([paths.log]);
      } catch (error) {
        if (!(error instanceof NoHolderError)) throw error;
      }
      if (await findDevice(paths.identifier)) {
        // The device lives on without a holder. It takes one to flush it and to let it go.
        await this.#launch(paths, volumeId);
        continue;
      }
      if (await this.#clear(paths, volumeId)) return;
      // Somebody has the lock but does not listen yet: a holder that is starting or ending.
      await this.#options.clock.sleep(lockedDelayMs);
    }
    throw unavailable(`the holder of volume ${volumeId} is neither there nor gone: try again`);
  }

  /** Clears up after a dead holder; false when the volume's lock is taken. */
  async #clear(paths: AttachPaths, volumeId: VolumeId): Promise<boolean> {
    const { exec, clock, logger, source } = this.#options;
    const lock = await lockVolume(paths);
    if (!lock) return false;
    try {
      await clearLeftovers(exec, clock, paths, volumeId);
      try {
        await source.close(volumeId);
      } catch (error) {
        // A daemon that is away has no engine open.
        if (!(error instanceof HoldfastError) || error.code !== 'UNAVAILABLE') throw error;
        logger.warn({ volumeId, reason: messageOf(error) }, 'the export was not closed');
      }
      await removeFiles([paths.log]);
    } finally {
      await lock.release();
    }
    return true;
  }

  grow(volumeId: VolumeId, sizeBytes: number): Promise<AttachedDevice> {
    return this.#alone(volumeId, async () => {
      const paths = await this.#paths(volumeId);
      try {
        return (await askHolder(paths.socket, { op: 'grow', sizeBytes }, growTimeoutMs)) as AttachedDevice;
      } catch (error) {
        if (!(error instanceof NoHolderError)) throw error;
        throw new HoldfastError('NOT_FOUND', `volume ${volumeId} is not attached here`);
      }
    });
  }

  async list(): Promise<AttachStatus[]> {
    const volumes = await volumesIn(attachDirectory(await this.#directory()));
    const all = await Promise.all(volumes.map((volumeId) => this.status(volumeId)));
    return all.filter((status) => status !== undefined);
  }

  async status(volumeId: VolumeId): Promise<AttachStatus | undefined> {
    const paths = await this.#paths(volumeId);
    try {
      return await this.#ask(paths);
    } catch (error) {
      if (!(error instanceof NoHolderError)) throw error;
    }
    const orphan = await findDevice(paths.identifier);
    if (orphan) return orphaned(volumeId, orphan);
    const loop = (await listLoops(this.#options.exec)).find((device) => device.backingFile === paths.file);
    if (!loop && !(await volumesIn(paths.directory)).includes(volumeId)) return undefined;
    return {
      ...noHolder(volumeId),
      kind: 'fuse-loop',
      state: 'dead',
      devicePath: loop?.devicePath ?? '',
      lastError: 'its holder was killed: unmount, then detach or attach again',
    };
  }

  async #ask(paths: AttachPaths): Promise<AttachStatus> {
    return (await askHolder(paths.socket, { op: 'status' }, statusTimeoutMs)) as AttachStatus;
  }

  /** Starts a holder and waits until it answers. */
  async #launch(paths: AttachPaths, volumeId: VolumeId): Promise<void> {
    const { exec, clock, logger, holder } = this.#options;
    const runDir = await this.#directory();
    const args = [...noCoreDumps, holder.program, ...holder.args, '--volume', volumeId, '--run-dir', runDir];
    const pid = await exec.spawnDetached('prlimit', args, { logFile: paths.log });
    logger.info({ volumeId, pid }, 'holder started');
    const endMs = clock.monotonicMs() + this.#launchTimeoutMs;
    while (clock.monotonicMs() < endMs) {
      try {
        // Without its socket nothing has to be asked: this is looked at often.
        if (existsSync(paths.socket)) return void (await this.#ask(paths));
      } catch (error) {
        if (!(error instanceof NoHolderError)) throw error;
      }
      if (!isAlive(pid) && (await this.#hasNone(paths, volumeId))) return;
      await clock.sleep(pollMs);
    }
    throw unavailable(`the holder of volume ${volumeId} does not answer: see ${paths.log}`);
  }

  /**
   * After a holder ended before it listened: true when there really is none. It may have met one that was just ending,
   * or leftovers that can't be cleared; those are this call's error then.
   */
  async #hasNone(paths: AttachPaths, volumeId: VolumeId): Promise<boolean> {
    const { exec, clock } = this.#options;
    const lock = await lockVolume(paths);
    if (!lock) return false;
    try {
      await clearLeftovers(exec, clock, paths, volumeId);
    } finally {
      await lock.release();
    }
    return true;
  }

  async #waitGone(paths: AttachPaths, pid: number): Promise<void> {
    const { clock } = this.#options;
    const endMs = clock.monotonicMs() + this.#launchTimeoutMs;
    while (isAlive(pid)) {
      if (clock.monotonicMs() >= endMs) throw unavailable(`the holder (pid ${pid}) at ${paths.socket} does not end`);
      await clock.sleep(pollMs);
    }
  }

  async #paths(volumeId: VolumeId): Promise<AttachPaths> {
    return attachPaths(await this.#directory(), volumeId);
  }

  #directory(): Promise<string> {
    this.#runDir ??= makeDirectory(this.#options.runDir).catch((error) => {
      this.#runDir = undefined;
      throw error;
    });
    return this.#runDir;
  }

  /** Operations on one volume follow each other. */
  #alone<T>(volumeId: VolumeId, work: () => Promise<T>): Promise<T> {
    const before = this.#chains.get(volumeId) ?? Promise.resolve();
    const result = before.then(work, work);
    const settled = result.then(
      () => {},
      () => {},
    );
    this.#chains.set(volumeId, settled);
    void settled.then(() => {
      if (this.#chains.get(volumeId) === settled) this.#chains.delete(volumeId);
    });
    return result;
  }
}

function noHolder(volumeId: VolumeId) {
  const none = { pid: 0, bridgePid: 0, reconnects: 0, respawns: 0, counters: {} };
  return { ...none, volumeId, sizeBytes: 0, readOnly: false };
}

function orphaned(volumeId: VolumeId, { devicePath, sizeBytes, readOnly }: KernelDevice): AttachStatus {
  return {
    ...noHolder(volumeId),
    kind: 'kernel-nbd',
    state: 'orphaned',
    devicePath,
    sizeBytes,
    readOnly,
    lastError: 'its holder was killed: attach again, or a restart of the storage daemon will be an outage',
  };
}

async function makeDirectory(runDir: string): Promise<string> {
  await mkdir(attachDirectory(runDir), { recursive: true, mode: 0o700 });
  return realpath(runDir);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function plain(error: unknown, paths: AttachPaths): unknown {
  return error instanceof NoHolderError ? unavailable(`${error.message}: see ${paths.log}`, error) : error;
}
