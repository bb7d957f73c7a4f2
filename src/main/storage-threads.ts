// The worker threads of a storage daemon: started, called, watched, ended. A worker that ends or breaks takes the daemon down:
// its engines' state is gone, and the restart opens them under new reigns.

import { Worker } from 'node:worker_threads';
import { type MainMethods, PortRpc, type WorkerCalls, type WorkerMethods } from '../agent/index.js';
import { type Clock, HoldfastError, type Logger, messageOf, type NodeId } from '../base/index.js';
import type { UnopenedPool } from '../replica/index.js';
import type { Credentials } from '../trust/index.js';

/** What a worker thread is told at its start. */
export interface WorkerSeed {
  readonly nodeId: NodeId;
  readonly index: number;
  readonly workers: number;
  readonly pools: readonly string[];
  /** Pools that could not be opened. */
  readonly unopened: readonly UnopenedPool[];
  readonly replicaHost: string;
  /** 0: any free one. */
  readonly replicaPort: number;
  /** Microseconds. */
  readonly busyPollUs: number;
  /** Null: replicas are served in plain text. */
  readonly credentials: Credentials | null;
  readonly logLevel: string;
}

/** What is said to a worker thread beside the calls: it is to use these from now on. */
export interface CredentialsMessage {
  readonly credentials: Credentials;
}

const startTimeoutMs = 60_000;
const shutdownTimeoutMs = 30_000;

export interface StorageThreads {
  readonly calls: readonly WorkerCalls[];
  /** TCP port of each worker's replica server. */
  readonly replicaPorts: readonly number[];
  /** New certificates, for connections that workers make or accept from now on. */
  tell(credentials: Credentials): void;
  /** Closes engines and replicas of all workers, then ends them. */
  stop(): Promise<void>;
}

export async function startThreads(
  seeds: readonly WorkerSeed[],
  handlers: ConstructorParameters<typeof PortRpc<WorkerMethods, MainMethods>>[1]['handlers'],
  options: { readonly clock: Clock; readonly logger: Logger; readonly onBroken: (error: Error) => void },
): Promise<StorageThreads> {
  let stopping = false;
  const broken = (error: Error) => {
    if (!stopping) options.onBroken(error);
  };
  const threads = seeds.map((seed) => {
    const worker = new Worker(new URL('./storage-worker.js', import.meta.url), {
      workerData: seed,
      name: `storage-worker-${seed.index}`,
    });
    const rpc = new PortRpc<WorkerMethods, MainMethods>(worker, { clock: options.clock, handlers, onFatal: broken });
    worker.on('error', (error) => {
      rpc.close(`storage worker ${seed.index} broke: ${messageOf(error)}`);
      broken(error instanceof Error ? error : new Error(String(error)));
    });
    worker.on('exit', (code) => {
      rpc.close(`storage worker ${seed.index} ended`);
      broken(new HoldfastError('INTERNAL', `storage worker ${seed.index} ended with code ${code}`));
    });
    return { worker, rpc };
  });
  const stop = async () => {
    const ended = threads.map(async ({ worker, rpc }) => {
      await rpc.call('shutdown', null, shutdownTimeoutMs).catch((error) => {
        options.logger.warn({ error: messageOf(error) }, 'a storage worker did not close cleanly');
      });
      stopping = true;
      await worker.terminate();
    });
    await Promise.all(ended);
  };
  try {
    const started = await Promise.all(threads.map(({ rpc }) => rpc.call('start', null, startTimeoutMs)));
    return {
      calls: threads.map(({ rpc }) => rpc),
      replicaPorts: started.map(({ replicaPort }) => replicaPort),
      tell(credentials) {
        for (const { worker } of threads) worker.postMessage({ credentials } satisfies CredentialsMessage);
      },
      stop,
    };
  } catch (error) {
    stopping = true;
    await Promise.all(threads.map(({ worker }) => worker.terminate()));
    throw error;
  }
}
