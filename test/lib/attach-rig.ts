// One volume with a storage daemon of its own that can be killed, for tests of what turns it into a device.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createExportSource } from '../../src/agent/index.js';
import { realClock, silentLogger, type VolumeId } from '../../src/base/index.js';
import {
  createExec,
  createFilesystems,
  createMounter,
  type DeviceChoice,
  HolderAttach,
} from '../../src/platform/index.js';
import { distFolder } from './build-once.js';

const run = promisify(execFile);
/** Runs a program; rejects with what it wrote when it fails. */
export const sh = (program: string, ...args: string[]) => run(program, args).then(({ stdout }) => stdout.trim());
export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const exec = createExec();
export const mounter = createMounter(exec, realClock);
export const filesystems = createFilesystems(exec);
const rigs: AttachRig[] = [];

export interface RigOptions {
  /** Where programs start slowly. */
  readonly launchTimeoutMs?: number;
}

/** One volume with its storage daemon. */
export class AttachRig {
  readonly directory = realpathSync(mkdtempSync(join(tmpdir(), 'hf-')));
  readonly runDir = join(this.directory, 'run');
  readonly mountPoint = join(this.directory, 'mnt');
  readonly volumeId = randomUUID() as VolumeId;
  readonly key = randomBytes(32);
  readonly source: ReturnType<typeof createExportSource>;
  readonly attach: HolderAttach;
  readonly #choice: DeviceChoice;
  readonly #options: RigOptions;
  #daemon: ChildProcess | undefined;

  constructor(sizeBytes: number, choice: DeviceChoice, options: RigOptions) {
    this.#choice = choice;
    this.#options = options;
    mkdirSync(this.runDir);
    closeSync(openSync(this.file('disk'), 'w'));
    truncateSync(this.file('disk'), sizeBytes);
    writeFileSync(this.file('key'), this.key.toString('hex'));
    writeFileSync(this.file('ops'), '');
    this.source = createExportSource(this.file('grpc'), realClock);
    this.attach = this.newPlugin();
    rigs.push(this);
  }

  /** A node plugin that knows nothing but the run directory. */
  newPlugin(): HolderAttach {
    return new HolderAttach({
      exec,
      clock: realClock,
      logger: silentLogger,
      runDir: this.runDir,
      holder: {
        program: process.execPath,
        args: [join(distFolder, 'src/main/attach.js'), '--daemon', this.file('grpc'), '--device', this.#choice],
      },
      source: this.source,
      ...this.#options,
    });
  }

  file(name: string): string {
    return join(this.directory, name);
  }

  ops(): string[] {
    return readFileSync(this.file('ops'), 'utf8').split('\n').slice(0, -1);
  }

  forgetOps(): void {
    writeFileSync(this.file('ops'), '');
  }

  async startDaemon(): Promise<void> {
    const daemon = spawn(process.execPath, [join(distFolder, 'test/lib/storage-daemon.js'), this.directory], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#daemon = daemon;
    await new Promise<void>((resolve, reject) => {
      daemon.stdout.once('data', () => resolve());
      daemon.once('exit', () => reject(new Error('the storage daemon did not start')));
    });
  }

  async killDaemon(): Promise<void> {
    const daemon = this.#daemon;
    if (!daemon || daemon.exitCode !== null || daemon.signalCode !== null) return;
    const ended = new Promise((resolve) => daemon.once('exit', resolve));
    daemon.kill('SIGKILL');
    await ended;
  }

  up(readOnly = false) {
    return this.attach.attach({ volumeId: this.volumeId, key: Buffer.from(this.key), readOnly });
  }

  status() {
    return this.attach.status(this.volumeId);
  }

  async cleanUp(): Promise<void> {
    await mounter.unmount(this.mountPoint).catch(() => {});
    rmSync(this.file('deposed'), { force: true });
    await this.attach.detach(this.volumeId, { force: true });
    this.source.disconnect();
    await this.killDaemon();
    rmSync(this.directory, { recursive: true });
  }

  /** Everything on this machine that still speaks of the volume. */
  async traces(): Promise<string[]> {
    const loops = (await sh('losetup', '-l', '-O', 'NAME,BACK-FILE')).split('\n');
    const mounts = (await sh('findmnt', '-r', '-n', '-o', 'TARGET,SOURCE')).split('\n');
    const processes = (await sh('ps', '-eo', 'pid,args')).split('\n').filter((line) => !line.includes('ps -eo'));
    const files = readdirSync(join(this.runDir, 'attach')).map((name) => `file ${name}`);
    const mine = [...loops, ...mounts, ...processes].filter((line) => line.includes(this.volumeId));
    return [...mine, ...files];
  }
}

export async function newRig(sizeBytes: number, choice: DeviceChoice, options: RigOptions = {}): Promise<AttachRig> {
  const rig = new AttachRig(sizeBytes, choice, options);
  await rig.startDaemon();
  return rig;
}

/** What the holders of the rigs that are there said last. */
export function rigLogs(): string {
  return rigs
    .flatMap(({ runDir, volumeId }) => {
      const log = join(runDir, 'attach', `${volumeId}.log`);
      return existsSync(log) ? readFileSync(log, 'utf8').slice(-1_500) : [];
    })
    .join('\n');
}

/** After each test: detaches and removes all that newRig() made. */
export async function cleanUpRigs(): Promise<void> {
  for (const rig of rigs.splice(0)) await rig.cleanUp();
}
