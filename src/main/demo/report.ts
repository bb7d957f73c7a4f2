// What the demo shows: numbered steps with their time, checks, a line of progress, tables. On a terminal with colours and a
// progress line that is written over; elsewhere plain lines, so that a log of it reads well.

import { type Clock, HoldfastError } from '../../base/index.js';

export interface Screen {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/** One of the demo's promises did not hold. */
export class CheckFailed extends HoldfastError {
  constructor(what: string) {
    super('INTERNAL', what);
  }
}

export interface StepTime {
  readonly title: string;
  readonly seconds: number;
}

type Paint = (text: string) => string;

const progressIntervalMs = 100;
const defaultColumns = 80;

export class Report {
  readonly #screen: Screen;
  readonly #clock: Clock;
  readonly #stepsTotal: number;
  readonly #live: boolean;
  #showsProgress: boolean;
  readonly #bold: Paint;
  readonly #dim: Paint;
  readonly #green: Paint;
  readonly #red: Paint;
  readonly #yellow: Paint;
  readonly #times: StepTime[] = [];
  #steps = 0;
  #checks = 0;
  #hasProgress = false;
  #progressMs = Number.NEGATIVE_INFINITY;

  /** `plain` switches colours off on a terminal, too. */
  constructor(screen: Screen, clock: Clock, options: { readonly stepsTotal: number; readonly plain: boolean }) {
    this.#screen = screen;
    this.#clock = clock;
    this.#stepsTotal = options.stepsTotal;
    this.#live = screen.isTTY === true;
    this.#showsProgress = this.#live;
    const colours = this.#live && !options.plain;
    const paint =
      (code: number): Paint =>
      (text) =>
        colours ? `\x1b[${code}m${text}\x1b[0m` : text;
    this.#bold = paint(1);
    this.#dim = paint(2);
    this.#red = paint(31);
    this.#green = paint(32);
    this.#yellow = paint(33);
  }

  /** Checks that held so far. */
  get checks(): number {
    return this.#checks;
  }

  get times(): readonly StepTime[] {
    return this.#times;
  }

  heading(text: string): void {
    this.#line(`\n${this.#bold(text)}`);
  }

  /** A plain line of a step. */
  say(text: string): void {
    this.#line(`        ${text}`);
  }

  note(text: string): void {
    this.#line(this.#yellow(text));
  }

  aside(text: string): void {
    this.#line(this.#dim(text));
  }

  success(text: string): void {
    this.#line(this.#green(text));
  }

  failure(text: string): void {
    this.#line(this.#red(text));
  }

  /** Announces the next step, runs it, says how long it took. */
  async step<T>(title: string, work: () => Promise<T>): Promise<T> {
    this.#steps++;
    const number = `${this.#steps}/${this.#stepsTotal}`.padStart(6);
    this.#line(`\n${this.#dim(number)}  ${this.#bold(title)}`);
    const sinceMs = this.#clock.monotonicMs();
    const result = await work();
    const seconds = (this.#clock.monotonicMs() - sinceMs) / 1000;
    this.#times.push({ title, seconds });
    this.#line(this.#dim(`        ${seconds.toFixed(1)} s`));
    return result;
  }

  /** Counts what held. Throws CheckFailed with the same sentence for what did not, and `detail` if there is more to say. */
  check(held: boolean, sentence: string, detail = ''): void {
    if (!held) {
      this.#line(`     ${this.#red(this.#live ? ' ✗' : 'NO')} ${sentence}`);
      throw new CheckFailed(`this did not hold: ${sentence}${detail === '' ? '' : ` (${detail})`}`);
    }
    this.held(sentence);
  }

  /** Counts and shows what held, where whatever speaks against it has thrown already. */
  held(sentence: string): void {
    this.#checks++;
    this.#line(`     ${this.#green(this.#live ? ' ✓' : 'ok')} ${sentence}`);
  }

  /** What is still under way shows no more progress. */
  endProgress(): void {
    this.#showsProgress = false;
  }

  /** The present state of something long. Shown on a terminal only, until the next line. */
  progress(text: string): void {
    if (!this.#showsProgress) return;
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#progressMs < progressIntervalMs) return;
    this.#progressMs = nowMs;
    const room = (this.#screen.columns || defaultColumns) - 1;
    this.#screen.write(`\r\x1b[2K${this.#dim(`        ${text}`.slice(0, room))}`);
    this.#hasProgress = true;
  }

  /** Rows with columns of equal width; the first row is the heading. */
  table(rows: readonly (readonly string[])[]): void {
    const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
    rows.forEach((row, index) => {
      const cells = row.map((cell, column) => cell.padEnd(widths[column] ?? 0));
      const line = `  ${cells.join('   ').trimEnd()}`;
      this.#line(index === 0 ? this.#dim(line) : line);
    });
  }

  #line(text: string): void {
    if (this.#hasProgress) this.#screen.write('\r\x1b[2K');
    this.#hasProgress = false;
    this.#progressMs = Number.NEGATIVE_INFINITY;
    this.#screen.write(`${text}\n`);
  }
}
