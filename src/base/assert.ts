// Assertions stay on in production. A failed one is a bug in Holdfast, never bad input: the process stops rather than
// go on with a broken invariant (bad input is answered with a HoldfastError).

export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/** Throws AssertionError when `condition` does not hold. `message` says which invariant broke. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Marks a switch as exhaustive: reaching it means a value outside its type arrived. */
export function unreachable(value: never, what: string): never {
  throw new AssertionError(`unexpected ${what}: ${String(value)}`);
}

/** Asserts that `value` is an integer in 0..2^53-1 (positions, lengths, sequence numbers). */
export function assertSafe(value: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < 0) throw new AssertionError(`${what} is not a safe integer: ${value}`);
}
