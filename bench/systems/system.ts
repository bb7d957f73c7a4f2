// One side of the comparison: something that serves a volume to fio.

/** How fio reaches a volume. */
export interface FioTarget {
  /** ioengine and its own settings. */
  readonly settings: Readonly<Record<string, string>>;
  /** For fio's environment. */
  readonly env: Readonly<Record<string, string>>;
}

export interface BenchSystem {
  /** Stable: the history is compared by it. */
  readonly name: string;
  readonly title: string;
  readonly copies: number;
  /** What a flush means to it, in a few words. */
  readonly flush: string;
  /** Cache, encryption, integrity, compression, in a few words. */
  readonly features: string;
  /** Makes what a round needs: a running server and a volume. */
  open(): Promise<void>;
  /** Where fio goes; only between open() and close(). */
  target(): FioTarget;
  /** Processes whose CPU time, with that of their descendants, is the system's. */
  pids(): number[];
  /** Those of them that are told apart, by what they are. */
  roles?(): Readonly<Record<string, readonly number[]>>;
  /** Ends what open() made. */
  close(): Promise<void>;
}

/** A column that can't be measured here, and why. */
export interface Absent {
  readonly name: string;
  readonly title: string;
  readonly reason: string;
}

export function nbdUri(socket: string, exportName: string): string {
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${socket}`;
}

export function nbdTarget(uri: string): FioTarget {
  return { settings: { ioengine: 'nbd', uri }, env: {} };
}
