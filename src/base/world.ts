// The ports to time and chance. Only main/ makes real ones; tests pass their own, so that the same code runs on virtual time.

export interface TimerHandle {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds on the monotonic clock (fractional). Only differences mean anything. */
  monotonicMs(): number;
  /** Wall time in milliseconds since 1970. For names, audit and display; never for ordering. */
  wallMs(): number;
  /** Calls `fn` once after `delayMs`. The handle's cancel() is safe at any time. */
  after(delayMs: number, fn: () => void): TimerHandle;
  /** Resolves after `delayMs`; rejects with the signal's reason when aborted first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}

export interface Random {
  /** `length` bytes from a cryptographically strong source (a seeded generator in simulation). */
  bytes(length: number): Buffer;
  /** A random UUID (version 4). */
  uuid(): string;
}
