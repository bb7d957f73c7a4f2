// What goes wrong, and its healing. Damage to a disk is done only where a whole copy of what it holds stays elsewhere.

import { MiB } from '../../src/base/index.js';
import type { Chance } from '../lib/crash/virtual-time.js';
import { Damage } from './damage.js';
import type { SimNode } from './node.js';
import type { FaultKind } from './settings.js';
import type { Sim } from './sim.js';
import { storeNode } from './store.js';

export class Nemesis {
  readonly #sim: Sim;
  readonly #chance: Chance;
  readonly #heals: (() => void)[] = [];
  readonly #damage: Damage;

  constructor(sim: Sim, chance: Chance) {
    this.#sim = sim;
    this.#chance = chance;
    this.#damage = new Damage(sim, chance, (ms, heal) => this.#later(ms, heal));
  }

  async run(ended: () => boolean): Promise<void> {
    const { faults, faultEveryMs } = this.#sim.settings;
    if (faults.length === 0) return;
    const sudden = faults.filter((kind) => kind === 'power' || kind === 'torn-kill');
    // Of those that reach the rare rows of the recovery table more.
    const anytime = faults.flatMap((kind) => {
      if (kind === 'torn-join') return [];
      return kind === 'bit-flip' || kind === 'lost-file' ? [kind, kind, kind] : [kind];
    });
    // A replica that is just being brought up to date is struck now and then: it would hardly be by chance.
    this.#sim.onJoining = (node) => {
      if (ended()) return;
      if (faults.includes('torn-join') && this.#chance.hit(0.5)) return this.#tornKill('torn-join', node, 5);
      if (sudden.length === 0 || !this.#chance.hit(0.25)) return;
      const kind = this.#chance.pick(sudden);
      this.#sim.time.after(this.#chance.next() * 12, () => {
        if (!ended()) this.#strike(kind, node);
      });
    };
    while (!ended()) {
      await this.#pause(Math.min(10_000, -Math.log(1 - this.#chance.next()) * faultEveryMs));
      if (!ended() && anytime.length > 0) this.#strike(this.#chance.pick(anytime));
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#sim.time.after(ms, resolve));
  }

