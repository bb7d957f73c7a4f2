// Command lines and environment of the processes, turned into checked values. A flag wins over its variable.

import { parseArgs } from 'node:util';
import { invalid, messageOf, printable } from '../base/index.js';

export interface FlagSpec {
  readonly [name: string]: { readonly type: 'string' | 'boolean'; readonly multiple?: boolean; readonly env?: string };
}

const logLevels = ['debug', 'info', 'warn', 'error', 'silent'];

export class Flags {
  readonly #values: Record<string, string | boolean | (string | boolean)[] | undefined>;
  readonly #spec: FlagSpec;
  readonly #environment: Readonly<Record<string, string | undefined>>;
  /** What stands between the flags, where that is allowed. */
  readonly operands: readonly string[];

  /** Throws INVALID_ARGUMENT for an unknown flag, a missing value, an operand where none is allowed. */
  constructor(
    argv: readonly string[],
    spec: FlagSpec,
    environment: Readonly<Record<string, string | undefined>>,
    allowPositionals = false,
  ) {
    this.#spec = spec;
    this.#environment = environment;
    const options = Object.fromEntries(
      Object.entries(spec).map(([name, { type, multiple }]) => [name, { type, multiple: multiple ?? false }]),
    );
    try {
      const { values, positionals } = parseArgs({ args: [...argv], options, allowPositionals });
      this.#values = values;
      this.operands = positionals;
    } catch (error) {
      throw invalid(messageOf(error));
    }
  }

  /** Undefined when neither flag nor variable says anything. */
  optional(name: string): string | undefined {
    const value = this.#values[name];
    if (typeof value === 'string' && value !== '') return value;
    const variable = this.#spec[name]?.env;
    return (variable && this.#environment[variable]) || undefined;
  }

  text(name: string, fallback?: string): string {
    const value = this.optional(name) ?? fallback;
    if (value !== undefined) return value;
    const variable = this.#spec[name]?.env;
    throw invalid(`--${name} is missing${variable ? ` (or set ${variable})` : ''}`);
  }

  isSet(name: string): boolean {
    return this.#values[name] === true;
  }

  /** Every value of a repeatable flag; the variable holds them separated by commas. */
  list(name: string): string[] {
    const value = this.#values[name];
    if (Array.isArray(value)) return value.filter((one): one is string => typeof one === 'string' && one !== '');
    const variable = this.#spec[name]?.env;
    const text = (variable && this.#environment[variable]) || '';
    return text.split(',').filter((one) => one !== '');
  }

  integer(name: string, fallback: number, min: number, max: number): number {
    const text = this.optional(name);
    if (text === undefined) return fallback;
    const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (!(number >= min && number <= max)) {
      throw invalid(`--${name} must be a whole number from ${min} to ${max}, not ${printable(text)}`);
    }
    return number;
  }

  logLevel(): string {
    const level = this.text('log-level', 'info');
    if (!logLevels.includes(level)) {
      throw invalid(`--log-level must be one of ${logLevels.join(', ')}, not ${printable(level)}`);
    }
    return level;
  }

  /** KEY=VALUE, repeatable: labels as Kubernetes has them. */
  labels(name: string): Record<string, string> {
    const labels: Record<string, string> = {};
    for (const one of this.list(name)) {
      const at = one.indexOf('=');
      const key = one.slice(0, at);
      const value = one.slice(at + 1);
      if (
        at < 1 ||
        !/^[A-Za-z0-9./_-]{1,317}$/.test(key) ||
        !/^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/.test(value)
      ) {
        throw invalid(`--${name} must be KEY=VALUE with characters of a label, not ${printable(one)}`);
      }
      labels[key] = value;
    }
    return labels;
  }
}
