// Linearizability of the blocks that are only read and written whole: each is a register, and every write has a value of its own.
// Of a history with unique values this can be decided exactly (Gibbons and Korach): the operations of one value form a zone, from
// the first that ended to the last that began; zones of values that must have been current at a time may not overlap, and zones
// of values that fit into one instant may not lie within such a one.

interface Cluster {
  readonly value: number;
  writeStart: number;
  writeEnd: number;
  /** Earliest end and latest start of any operation of this value. */
  firstEnd: number;
  lastStart: number;
  reads: number;
}

/** One register, within one era: an era ends where a crash may have taken acknowledged writes back. */
export class RegisterHistory {
  readonly #blocks = new Map<number, Map<number, Cluster>>();
  checkedReads = 0;
  checkedWrites = 0;

  /** `value` is unique among all writes. Times are points on one scale of which no two are equal. */
  began(block: number, value: number, at: number): void {
    this.#cluster(block, value, at).writeStart = at;
  }

  acknowledged(block: number, value: number, at: number): void {
    const cluster = this.#cluster(block, value, at);
    cluster.writeEnd = at;
    cluster.firstEnd = Math.min(cluster.firstEnd, at);
    this.checkedWrites++;
  }

  /** `value` 0: zeroes, that is never written in this era or before. */
  read(block: number, value: number, start: number, end: number): void {
    const cluster = this.#cluster(block, value, start);
    cluster.reads++;
    cluster.firstEnd = Math.min(cluster.firstEnd, end);
    cluster.lastStart = Math.max(cluster.lastStart, start);
    this.checkedReads++;
  }

  #cluster(block: number, value: number, at: number): Cluster {
    let values = this.#blocks.get(block);
    if (values === undefined) {
      values = new Map();
      this.#blocks.set(block, values);
    }
    let cluster = values.get(value);
    if (cluster === undefined) {
      const initial = value === 0;
      cluster = {
        value,
        writeStart: initial ? Number.NEGATIVE_INFINITY : at,
        writeEnd: initial ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY,
        firstEnd: initial ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY,
        lastStart: initial ? Number.NEGATIVE_INFINITY : at,
        reads: 0,
      };
      values.set(value, cluster);
    }
    return cluster;
  }

  /** Throws when no order of the operations explains what was read. */
  check(): void {
    for (const [block, values] of this.#blocks) checkRegister(block, [...values.values()]);
  }

  /**
   * A new era: what each register holds now was there from the beginning. Writes that were under way at the crash are forgotten:
   * those that had reached the log are in `contents`.
   */
  newEra(contents: (block: number) => number): void {
    this.check();
    for (const [block, values] of this.#blocks) {
      values.clear();
      const value = contents(block);
      if (value === 0) continue;
      values.set(value, {
        value,
        writeStart: Number.NEGATIVE_INFINITY,
        writeEnd: Number.NEGATIVE_INFINITY,
        firstEnd: Number.NEGATIVE_INFINITY,
        lastStart: Number.NEGATIVE_INFINITY,
        reads: 0,
      });
    }
  }
}

function checkRegister(block: number, clusters: readonly Cluster[]): void {
  const seen: Cluster[] = [];
  for (const cluster of clusters) {
    // A write without an answer that nobody read may never have taken effect.
    if (cluster.writeEnd === Number.POSITIVE_INFINITY && cluster.reads === 0) continue;
    if (cluster.firstEnd < cluster.writeStart)
      throw new Error(`block ${block}: a read saw write ${cluster.value} before it began`);
    seen.push(cluster);
  }
  const forward = seen
    .filter(({ firstEnd, lastStart }) => firstEnd < lastStart)
    .sort((a, b) => a.firstEnd - b.firstEnd);
  for (const [i, one] of forward.entries()) {
    const next = forward[i + 1];
    if (next !== undefined && next.firstEnd < one.lastStart)
      throw new Error(
        `block ${block} is not linearizable: writes ${one.value} and ${next.value} were both current from ${next.firstEnd} to ${Math.min(one.lastStart, next.lastStart)} (${describe(one)}; ${describe(next)})`,
      );
  }
  for (const backward of seen) {
    if (backward.firstEnd < backward.lastStart) continue;
    const within = forward.find((one) => one.firstEnd < backward.lastStart && backward.firstEnd < one.lastStart);
    if (within !== undefined)
      throw new Error(
        `block ${block} is not linearizable: write ${backward.value} took place while ${within.value} was current (${describe(backward)}; ${describe(within)})`,
      );
  }
}

function describe(cluster: Cluster): string {
  return `${cluster.value}: written ${cluster.writeStart} to ${cluster.writeEnd}, first known at ${cluster.firstEnd}, last asked for at ${cluster.lastStart}, ${cluster.reads} reads`;
}
