// Medians and spreads, and how they are written. No mean is taken anywhere: one disturbed round must not shift a figure.

export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** Of at least one finite number; undefined when there is none. */
export function spreadOf(values: readonly number[]): Spread | undefined {
  const sorted = values.filter((value) => Number.isFinite(value)).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  const middle = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, least: sorted[0]!, most: sorted[sorted.length - 1]! };
}

/** Of at least one number. */
export function median(values: readonly number[]): number {
  return spreadOf(values)?.median ?? Number.NaN;
}

/** Per-round ratios of `values` to `base`; rounds that lack either are left out. */
export function ratios(values: readonly (number | undefined)[], base: readonly (number | undefined)[]): number[] {
  const result: number[] = [];
  for (let round = 0; round < values.length; round++) {
    const value = values[round];
    const divisor = base[round];
    if (value !== undefined && divisor !== undefined && divisor > 0) result.push(value / divisor);
  }
  return result;
}

/** Three digits that count: 0.123, 1.23, 12.3, 123, 12.3k, 1.23M. */
export function short(value: number): string {
  if (value >= 999_500) return `${digits(value / 1e6)}M`;
  if (value >= 9_995) return `${digits(value / 1e3)}k`;
  return digits(value);
}

function digits(value: number): string {
  if (value >= 99.95) return value.toFixed(0);
  if (value >= 9.995) return value.toFixed(1);
  return value.toFixed(2);
}

/** "median (least-most)"; "-" when nothing was measured. */
export function withSpread(spread: Spread | undefined, write: (value: number) => string = short): string {
  if (spread === undefined) return '-';
  return `${write(spread.median)} (${write(spread.least)}-${write(spread.most)})`;
}
