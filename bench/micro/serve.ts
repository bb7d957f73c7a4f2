// A process of its own that serves one NBD export, so that its CPU time is that of the NBD server (and the engine) alone, and so
// that what only the engine itself can be asked for can be asked. Ends when its standard input does.
//
//   serve.js SOCKET SIZE_BYTES memory             NBD server over a buffer
//   serve.js SOCKET SIZE_BYTES engine REPLICAS    NBD server over an engine with replicas in this process's memory
//   serve.js SOCKET SIZE_BYTES pools REPLICAS DIR [WITHOUT]
//                                                 NBD server over an engine with replicas in pools below DIR, all but the first
//                                                 of them over loopback TCP, all in this process; WITHOUT encryption or compression
//
// Lines on standard input, "NUMBER COMMAND", are answered by "NUMBER ANSWER":
//   profile-start | profile-stop FILE             a CPU profile of what happens between
//   pauses-start | pauses-stop                    what kept the process from its requests between, as JSON (pauses.ts)
//   scrub-start | scrub-stop                      scrubs one pass after the other; answers the bytes verified, and the volume is closed
//   usage                                         time, CPU time of the process, counters of the engine, as JSON

import { writeFileSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import { createInterface } from 'node:readline';
import { messageOf, realClock, silentLogger } from '../../src/base/index.js';
import type { BlockDevice, Engine } from '../../src/engine/index.js';
import { ExportTable, NbdServer } from '../../src/nbd/index.js';
import { openNet } from '../../src/transport/index.js';
import { EngineRig } from '../../test/lib/engine-rig.js';
import { MemoryDevice } from '../../test/lib/memory-device.js';
import { PauseWatch } from './pauses.js';
import { newVolume, openOnPools } from './pool-rig.js';

/** MemoryDevice notes each request in a list, which would grow for as long as the run lasts. */
class UnloggedDevice extends MemoryDevice {
  override submit(requests: Parameters<BlockDevice['submit']>[0]): void {
    for (const request of requests) {
      this.apply(request);
      request.complete(null);
    }
  }
}

interface Served {
  readonly device: BlockDevice;
  readonly engine?: Engine;
}

async function open(
  kind: string,
  sizeBytes: number,
  replicas: number,
  [directory = '', without]: string[],
): Promise<Served> {
  if (kind === 'memory') return { device: new UnloggedDevice(sizeBytes) };
  if (kind === 'pools') {
    const volume = newVolume(replicas, sizeBytes);
    const encrypted = without !== 'encryption';
    const compression = without === 'compression' ? 'none' : volume.compression;
    const { engine } = await openOnPools(directory, { ...volume, encrypted, compression });
    return { device: engine, engine };
  }
  const rig = new EngineRig(replicas, { sizeBytes, encrypted: true });
  const engine = await rig.open({ clock: realClock });
  return { device: engine, engine };
}

class Commands {
  readonly #engine: Engine | undefined;
  readonly #session = new Session();
  #pauses: PauseWatch | undefined;
  #scrubbing: Promise<number> | undefined;
  #stopped = false;

  constructor(engine: Engine | undefined) {
    this.#engine = engine;
    this.#session.connect();
  }

  async run(command: string, argument: string): Promise<string> {
    if (command === 'profile-start') {
      await this.#session.post('Profiler.enable');
      await this.#session.post('Profiler.setSamplingInterval', { interval: 250 });
      await this.#session.post('Profiler.start');
      return 'started';
    }
    if (command === 'profile-stop') {
      const { profile } = await this.#session.post('Profiler.stop');
      writeFileSync(argument, JSON.stringify(profile));
      return 'written';
    }
    if (command === 'pauses-start') {
      this.#pauses?.stop();
      this.#pauses = new PauseWatch();
      return 'started';
    }
    if (command === 'pauses-stop') {
      const pauses = this.#pauses?.stop();
      this.#pauses = undefined;
      return JSON.stringify(pauses);
    }
    const engine = this.#engine;
    if (engine === undefined) throw new Error('there is no engine here');
    if (command === 'scrub-start') {
      this.#stopped = false;
      this.#scrubbing = this.#scrub(engine);
      return 'started';
    }
    if (command === 'scrub-stop') {
      this.#stopped = true;
      // A pass of much data takes minutes; it ends at once when the volume does.
      engine.depose('scrubbed');
      return String(await this.#scrubbing);
    }
    if (command === 'usage') {
      const { user, system } = process.cpuUsage();
      return JSON.stringify({ ms: realClock.monotonicMs(), cpuUs: user + system, ...engine.status().counters });
    }
    throw new Error(`unknown command ${command}`);
  }

  async #scrub(engine: Engine): Promise<number> {
    let bytes = 0;
    while (!this.#stopped) {
      const report = await engine.scrub();
      if (report.damage.length > 0) throw new Error(`damage: ${report.damage[0]}`);
      bytes += report.verifiedBytes;
      await realClock.sleep(1);
    }
    return bytes;
  }
}

const [socket, size, kind, replicas, ...more] = process.argv.slice(2);
if (socket === undefined || size === undefined || kind === undefined) {
  process.stderr.write('usage: serve.js SOCKET SIZE_BYTES memory | engine REPLICAS | pools REPLICAS DIR [WITHOUT]\n');
  process.exit(2);
}
const exports = new ExportTable();
const { device, engine } = await open(kind, Number(size), Number(replicas ?? 1), more);
exports.add({ name: 'volume', device });
const server = new NbdServer({ exports, logger: silentLogger });
await server.listen(openNet(realClock), `unix:${socket}`);
const commands = new Commands(engine);
createInterface({ input: process.stdin }).on('line', async (line) => {
  const [number, command, argument] = line.split(' ');
  try {
    process.stdout.write(`${number} ${await commands.run(command ?? '', argument ?? '')}\n`);
  } catch (error) {
    process.stdout.write(`${number} FAILED ${messageOf(error)}\n`);
  }
});
process.stdin.on('end', () => process.exit(0));
process.stdout.write('ready\n');
// A profile is written at a regular exit only.
process.on('SIGTERM', () => process.exit(0));
