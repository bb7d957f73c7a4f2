// Line 7, second half: what scrubbing and cleaning take from 4 KiB writes at depth 32, by an engine with one replica that can be
// told to do either. (A snapshot every second is measured with the snapshots.)

import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { Served } from '../micro/served.js';
import { short } from '../statistics.js';
import { runFio } from '../volume/fio.js';
import { fillJob, measureJob } from '../volume/jobs.js';
import { workloadOf } from '../volume/workload.js';
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

export const backgroundStage: Stage = {
  name: 'background',
  title: 'line 7: writes beside scrubbing and cleaning',
  async run(stage) {
    await scrubbing(stage);
  },
};
