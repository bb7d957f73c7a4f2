// What happened in a run: its trace, of which a hash is kept, the newest warnings, and what was reached and how often.

import { createHash } from 'node:crypto';
import type { Logger } from '../../src/base/index.js';

/** Warnings that a failure is shown with. */
const WARNINGS_MOST = 25;

export class Trace {
  /** Recovery cases and the like that were reached. */
  readonly cases: Record<string, number> = {};
  readonly faults: Record<string, number> = {};
  /** Told of every line that a daemon logs. */
  onLog: (fields: Readonly<Record<string, unknown>>, message: string) => void = () => {};
  readonly #hash = createHash('sha256');
  readonly #now: () => number;
  readonly #onEvent: ((line: string) => void) | undefined;
  readonly #warnings: string[] = [];
  #over = false;

  constructor(now: () => number, onEvent?: (line: string) => void) {
    this.#now = now;
    this.#onEvent = onEvent;
  }

  note(what: string): void {
    // What was under way when the run ended is no part of it.
    if (this.#over) return;
    const line = `${this.#now().toFixed(3)} ${what}`;
    this.#hash.update(line);
    this.#onEvent?.(line);
  }
  reached(name: string): void {
    this.cases[name] = (this.cases[name] ?? 0) + 1;
  }
  fault(kind: string, what: string): void {
    this.faults[kind] = (this.faults[kind] ?? 0) + 1;
    this.note(`fault ${kind} ${what}`);
  }

  readonly logger = (fields: object): Logger => {
    const line = (level: string) => (more: object, message: string) => {
      const all = { ...fields, ...more };
      this.#count(all, message);
      this.onLog(all, message);
      const text = `${level} ${message} ${JSON.stringify(all)}`;
      this.note(text);
      if (level === 'debug' || level === 'info') return;
      this.#warnings.push(`${this.#now().toFixed(1)} ${text}`);
      if (this.#warnings.length > WARNINGS_MOST) this.#warnings.shift();
    };
    return {
      debug: line('debug'),
      info: line('info'),
      warn: line('warn'),
      error: line('error'),
      child: (more) => this.logger({ ...fields, ...more }),
    };
  };

  #count(fields: Readonly<Record<string, unknown>>, message: string): void {
    if (message.startsWith('replica opened')) {
      const found = /case ([A-Z])/.exec(String(fields.found ?? ''));
      this.reached(`recovery ${found?.[1] ?? 'A'}`);
      if (Number(fields.gaps) > 0) this.reached('recovery C');
    } else if (message === 'replica caught up') this.reached('caught up');
    else if (message === 'damaged bytes repaired') this.reached('repaired');
    else if (message === 'replica failed') this.reached('replica failed');
  }

  get warnings(): string {
    return this.#warnings.map((line) => `\n  ${line}`).join('');
  }

  /** Ends it; the hash of all that happened. */
  end(): string {
    this.#over = true;
    return this.#hash.digest('hex').slice(0, 16);
  }
}
