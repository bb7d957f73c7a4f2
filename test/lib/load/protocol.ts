// What a load process and the test that started it say to each other, over the IPC channel.

export interface LoadOptions {
  /** What the log calls it. */
  readonly name: string;
  /** The file or block device that is written in place; it is not made longer than `bytes`. */
  readonly path: string;
  readonly bytes: number;
  /** Granularity of requests; 4096 at least with `direct`. */
  readonly unitBytes: number;
  /** Largest request, in units. */
  readonly requestUnits: number;
  /** Writes as well as reads bypass the page cache; without it reads alone do. */
  readonly direct: boolean;
  readonly writers: number;
  /** Bytes a second that all writers together aim at. */
  readonly bytesPerSecond: number;
  /** A folder in which small files are made, renamed, read and deleted; null: none. */
  readonly folder: string | null;
  readonly seed: number;
}

export type ToLoad =
  | { readonly type: 'start'; readonly options: LoadOptions }
  /** Ends what runs and closes all files. */
  | { readonly type: 'pause' }
  | { readonly type: 'resume' }
  /**
   * The path is given up as it stands, with requests under way, and the volume is found at another one. A write under way may
   * have happened or not; one that is answered with success, however late, must be found, and a late read shows what was there
   * when it was asked. (An answer that had left the engine before its process was stopped may arrive whenever it goes on.)
   */
  | { readonly type: 'move'; readonly path: string }
  /** While paused or moved: reads everything that was ever written, past the page cache. */
  | { readonly type: 'verify' };

export interface LoadCounts {
  readonly writes: number;
  readonly reads: number;
  readonly flushes: number;
  readonly files: number;
  /** Requests at a path that was given up which ended with an error. */
  readonly refused: number;
  /** Requests at a path that was given up which were answered with success later. */
  readonly late: number;
}

export type FromLoad =
  /** No request was answered between the two times (wall clock, ms). `toMs` is that of the answer that ended it. */
  | { readonly type: 'gap'; readonly fromMs: number; readonly toMs: number }
  /** Every 100 ms: how much was done and when the last answer came. */
  | { readonly type: 'alive'; readonly counts: LoadCounts; readonly answeredMs: number }
  | { readonly type: 'paused' }
  | { readonly type: 'moved' }
  | { readonly type: 'verified'; readonly bytes: number; readonly files: number }
  /** An error where there may be none, or wrong bytes. The process writes nothing more. */
  | { readonly type: 'failed'; readonly message: string };
