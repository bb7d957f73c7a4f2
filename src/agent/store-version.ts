// The highest version of the metadata store that this daemon ever saw, kept over restarts, in a
// directory that the caller has made. A store that shows a lower one was
// restored from an old copy: epochs granted since would be granted again, so nothing is opened until a person decides.
// Owner: the daemon's main thread. The file may lag behind by what the last seconds brought, never ahead.

import { open, readFile, rename } from 'node:fs/promises';
import { type Clock, errnoOf, HoldfastError, type Logger, messageOf } from '../base/index.js';
import type { MetadataStore } from '../meta/index.js';

const saveEveryMs = 5_000;

export class StoreVersion {
  readonly #path: string;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #highest: number;
  #saved: number;
  #saving: Promise<void> | null = null;
  #savedAtMs = Number.NEGATIVE_INFINITY;

  private constructor(path: string, highest: number, clock: Clock, logger: Logger) {
    this.#path = path;
    this.#highest = highest;
    this.#saved = highest;
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Throws DATA_LOSS when the file holds something else. */
  static async load(path: string, clock: Clock, logger: Logger): Promise<StoreVersion> {
    let text = '0';
    try {
      text = (await readFile(path, 'utf8')).trim();
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
    if (!/^\d{1,16}$/.test(text)) {
      throw new HoldfastError(
        'DATA_LOSS',
        `${path} should hold the highest store version seen, a number: delete it if the metadata store is the right one`,
        {
          reason: 'Corrupt',
        },
      );
    }
    return new StoreVersion(path, Number(text), clock, logger);
  }

  get highest(): number {
    return this.#highest;
  }

  note(version: number): void {
    if (version <= this.#highest) return;
    this.#highest = version;
    if (this.#clock.monotonicMs() - this.#savedAtMs >= saveEveryMs) void this.save();
  }

  /** Asks the store. Throws FAILED_PRECONDITION/StoreWentBack when it is behind what was seen. */
  async check(store: MetadataStore): Promise<void> {
    // Answers may overtake each other: one says nothing of what was seen after its question.
    const seen = this.#highest;
    const version = await store.version();
    if (version >= seen) return this.note(version);
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `the metadata store is at version ${version}, but ${seen} was seen: it went back in time. Restore the newer copy, ` +
        `or, to accept what is lost, stop the daemons and delete ${this.#path}`,
      { reason: 'StoreWentBack' },
    );
  }

  /** Best effort: a failure is logged. Resolves when the highest version as of this call is saved or has failed. */
  async save(): Promise<void> {
    await this.#saving;
    if (this.#saved === this.#highest) return;
    this.#saving ??= this.#write().finally(() => {
      this.#saving = null;
    });
    await this.#saving;
  }

  async #write(): Promise<void> {
    const version = this.#highest;
    this.#savedAtMs = this.#clock.monotonicMs();
    try {
      const file = await open(`${this.#path}.new`, 'w', 0o600);
      try {
        await file.writeFile(`${version}\n`);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(`${this.#path}.new`, this.#path);
      this.#saved = version;
    } catch (error) {
      this.#logger.warn({ path: this.#path, error: messageOf(error) }, 'the store version was not saved');
    }
  }
}
