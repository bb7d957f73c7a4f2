// One life of a volume, by a seed: opens it and does what clients, people and bad luck do to it: batches of writes of every size
// and alignment, trims, zeroes, flushes, reads, snapshots, growth, clean closes, idle time, lost connections, dying daemons,
// nodes without power, and failovers to another node while the former engine still runs.

import { BLOCK_SIZE, GiB, KiB, MiB, type SnapshotId, type VolumeId } from '../../../src/base/index.js';
import { Client, type Wish } from './client.js';
import { beginClone, type CloneRecord } from './clones.js';
import type { Session, SimWorld } from './sim-world.js';
import { openAgain } from './verify.js';
import type { Chance } from './virtual-time.js';
import type { Effect } from './volume-model.js';

export interface Habits {
  readonly steps: number;
  /** Bytes written after which it stops. */
  readonly bytes: number;
  /** Probability a step of each. */
  readonly faults: {
    readonly disconnect: number;
    readonly kill: number;
    readonly power: number;
    readonly failover: number;
  };
}

export const peaceful: Habits['faults'] = { disconnect: 0, kill: 0, power: 0, failover: 0 };

export interface Counts {
  requests: number;
  bytes: number;
  flushes: number;
  freezes: number;
  closes: number;
  resizes: number;
  faults: Record<keyof Habits['faults'], number>;
}

export class Workload {
  readonly #world: SimWorld;
  readonly #volumeId: VolumeId;
  readonly #habits: Habits;
  readonly #chance: Chance;
  #session: Session | undefined;
  #client: Client | undefined;
  #engineNode = 0;
  readonly #snapshots: SnapshotId[] = [];
  /** Clones that were ordered, answered or not. */
  readonly clones: CloneRecord[] = [];
  readonly counts: Counts = {
    requests: 0,
    bytes: 0,
    flushes: 0,
    freezes: 0,
    closes: 0,
    resizes: 0,
    faults: { disconnect: 0, kill: 0, power: 0, failover: 0 },
  };

  constructor(world: SimWorld, volumeId: VolumeId, habits: Habits) {
    this.#world = world;
    this.#volumeId = volumeId;
    this.#habits = habits;
    this.#chance = world.chance;
  }

  get session(): Session | undefined {
    return this.#session;
  }

  async run(): Promise<void> {
    await this.#open();
    for (let step = 0; step < this.#habits.steps && this.counts.bytes < this.#habits.bytes; step++) {
      // An engine that was deposed or whose node died is replaced, as the node plugin would ask.
      if (this.#session === undefined || this.#session.engine.closed) await this.#open();
      await this.#step();
    }
    if (this.#session !== undefined && !this.#session.engine.closed) await this.#client!.drained();
  }

  async #open(): Promise<void> {
    const node = this.#world.nodes[this.#engineNode]!;
    while (node.host === null) await this.#pause(50);
    this.#session = await openAgain(this.#world, this.#volumeId, node);
    this.#client = new Client(this.#world, this.#session, this.#world.models.get(this.#volumeId)!);
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.time.after(ms, resolve));
  }

