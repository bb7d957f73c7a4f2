// What keeps a process from its requests: the collector's pauses, turns of the event loop that come late, and its core being given to
// somebody else.

import { constants, monitorEventLoopDelay, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { realClock } from '../../src/base/index.js';

export interface Pauses {
  readonly ms: number;
  /** User and system time. */
  readonly cpuUs: number;
  readonly collections: number;
  readonly collectedMs: number;
  readonly longestMs: number;
  /** Of the collections those of the whole heap, of which parts run beside the process. */
  readonly full: number;
  /** Of a timer of 1 ms, beyond that. */
  readonly lateP99Ms: number;
  readonly lateMostMs: number;
  /** Times that it was taken off its core though it had work. */
  readonly preempted: number;
}

const TIMER_MS = 1;

/** Watches the process that it is made in, from then on. */
export class PauseWatch {
  readonly #startMs = realClock.monotonicMs();
  readonly #usage = process.resourceUsage();
  readonly #late = monitorEventLoopDelay({ resolution: TIMER_MS });
  readonly #collected: { readonly ms: number; readonly full: boolean }[] = [];
  readonly #observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as PerformanceEntry & { detail?: { kind?: number } }).detail ?? {};
      this.#collected.push({ ms: entry.duration, full: kind === constants.NODE_PERFORMANCE_GC_MAJOR });
    }
  });

  constructor() {
    this.#observer.observe({ entryTypes: ['gc'] });
    this.#late.enable();
  }

  stop(): Pauses {
    this.#late.disable();
    this.#observer.disconnect();
    const { userCPUTime, systemCPUTime, involuntaryContextSwitches } = process.resourceUsage();
    const late = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - TIMER_MS);
    return {
      ms: realClock.monotonicMs() - this.#startMs,
      cpuUs: userCPUTime + systemCPUTime - this.#usage.userCPUTime - this.#usage.systemCPUTime,
      collections: this.#collected.length,
      collectedMs: this.#collected.reduce((sum, { ms }) => sum + ms, 0),
      longestMs: this.#collected.reduce((most, { ms }) => Math.max(most, ms), 0),
      full: this.#collected.filter(({ full }) => full).length,
      lateP99Ms: late(this.#late.percentile(99)),
      lateMostMs: late(this.#late.max),
      preempted: involuntaryContextSwitches - this.#usage.involuntaryContextSwitches,
    };
  }
}
