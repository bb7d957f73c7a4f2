// The metadata store as the simulated processes see it: the real store in memory, behind a network that delays, loses questions
// and answers, and behind outages. A change whose answer was lost has taken effect or not, or takes effect later. Every record of
// a volume is checked as it is written.

import { HoldfastError } from '../../src/base/index.js';
import {
  type JsonObject,
  type ListOptions,
  type MetadataStore,
  type MetaEntry,
  openMemoryStore,
  type SwapResult,
  type VolumeRecord,
} from '../../src/meta/index.js';
import type { Chance, VirtualTime } from '../lib/crash/virtual-time.js';
import { newerRecords } from '../lib/newer-records.js';
import type { SimNet } from './net.js';
import type { SimProcess } from './process.js';

/** After which whoever asked gives up, as the store over gRPC does. */
const ASK_MS = 3_000;
/** The store's place in the network. */
export const storeNode = 'store';

export class SimStore {
  /** A newer release has written to it, too. */
  readonly #inner = newerRecords(openMemoryStore(), (what) => this.#fatal(new Error(what)));
  readonly #time: VirtualTime;
  readonly #chance: Chance;
  readonly #net: SimNet;
  readonly #fatal: (error: Error) => void;
  /** No call is taken. */
  down = false;
  /** The controller, which owns the file, is not there. */
  ownerAway = false;
  /** Share of calls whose answer is lost, and of those that are done late. */
  loss = 0;
  late = 0;
  /** Milliseconds more for every call. */
  slowMs = 0;
  readonly counts = { unavailable: 0, lostAnswers: 0, late: 0, slow: 0, swaps: 0 };
  onVolume: (record: VolumeRecord) => void = () => {};

  constructor(parts: {
    time: VirtualTime;
    chance: Chance;
    net: SimNet;
    fatal: (error: Error) => void;
  }) {
    this.#time = parts.time;
    this.#chance = parts.chance;
    this.#net = parts.net;
    this.#fatal = parts.fatal;
  }

