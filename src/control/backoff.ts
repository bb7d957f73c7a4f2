// When to look again at things that did not work: the pause doubles with each failure. Only what is still there is remembered.

export class Backoff {
  readonly #waits = new Map<string, { readonly untilMs: number; readonly pauseMs: number }>();
  readonly #firstMs: number;
  readonly #maxMs: number;

  constructor(firstMs: number, maxMs: number) {
    this.#firstMs = firstMs;
    this.#maxMs = maxMs;
  }

  /** When it may be tried again; 0 when nothing is known against it. */
  readyMs(key: string): number {
    return this.#waits.get(key)?.untilMs ?? 0;
  }

  failed(key: string, nowMs: number): void {
    const before = this.#waits.get(key)?.pauseMs;
    const pauseMs = before === undefined ? this.#firstMs : Math.min(before * 2, this.#maxMs);
    this.#waits.set(key, { untilMs: nowMs + pauseMs, pauseMs });
  }

  forget(key: string): void {
    this.#waits.delete(key);
  }

  keepOnly(keys: ReadonlySet<string>): void {
    for (const key of this.#waits.keys()) if (!keys.has(key)) this.#waits.delete(key);
  }
}