  async #step(): Promise<void> {
    const chance = this.#chance;
    const { faults } = this.#habits;
    const dice = chance.next();
    if (chance.hit(faults.disconnect)) return this.#disconnect();
    if (chance.hit(faults.kill)) return this.#crash(false);
    if (chance.hit(faults.power)) return this.#crash(true);
    if (chance.hit(faults.failover)) return this.#failover();
    if (dice < 0.6) return this.#requests();
    if (dice < 0.74) return this.#flush();
    if (dice < 0.8) return this.#pause(chance.between(1, 20));
    if (dice < 0.84) return this.#pause(chance.between(500, 5000));
    if (dice < 0.87) return this.#withAnswer(() => this.#client!.drained());
    if (dice < 0.9) return this.#giveBack();
    if (dice < 0.95) return this.#snapshot();
    if (dice < 0.97) return this.#resize();
    return this.#close();
  }

  /** Waits for the answer, but no longer than the engine lives: a dead one answers nothing. */
  async #withAnswer(call: () => Promise<unknown>): Promise<void> {
    const session = this.#session!;
    let over = false;
    const mark = () => {
      over = true;
    };
    call().then(mark, mark);
    while (!over && this.#session === session && session.node.clock === session.clock) await this.#pause(1);
  }

  async #requests(): Promise<void> {
    const chance = this.#chance;
    const wishes: Wish[] = [];
    const count = chance.hit(0.1) ? chance.between(8, 32) : chance.between(1, 6);
    for (let i = 0; i < count; i++) wishes.push(this.#wish());
    this.counts.requests += count;
    this.counts.bytes += wishes.reduce((sum, wish) => sum + (wish.op === 'write' ? wish.length : 0), 0);
    this.#client!.submit(wishes);
    // A bounded queue depth, as every client has.
    if (this.#client!.open > 48) await this.#withAnswer(() => this.#client!.drained());
    else if (chance.hit(0.6)) await this.#pause(chance.next() * 3);
  }

  #wish(): Wish {
    const chance = this.#chance;
    const dice = chance.next();
    const op = dice < 0.7 ? 'write' : dice < 0.8 ? 'read' : dice < 0.9 ? 'trim' : 'zero';
    const [from, to] = this.#region();
    let length = chance.pick([1, 1, 1, 1, 2, 3, 8, 16]) * BLOCK_SIZE;
    let offset = from + chance.below(Math.max(1, Math.floor((to - from - length) / BLOCK_SIZE))) * BLOCK_SIZE;
    const shape = chance.next();
    if (shape < 0.15) {
      // Sectors, and sometimes any byte.
      const unit = chance.hit(0.7) ? 512 : 1;
      offset = from + chance.below(Math.floor((to - from - 40_000) / unit)) * unit;
      length = Math.max(unit, Math.floor((chance.next() * 20_000) / unit) * unit);
    } else if (shape < 0.155 && op === 'write') {
      length = chance.between(1, 5) * 300 * KiB;
      length -= length % BLOCK_SIZE;
      offset = chance.below(512) * BLOCK_SIZE;
    } else if (shape < 0.22 && (op === 'trim' || op === 'zero')) {
      length = chance.pick([MiB, 4 * MiB, 5 * MiB]);
      offset = chance.below(1024) * BLOCK_SIZE;
    }
    return { op, offset, length, fua: op !== 'read' && chance.hit(0.06) };
  }

  /** Most of it hot, so that segments die; some across the border of a map node, some at the end of the volume. */
  #region(): [number, number] {
    const dice = this.#chance.next();
    const size = this.#session!.engine.sizeBytes;
    if (dice < 0.7) return [0, MiB];
    if (dice < 0.85) return [0, 6 * MiB];
    if (dice < 0.93) return [2 * GiB - MiB, 2 * GiB + MiB];
    return [size - MiB, size];
  }

  /** Clears most of what is there and waits until the segments that nothing refers to any more are gone. */
  async #giveBack(): Promise<void> {
    this.#client!.submit([{ op: 'trim', offset: 0, length: 8 * MiB, fua: false }]);
    if (this.#snapshots.length > 2) await this.#unfreeze();
    for (let i = 0; i < 3; i++) await this.#pause(2_100);
  }

  async #flush(): Promise<void> {
    this.counts.flushes++;
    if (this.#chance.hit(0.5)) await this.#withAnswer(() => this.#client!.flush());
    else this.#client!.submit([{ op: 'flush', offset: 0, length: 0, fua: false }]);
  }

  async #snapshot(): Promise<void> {
    const model = this.#world.models.get(this.#volumeId)!;
    const { engine } = this.#session!;
    if (this.#snapshots.length > 0 && this.#chance.hit(0.4)) return this.#unfreeze();
    if (this.#snapshots.length > 0 && this.#chance.hit(0.5)) return this.#clone();
    const snapshotId = this.#chance.uuid() as SnapshotId;
    this.counts.freezes++;
    await this.#withAnswer(() =>
      engine.freeze({ snapshotId, groupId: null, holdToken: null }).then(() => {
        this.#world.tick();
        this.#snapshots.push(snapshotId);
        model.ordered((effect) => effect.kind === 'freeze' && effect.snapshotId === snapshotId, 'freeze');
      }),
    );
  }

  async #unfreeze(): Promise<void> {
    const model = this.#world.models.get(this.#volumeId)!;
    const { engine } = this.#session!;
    const [gone] = this.#snapshots.splice(this.#chance.below(this.#snapshots.length), 1);
    const deletes = (effect: Effect) => effect.kind === 'unfreeze' && effect.snapshotId === gone;
    await this.#withAnswer(() =>
      engine.deleteSnapshot(gone!).then(() => {
        this.#world.tick();
        // One that a crash had taken already is no error, and leaves no frame.
        if ([...model.frames.values()].some((frame) => frame.effects.some(deletes)))
          model.ordered(deletes, 'deleteSnapshot');
      }),
    );
  }

  async #clone(): Promise<void> {
    const session = this.#session!;
    const snapshotId = this.#chance.pick(this.#snapshots);
    const { record, answer } = beginClone(this.#world, session, this.#volumeId, snapshotId, this.#chance);
    this.clones.push(record);
    await this.#withAnswer(() => answer);
  }

  async #resize(): Promise<void> {
    const { engine } = this.#session!;
    const model = this.#world.models.get(this.#volumeId)!;
    const sizeBytes = engine.sizeBytes + this.#chance.between(1, 4) * MiB;
    this.counts.resizes++;
    await this.#withAnswer(() =>
      engine.resize(sizeBytes).then(() => {
        this.#world.tick();
        model.ordered((effect) => effect.kind === 'size' && effect.sizeBytes === sizeBytes, 'resize');
        this.#world.change(this.#volumeId, { sizeBytes });
      }),
    );
  }

  async #close(): Promise<void> {
    const session = this.#session!;
    this.counts.closes++;
    // Half of the time with requests in flight.
    if (this.#chance.hit(0.5)) await this.#withAnswer(() => this.#client!.drained());
    await this.#withAnswer(() => session.engine.close());
    if (session.engine.closed && session.node.clock === session.clock)
      this.#world.change(this.#volumeId, { engineNode: null });
    if (this.#chance.hit(0.5)) this.#engineNode = this.#chance.below(this.#world.nodes.length);
    this.#session = undefined;
  }

  #disconnect(): void {
    this.counts.faults.disconnect++;
    this.#world.disconnect(this.#chance.pick(this.#world.nodes));
  }

  async #crash(power: boolean): Promise<void> {
    const { nodes } = this.#world;
    const node = this.#chance.pick(nodes);
    // Never all at once in here: that is what the cuts are for.
    if (node.host === null || nodes.some((other) => other.host === null)) return;
    this.counts.faults[power ? 'power' : 'kill']++;
    this.#world.crash(node, power, this.#chance.pick([1, 30, 400, 5000]));
    if (this.#session?.node !== node) return;
    this.#session = undefined;
    if (this.#chance.hit(0.5)) this.#engineNode = this.#chance.below(nodes.length);
  }

  /** Another node opens the volume while the old engine and its client go on. */
  async #failover(): Promise<void> {
    const { nodes } = this.#world;
    if (nodes.length === 1 || nodes.some((node) => node.host === null)) return;
    this.counts.faults.failover++;
    this.#engineNode = (this.#engineNode + 1) % nodes.length;
    const old = this.#client!;
    const oldSession = this.#session!;
    const opening = this.#open();
    for (let i = 0; i < 5; i++) {
      if (!oldSession.engine.closed)
        old.submit([{ op: 'write', offset: this.#chance.below(64) * BLOCK_SIZE, length: BLOCK_SIZE, fua: false }]);
      await this.#pause(this.#chance.next() * 2);
    }
    await opening;
  }
}
