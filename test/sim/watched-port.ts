// A replica port with an observer: the model sees every frame before it leaves, every fence's outcome is told.

import type { ReplicaPort, ReplicaStatus } from '../../src/wire/index.js';

export interface PortObserver {
  sending(bytes: Uint8Array, offset: number): void;
  /** The replica is told that it lacks something from now on. */
  joining(): void;
  fenced(status: ReplicaStatus | null, error: unknown): void;
}

export function watched(port: ReplicaPort, observer: PortObserver): ReplicaPort {
  const { readParts, flush } = port;
  return {
    replicaId: port.replicaId,
    nodeId: port.nodeId,
    local: port.local,
    listen: (events) => port.listen(events),
    fence: (reign) =>
      port.fence(reign).then(
        (status) => {
          observer.fenced(status, null);
          return status;
        },
        (error: unknown) => {
          observer.fenced(null, error);
          throw error;
        },
      ),
    segments: () => port.segments(),
    frames: (segment) => port.frames(segment),
    append(segment, offset, bytes, lastSeq) {
      observer.sending(bytes, offset);
      port.append(segment, offset, bytes, lastSeq);
    },
    ...(flush === undefined ? {} : { flush: () => flush.call(port) }),
    sync: (seq, done) => port.sync(seq, done),
    read: (ranges, done) => port.read(ranges, done),
    ...(readParts === undefined ? {} : { readParts: (ranges, ended) => readParts.call(port, ranges, ended) }),
    confirm: (done) => port.confirm(done),
    cut: (seq) => port.cut(seq),
    deleteSegments: (segments) => port.deleteSegments(segments),
    repair: (segment, offset, bytes) => port.repair(segment, offset, bytes),
    freeBytes: () => port.freeBytes(),
    describe(update) {
      if (update.joining === true) observer.joining();
      return port.describe(update);
    },
    clone: (order) => port.clone(order),
    usage: () => port.usage(),
    close: () => port.close(),
  };
}
