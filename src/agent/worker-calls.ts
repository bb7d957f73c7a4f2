// A worker as the main thread calls it.

import type { WorkerMethods } from './worker-api.js';

export interface WorkerCalls {
  /** `params` are copied before this returns: the caller may wipe them then. Errors are those of the worker's method. */
  call<Method extends keyof WorkerMethods & string>(
    method: Method,
    params: WorkerMethods[Method]['params'],
    timeoutMs: number,
  ): Promise<WorkerMethods[Method]['result']>;
}
