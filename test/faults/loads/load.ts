// Work on one volume that knows what was acknowledged to it.

import { realClock } from '../../../src/base/index.js';
import type { TestNode, TestVolume } from '../../lib/csi-cluster.js';

export interface Load {
  readonly name: string;
  readonly volume: TestVolume;
  /** Where the volume is attached. */
  node: TestNode;
  /** What it counts as acknowledged is on stable storage: it survives a power cut of all replicas at once. */
  readonly durable: boolean;
  /** Filesystem of the volume; null: a raw device. */
  readonly fsType: 'ext4' | 'xfs' | null;
  start(path: string): Promise<void>;
  /** Throws when an error or wrong bytes were met until now. */
  check(): void;
  /** Resolves when something was acknowledged after that time (wall clock, ms). */
  progress(sinceMs: number): Promise<void>;
  /** The longest time without an answer that ended after that time, ms; null: it does not tell. */
  longestGap(sinceMs: number): number | null;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Its node is about to die, with all it has in memory; the volume will be found at `path`. */
  crash(path: string): Promise<void>;
  /** After a crash, the volume is attached again: checks all that was acknowledged, and goes on. Resolves with the time of its first new acknowledgement. */
  revive(): Promise<number>;
  /** While paused: checks all that was acknowledged. Resolves with how much that was, for people. */
  verify(): Promise<string>;
  /** Acknowledged writes or transactions so far. */
  readonly acknowledged: number;
  kill(): Promise<void>;
}

/** When answers came, as far as the gaps between them matter. */
export class AnswerTimes {
  #lastMs = realClock.wallMs();
  #gaps: { readonly fromMs: number; readonly toMs: number }[] = [];
  #running = false;

  get lastMs(): number {
    return this.#lastMs;
  }

  /** Waiting for an answer counts from now on, or no longer. */
  run(running: boolean): void {
    this.#running = running;
    this.#lastMs = realClock.wallMs();
  }

  answered(): void {
    const nowMs = realClock.wallMs();
    if (nowMs - this.#lastMs > 60) this.#gaps.push({ fromMs: this.#lastMs, toMs: nowMs });
    if (this.#gaps.length > 10_000) this.#gaps = this.#gaps.slice(5_000);
    this.#lastMs = nowMs;
  }

  longest(sinceMs: number): number {
    const open = this.#running ? [{ fromMs: this.#lastMs, toMs: realClock.wallMs() }] : [];
    const gaps = [...this.#gaps, ...open].filter(({ toMs }) => toMs >= sinceMs);
    return Math.max(0, ...gaps.map(({ fromMs, toMs }) => toMs - Math.max(fromMs, sinceMs)));
  }
}

const pollMs = 20;

/** Resolves when `answers` has one after `sinceMs`; rejects when `check` does. */
export async function answeredAfter(answers: AnswerTimes, sinceMs: number, check: () => void): Promise<void> {
  while (answers.lastMs <= sinceMs) {
    check();
    await realClock.sleep(pollMs);
  }
}
