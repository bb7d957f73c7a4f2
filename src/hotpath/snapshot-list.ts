// The snapshots of one map, oldest first. Each keeps its position in the stored list for life, so that a checkpoint writes only the
// chunks in which one came or went. Owner: the block map.

import type { GroupId, SnapshotId } from '../base/index.js';
import { corrupt } from '../base/index.js';
import { SNAPSHOTS_PER_CHUNK, type SnapshotRoot } from '../format/index.js';

export type MapSnapshot = SnapshotRoot;

export class SnapshotList {
  /** By birth, oldest first. */
  #ordered: MapSnapshot[] = [];
  readonly #byId = new Map<SnapshotId, MapSnapshot>();
  #positions: (MapSnapshot | undefined)[] = [];
  #free: number[] = [];
  #dirtyChunks = new Set<number>();

  get size(): number {
    return this.#ordered.length;
  }
  get all(): readonly MapSnapshot[] {
    return this.#ordered;
  }
  /** Birth of the newest; 0 without any. */
  get newestBirth(): number {
    return this.#ordered.at(-1)?.birth ?? 0;
  }
  get(id: SnapshotId): MapSnapshot | undefined {
    return this.#byId.get(id);
  }

  add(
    id: SnapshotId,
    groupId: GroupId,
    fields: Pick<MapSnapshot, 'birth' | 'seq' | 'sizeBytes' | 'wallMs'>,
  ): MapSnapshot {
    const position = this.#free.pop() ?? this.#positions.length;
    const snapshot = { snapshotId: id, groupId, position, ...fields };
    this.#ordered.push(snapshot);
    this.#byId.set(id, snapshot);
    this.#positions[position] = snapshot;
    this.#dirtyChunks.add(Math.floor(position / SNAPSHOTS_PER_CHUNK));
    return snapshot;
  }

  /** Takes one out; answers the births of its neighbours (0: none before, Infinity: the live volume comes after). */
  remove(snapshot: MapSnapshot): { before: number; after: number } {
    const index = this.#indexOf(snapshot);
    const before = this.#ordered[index - 1]?.birth ?? 0;
    const after = this.#ordered[index + 1]?.birth ?? Number.POSITIVE_INFINITY;
    this.#ordered.splice(index, 1);
    this.#byId.delete(snapshot.snapshotId);
    this.#positions[snapshot.position] = undefined;
    this.#free.push(snapshot.position);
    this.#dirtyChunks.add(Math.floor(snapshot.position / SNAPSHOTS_PER_CHUNK));
    return { before, after };
  }

  #indexOf(snapshot: MapSnapshot): number {
    let low = 0;
    let high = this.#ordered.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ordered[middle]!.birth < snapshot.birth) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  clear(): void {
    for (const snapshot of this.#ordered.slice()) this.remove(snapshot);
  }

  install(snapshots: readonly MapSnapshot[]): void {
    this.#ordered = [...snapshots].sort((a, b) => a.birth - b.birth);
    for (const snapshot of this.#ordered) {
      if (this.#byId.has(snapshot.snapshotId)) throw corrupt(`snapshot ${snapshot.snapshotId} is listed twice`);
      this.#byId.set(snapshot.snapshotId, snapshot);
      this.#positions[snapshot.position] = snapshot;
    }
    for (let i = this.#positions.length - 1; i >= 0; i--) if (this.#positions[i] === undefined) this.#free.push(i);
  }

  /** A chunk is to be written anew though nothing in it changed. */
  touchChunk(chunk: number): void {
    this.#dirtyChunks.add(chunk);
  }
  /** Chunks that changed since the last call, with what stands in each now. */
  takeDirtyChunks(): { chunk: number; snapshots: MapSnapshot[] }[] {
    const chunks = [...this.#dirtyChunks].sort((a, b) => a - b);
    this.#dirtyChunks = new Set();
    return chunks.map((chunk) => {
      const first = chunk * SNAPSHOTS_PER_CHUNK;
      const there = this.#positions.slice(first, first + SNAPSHOTS_PER_CHUNK);
      return { chunk, snapshots: there.filter((snapshot) => snapshot !== undefined) };
    });
  }
}
