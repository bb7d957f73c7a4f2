// Line 7, second half: what scrubbing and cleaning take from 4 KiB writes at depth 32, by an engine with one replica that can be
// told to do either. (A snapshot every second is measured with the snapshots.)

import { join } from 'node:path';
import { GiB, MiB } from '../../src/base/index.js';
import { Served } from '../micro/served.js';
import { short } from '../statistics.js';
import { TestDisk, whyNoTestDisk } from '../systems/test-disk.js';
import { runFio } from '../volume/fio.js';
import { fillJob, measureJob } from '../volume/jobs.js';
import { withData, workloadOf } from '../volume/workload.js';
import { losses, measurePairs, writePair } from './pairs.js';
import type { Stage, StageRun } from './stage.js';

const SIZE = 256 * MiB;
const PAIRS = 5;

async function scrubbing(stage: StageRun): Promise<void> {
  const { processes, directory, options } = stage;
  const place = join(directory, 'scrub');
  const server = await Served.start(processes, directory, SIZE, ['pools', '1', place]);
  try {
    await runFio(processes, directory, fillJob(server.target, SIZE));
    const job = measureJob(workloadOf('w4k-q32'), server.target, {
      sizeBytes: SIZE,
      seconds: options.seconds,
      flushLog: '',
    });
    const run = async () => (await runFio(processes, directory, job)).iops;
    let verified = 0;
    const scrubbed = async () => {
      await server.ask('scrub-start');
      try {
        return await run();
      } finally {
        verified += Number(await server.ask('scrub-stop'));
      }
    };
    await run();
    const pairs = await measurePairs(options.quick ? 2 : PAIRS, run, scrubbed);
    const beside = `${writePair(pairs.at(-1))}, ${short(verified / MiB)} MiB scrubbed`;
    stage.note('background.scrub', verified > 0 ? losses(pairs) : [], beside);
    stage.print(`scrubbing without a pause: ${beside}\n`);
  } finally {
    await server.stop();
  }
}

/** Live bytes over the bytes of the smaller pool. */
const FULL = 0.5;
const ROOMY = 8 * GiB;
/** What ext4 and the pool's reserve take of a small disk. */
const OVERHEAD = 160 * MiB;
const WARM_BYTES_MAX = 12 * SIZE;
const WARM_SECONDS = 10;

interface Status {
  readonly counters: { readonly movedBytes?: number };
}

class CleanedPool {
  readonly disk: TestDisk;
  readonly #stage: StageRun;
  readonly #place: string;
  #server: Served | undefined;

  constructor(stage: StageRun, name: string, poolBytes: number) {
    this.#stage = stage;
    const { processes, clock } = stage;
    const directory = join(stage.directory, name);
    this.#place = join(directory, 'pool');
    this.disk = new TestDisk({ processes, clock, directory, sizeBytes: poolBytes, bytesPerSecond: 0 });
  }
  get server(): Served {
    return this.#server!;
  }
  async open(): Promise<void> {
    const { processes, directory } = this.#stage;
    await this.disk.mount(this.#place);
    this.#server = await Served.start(processes, join(this.#place, '..'), SIZE, ['pools', '1', this.#place]);
    await runFio(processes, directory, fillJob(this.server.target, SIZE, 0));
  }
  async run(seconds: number): Promise<number> {
    const { processes, directory } = this.#stage;
    const workload = withData(workloadOf('w4k-q32'), 0);
    const job = measureJob(workload, this.server.target, { sizeBytes: SIZE, seconds, flushLog: '' });
    return (await runFio(processes, directory, job)).iops;
  }
  async movedBytes(): Promise<number> {
    return (JSON.parse(await this.server.ask('status')) as Status).counters.movedBytes ?? 0;
  }
  async close(): Promise<void> {
    await this.#server?.stop();
    await this.disk.unmount();
  }
}

/** The same writes to a pool with room and to one that is half full of live data, once its cleaner is at work. */
async function cleaning(stage: StageRun): Promise<void> {
  const problem = await whyNoTestDisk(stage.processes, false);
  if (problem !== '') {
    stage.print(`cleaning is not measured: ${problem}\n`);
    return;
  }
  const roomy = new CleanedPool(stage, 'roomy', ROOMY);
  const tight = new CleanedPool(stage, 'tight', SIZE / FULL + OVERHEAD);
  const { seconds, quick } = stage.options;
  try {
    await roomy.open();
    await tight.open();
    stage.progress('overwriting until the cleaner is at work');
    for (let written = 0; written < WARM_BYTES_MAX && (await tight.movedBytes()) < SIZE / 8; )
      written += (await tight.run(WARM_SECONDS)) * WARM_SECONDS * 4096;
    await roomy.run(1);
    const before = await tight.movedBytes();
    const pairs = await measurePairs(
      quick ? 2 : PAIRS,
      () => roomy.run(seconds),
      () => tight.run(seconds),
    );
    const moved = (await tight.movedBytes()) - before;
    const beside = `${writePair(pairs.at(-1))}, ${short(moved / MiB)} MiB moved, ${FULL * 100} % full`;
    stage.note('background.cleaning', moved > 0 ? losses(pairs) : [], beside);
    stage.print(`cleaning, ${FULL * 100} % full: ${beside}\n`);
  } finally {
    await roomy.close();
    await tight.close();
  }
}

export const backgroundStage: Stage = {
  name: 'background',
  title: 'line 7: writes beside scrubbing and cleaning',
  async run(stage) {
    await scrubbing(stage);
    await cleaning(stage);
  },
};