  /** Ends a fault after a while, or at the end of the safety phase. */
  #later(ms: number, heal: () => void): void {
    let done = false;
    const once = () => {
      if (done) return;
      done = true;
      heal();
    };
    this.#heals.push(once);
    this.#sim.time.after(ms, once);
  }

  /** Everything works again; nodes that are down start within a second. */
  async heal(): Promise<void> {
    for (const heal of this.#heals.splice(0)) heal();
    const { sim } = { sim: this.#sim };
    sim.net.healAll();
    if (sim.controller === null) sim.startController();
    for (const node of sim.nodes) {
      node.daemon?.process.resume(this.#chance);
      if (node.daemon !== null) continue;
      node.lives++;
      node.up = true;
      await sim.startDaemon(node);
    }
  }

  #strike(kind: FaultKind, target?: SimNode): void {
    const sim = this.#sim;
    const chance = this.#chance;
    const node = target ?? chance.pick(sim.nodes);
    const other = chance.pick(sim.nodes.filter((one) => one !== node));
    switch (kind) {
      case 'kill':
        if (node.daemon === null) return;
        sim.fault(kind, node.nodeId);
        return sim.kill(node, this.#downMs());
      case 'power':
        if (!node.up) return;
        sim.fault(kind, node.nodeId);
        return sim.cutPower(node, this.#downMs());
      case 'power-all':
        sim.fault(kind, '');
        for (const one of sim.nodes) if (one.up) sim.cutPower(one, this.#downMs());
        return;
      case 'restart':
        return this.#restart(node);
      case 'pause':
        return this.#pauseProcess(node);
      case 'failover': {
        sim.fault(kind, '');
        for (const client of sim.clients) if (chance.hit(0.7)) client.leave();
        return;
      }
      case 'cut':
        if (other === undefined) return;
        if (sim.net.breakConnections(node.nodeId, other.nodeId, chance.pick([0.4, 1])) > 0)
          sim.fault(kind, `${node.nodeId} ${other.nodeId}`);
        return;
      case 'partition':
      case 'one-way':
      case 'flap':
        return this.#partition(kind, node);
      case 'slow-link':
        return this.#slowLink(node, other?.nodeId ?? storeNode);
      case 'controller-kill':
        if (sim.controller === null) return;
        sim.fault(kind, '');
        return sim.killController(chance.pick([10, 300, 3_000, 12_000]));
      case 'store-down':
        sim.fault(kind, '');
        sim.store.down = true;
        return this.#later(chance.between(200, 8_000), () => {
          sim.store.down = false;
        });
      case 'store-unknown':
        sim.fault(kind, '');
        sim.store.loss = chance.pick([0.2, 0.6]);
        sim.store.late = 0.3;
        return this.#later(chance.between(1_000, 10_000), () => {
          sim.store.loss = 0;
          sim.store.late = 0;
        });
      case 'store-slow':
        sim.fault(kind, '');
        sim.store.slowMs = chance.pick([50, 500, 2_000]);
        return this.#later(chance.between(1_000, 10_000), () => {
          sim.store.slowMs = 0;
        });
      case 'slow-disk':
        sim.fault(kind, node.nodeId);
        node.slowness = chance.pick([5, 50]);
        return this.#later(chance.between(500, 10_000), () => {
          node.slowness = 1;
        });
      case 'stuck-sync':
        sim.fault(kind, node.nodeId);
        node.stuckMs = chance.pick([3_000, 10_000, 45_000]);
        return this.#later(chance.between(50, 3_000), () => {
          node.stuckMs = 0;
        });
      case 'torn-kill':
        return this.#tornKill(kind, node, 12);
      case 'full':
        return this.#full(node);
      default:
        return this.#damage.strike(kind, node, other);
    }
  }

  /** The process dies within one of its next `most` writes. */
  #tornKill(kind: 'torn-kill' | 'torn-join', node: SimNode, most: number): void {
    const sim = this.#sim;
    const { disk, lives } = node;
    if (node.serving === null || disk.failWrite !== null) return;
    disk.failWrite = { after: this.#chance.below(most), errno: 'EIO', keepBytes: this.#chance.between(1, 5_000) };
    disk.onChange = () => {
      if (disk.failWrite === null || disk.failWrite.after >= 0 || node.lives !== lives) return;
      disk.failWrite = null;
      sim.fault(kind, node.nodeId);
      sim.kill(node, this.#downMs());
    };
    this.#later(5_000, () => {
      if (node.lives === lives) disk.failWrite = null;
    });
  }

  /** Somebody else fills the disk, nearly or wholly. */
  #full(node: SimNode): void {
    const sim = this.#sim;
    const before = node.disk.capacityBytes;
    if (before !== sim.settings.poolBytes) return;
    sim.fault('full', node.nodeId);
    sim.fullDisks = true;
    node.disk.capacityBytes = Number.MAX_SAFE_INTEGER;
    const { capacityBytes, freeBytes } = node.disk.space();
    const spare = this.#chance.pick([4_096, 300_000, 20 * MiB, 40 * MiB]);
    node.disk.capacityBytes = Math.min(before, capacityBytes - freeBytes + spare);
    this.#later(this.#chance.between(500, 8_000), () => {
      node.disk.capacityBytes = before;
    });
  }

  #downMs(): number {
    return this.#chance.pick([1, 50, 400, 3_000, 15_000]);
  }

  #restart(node: SimNode): void {
    const sim = this.#sim;
    const { daemon } = node;
    if (daemon === null || node.serving === null) return;
    sim.fault('restart', node.nodeId);
    const life = node.lives;
    const end = () => {
      if (node.lives === life && node.daemon === daemon) sim.kill(node, this.#chance.between(50, 1_000));
    };
    // A service manager waits a while, then kills.
    this.#later(20_000, end);
    daemon.process.run(() => {
      daemon.stop().then(end, end);
    });
  }

  #pauseProcess(node: SimNode): void {
    const sim = this.#sim;
    const process = node.daemon?.process;
    if (process?.state !== 'running') return;
    sim.fault('pause', node.nodeId);
    process.pause();
    const ms = this.#chance.pick([20, 500, 1_050, 1_500, 5_000, 20_000]);
    this.#later(ms, () => process.resume(this.#chance));
  }

  #partition(kind: 'partition' | 'one-way' | 'flap', node: SimNode): void {
    const sim = this.#sim;
    const chance = this.#chance;
    const places = [...sim.nodes.map((one) => one.nodeId as string), storeNode];
    const side = new Set<string>([node.nodeId]);
    for (const place of places) if (place !== node.nodeId && chance.hit(0.3)) side.add(place);
    const pairs: [string, string][] = [];
    for (const a of side) for (const b of places) if (!side.has(b)) pairs.push([a, b]);
    const inward = chance.hit(0.5);
    const links: [string, string][] =
      kind === 'one-way'
        ? pairs.map(([a, b]) => (inward ? [b, a] : [a, b]))
        : pairs.flatMap(
            ([a, b]) =>
              [
                [a, b],
                [b, a],
              ] as [string, string][],
          );
    if (links.length === 0) return;
    sim.fault(kind, [...side].join(','));
    const block = () => {
      for (const [a, b] of links) sim.net.block(a, b);
    };
    const heal = () => {
      for (const [a, b] of links) sim.net.unblock(a, b);
    };
    block();
    if (kind !== 'flap') return this.#later(chance.pick([100, 1_200, 4_000, 15_000]), heal);
    let left = chance.between(3, 12);
    const turn = () => {
      heal();
      if (--left > 0)
        sim.time.after(chance.between(10, 600), () => {
          if (left <= 0) return;
          block();
          sim.time.after(chance.between(10, 600), turn);
        });
    };
    sim.time.after(chance.between(10, 600), turn);
    this.#heals.push(() => {
      left = 0;
      heal();
    });
  }

  #slowLink(node: SimNode, other: string): void {
    const sim = this.#sim;
    sim.fault('slow-link', `${node.nodeId} ${other}`);
    const factor = this.#chance.pick([10, 100, 1_000]);
    sim.net.slow(node.nodeId, other, factor);
    if (this.#chance.hit(0.5)) sim.net.slow(other, node.nodeId, factor);
    this.#later(this.#chance.between(500, 8_000), () => {
      sim.net.slow(node.nodeId, other, 1);
      sim.net.slow(other, node.nodeId, 1);
    });
  }
}
