import type { ReadRange, ReplicaPort } from './replica-port.js';

/** ReplicaPort.read() as a promise. */
export function readOnce(port: ReplicaPort, ranges: readonly ReadRange[]): Promise<void> {
  return new Promise((resolve, reject) => {
    port.read(ranges, (error) => (error === null ? resolve() : reject(error)));
  });
}
