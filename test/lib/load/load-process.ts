// The process of a verified load: writers that know what they wrote and check it all the time. A process of its own, because
// requests on a device that pauses block the threads that serve files.

import { constants as osConstants } from 'node:os';
import { realClock } from '../../../src/base/index.js';
import { FileWriter } from './file-writer.js';
import type { FromLoad, LoadOptions, ToLoad } from './protocol.js';
import { type Pace, RangeWriters } from './range-writer.js';

const gapMinMs = 60;
const aliveEveryMs = 100;

/** One stay at one path. */
class Stay implements Pace {
  readonly #load: Load;
  stopped = false;
  abandoned = false;

  constructor(load: Load) {
    this.#load = load;
  }

  take(bytes: number): Promise<void> {
    return this.#load.take(bytes, this);
  }

  answered(kind: 'write' | 'read' | 'flush'): void {
    this.#load.answered(this.abandoned ? 'late' : kind);
  }
}

class Load {
  readonly #options: LoadOptions;
  readonly #ranges: RangeWriters;
  readonly #files: FileWriter | null;
  readonly #counts = { writes: 0, reads: 0, flushes: 0, files: 0, refused: 0, late: 0 };
  #answeredMs = 0;
  #budget = 0;
  #budgetMs = realClock.monotonicMs();
  #round = 0;
  #running: Promise<unknown> = Promise.resolve();
  #stay: Stay | undefined;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#ranges = new RangeWriters(options);
    this.#files = options.folder === null ? null : new FileWriter(options.folder, options.seed);
  }

  async start(): Promise<void> {
    await this.#ranges.open();
    const stay = new Stay(this);
    this.#stay = stay;
    this.#answeredMs = realClock.wallMs();
    const round = this.#round++;
    const jobs = Array.from({ length: this.#options.writers }, (_, writer) => this.#ranges.run(writer, stay, round));
    if (this.#files) jobs.push(this.#files.run(stay, round));
    for (const job of jobs) job.catch((error) => this.#jobFailed(stay, error));
    this.#running = Promise.allSettled(jobs);
    this.#report(stay);
  }

  #jobFailed(stay: Stay, error: NodeJS.ErrnoException): void {
    stay.stopped = true;
    // Only the device itself may refuse what was under way when the volume moved.
    if (!stay.abandoned || error.code === undefined) return fail(error);
    this.#counts.refused++;
    this.#tellCounts();
  }

  #report(stay: Stay): void {
    if (stay.stopped) return;
    this.#tellCounts();
    realClock.after(aliveEveryMs, () => this.#report(stay));
  }

  #tellCounts(): void {
    this.#counts.files = this.#files?.count ?? 0;
    tell({ type: 'alive', counts: this.#counts, answeredMs: this.#answeredMs });
  }

  /** No request is waited for: they hang until somebody fails them. */
  move(path: string): void {
    if (this.#stay) {
      this.#stay.abandoned = true;
      this.#stay.stopped = true;
    }
    this.#ranges.move(path, this.#running);
    this.#running = Promise.resolve();
  }

  async take(bytes: number, stay: Stay): Promise<void> {
    this.#budget -= bytes;
    for (;;) {
      const now = realClock.monotonicMs();
      // No more than a tenth of a second is saved up: after a pause the load is what it was before.
      const rate = this.#options.bytesPerSecond;
      this.#budget = Math.min(rate / 10, this.#budget + ((now - this.#budgetMs) / 1000) * rate);
      this.#budgetMs = now;
      if (this.#budget >= 0 || stay.stopped) return;
      await realClock.sleep(Math.min(50, (-this.#budget / rate) * 1000 + 1));
    }
  }

  answered(kind: 'write' | 'read' | 'flush' | 'late'): void {
    if (kind === 'late') {
      this.#counts.late++;
      return this.#tellCounts();
    }
    const now = realClock.wallMs();
    if (now - this.#answeredMs > gapMinMs) tell({ type: 'gap', fromMs: this.#answeredMs, toMs: now });
    this.#answeredMs = now;
    if (kind === 'write') this.#counts.writes++;
    else if (kind === 'read') this.#counts.reads++;
    else this.#counts.flushes++;
  }

  async pause(): Promise<void> {
    if (this.#stay) this.#stay.stopped = true;
    await this.#running;
    await this.#ranges.close();
  }

  async verify(): Promise<{ bytes: number; files: number }> {
    await this.#ranges.open();
    try {
      return { bytes: await this.#ranges.verify(), files: (await this.#files?.verify()) ?? 0 };
    } finally {
      await this.#ranges.close();
    }
  }
}

let load: Load | undefined;

function tell(message: FromLoad): void {
  if (process.connected) process.send!(message);
}

function fail(error: unknown): void {
  const { message, code, syscall } = error as NodeJS.ErrnoException;
  tell({ type: 'failed', message: `${syscall ?? ''} ${code ?? ''} ${message}`.trim() });
}

async function obey(message: ToLoad): Promise<void> {
  switch (message.type) {
    case 'start':
      load = new Load(message.options);
      return load.start();
    case 'resume':
      return load!.start();
    case 'move':
      load!.move(message.path);
      return tell({ type: 'moved' });
    case 'pause':
      await load!.pause();
      return tell({ type: 'paused' });
    case 'verify':
      return tell({ type: 'verified', ...(await load!.verify()) });
  }
}

process.on('message', (message) => {
  obey(message as ToLoad).catch(fail);
});
// A test that died must not leave its load behind. Threads that sit in a request would hold up an ordinary exit.
process.on('disconnect', () => process.kill(process.pid, osConstants.signals.SIGKILL));