  /** Without any delay or fault: what stands. */
  async peek<T extends object>(key: string): Promise<T | undefined> {
    return (await this.#inner.get<T>(key))?.value;
  }
  get direct(): MetadataStore {
    return this.#inner;
  }

  /** As its owner has it: no network lies between, and what it began is not answered once it is dead. */
  forController(process: SimProcess): MetadataStore {
    const ask = <T>(work: () => Promise<T>): Promise<T> =>
      new Promise((resolve, reject) => {
        this.#time.after(0.05, () =>
          process.run(() => {
            work().then(resolve, reject);
          }),
        );
      });
    return {
      get: <T extends object = JsonObject>(key: string) => ask(() => this.#inner.get<T>(key)),
      list: <T extends object = JsonObject>(prefix: string, options?: ListOptions) =>
        ask<{ entries: MetaEntry<T>[]; version: number }>(() => this.#inner.list<T>(prefix, options)),
      compareAndSwap: <T extends object = JsonObject>(
        key: string,
        expected: number,
        value: T | undefined,
        operation?: string,
      ) => ask(() => this.#swap(key, expected, value, operation)),
      watch: (prefix, fromVersion, listener, signal) =>
        this.#inner.watch(
          prefix,
          fromVersion,
          (events) => new Promise<void>((resolve) => process.run(() => resolve(listener(events)))),
          signal,
        ),
      version: () => ask(() => this.#inner.version()),
      close: async () => {},
    };
  }

  /** How a process on `node` reaches it. */
  forProcess(process: SimProcess, node: string): MetadataStore {
    const ask = <T>(work: () => Promise<T>) => this.#ask(process, node, work);
    return {
      get: <T extends object = JsonObject>(key: string) => ask(() => this.#inner.get<T>(key)),
      list: <T extends object = JsonObject>(prefix: string, options?: ListOptions) =>
        ask<{ entries: MetaEntry<T>[]; version: number }>(() => this.#inner.list<T>(prefix, options)),
      compareAndSwap: <T extends object = JsonObject>(
        key: string,
        expected: number,
        value: T | undefined,
        operation?: string,
      ) => ask(() => this.#swap(key, expected, value, operation)),
      watch: () => new Promise<void>(() => {}),
      version: () => ask(() => this.#inner.version()),
      close: async () => {},
    };
  }

  #ask<T>(process: SimProcess, node: string, work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      let over = false;
      const end = (then: () => void) =>
        process.run(() => {
          if (over) return;
          over = true;
          timeout.cancel();
          then();
        });
      const giveUp = (why: string) => end(() => reject(new HoldfastError('UNAVAILABLE', `the metadata store ${why}`)));
      const timeout = process.after(ASK_MS, () => {
        over = true;
        reject(new HoldfastError('DEADLINE_EXCEEDED', 'the metadata store did not answer'));
      });
      const way = () => this.#net.delay(node, storeNode) + this.slowMs * this.#chance.next();
      let there = way();
      if (this.slowMs > 0) this.counts.slow++;
      if (this.#chance.hit(this.late)) {
        this.counts.late++;
        there += this.#chance.between(100, 2 * ASK_MS);
      }
      this.#time.after(there, () => {
        if (this.#net.blocked(node, storeNode)) return;
        if (this.down || this.ownerAway) {
          this.counts.unavailable++;
          // Refused at once, or not answered at all.
          if (this.#chance.hit(0.5)) this.#time.after(way(), () => giveUp('is down'));
          return;
        }
        const lost = this.#chance.hit(this.loss);
        if (lost) this.counts.lostAnswers++;
        const back = (then: () => void) => {
          if (lost) return;
          this.#time.after(way(), () => {
            if (!this.#net.blocked(storeNode, node)) end(then);
          });
        };
        work().then(
          (value) => back(() => resolve(value)),
          (error: unknown) => back(() => reject(error)),
        );
      });
    });
  }

  async #swap<T extends object>(
    key: string,
    expected: number,
    value: T | undefined,
    operation?: string,
  ): Promise<SwapResult<T>> {
    const before = await this.#inner.get<T>(key);
    const result = await this.#inner.compareAndSwap<T>(key, expected, value, operation);
    if (!result.ok || !key.startsWith('volume/') || value === undefined) return result;
    this.counts.swaps++;
    const record = value as unknown as VolumeRecord;
    try {
      checkStep(before?.value as unknown as VolumeRecord | undefined, record);
    } catch (error) {
      this.#fatal(error as Error);
    }
    this.onVolume(record);
    return result;
  }
}

/** Design section 6: the set is never empty, only what is whole is in it, reigns and set versions only rise. */
function checkStep(before: VolumeRecord | undefined, after: VolumeRecord): void {
  if (after.state !== 'ready') return;
  const bad = (what: string) => new Error(`membership of volume ${after.id}: ${what}`);
  if (after.inSync.length === 0) throw bad('the in-sync set is empty');
  for (const id of after.inSync) {
    const replica = after.replicas.find((one) => one.id === id);
    if (replica === undefined) throw bad(`${id} is in sync but no replica of the volume`);
    if (replica.state === 'lost' && before?.inSync.includes(id) !== true)
      throw bad(`lost replica ${id} joined the set`);
  }
  // A clone's epochs go on above its source's.
  if (before?.state !== 'ready') return;
  if (after.epoch < before.epoch || after.epoch > before.epoch + 1)
    throw bad(`epoch ${before.epoch} became ${after.epoch}`);
  if (after.epoch === before.epoch && after.reignId !== before.reignId) throw bad('an epoch was granted twice');
  const same = before.inSync.length === after.inSync.length && before.inSync.every((id) => after.inSync.includes(id));
  if (after.setVersion < before.setVersion || (!same && after.setVersion === before.setVersion))
    throw bad(`the set changed, its version went from ${before.setVersion} to ${after.setVersion}`);
}
