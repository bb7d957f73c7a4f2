// Faults that take bytes away from a replica or change them: only where a member stays that has everything, as far as is known
// when they strike. Where it turns out otherwise, the volume may stay closed; it may never open without what was promised.

import { parseSegmentFileName } from '../../src/format/index.js';
import { Pool } from '../../src/segment/index.js';
import { writtenLength } from '../lib/crash/verify.js';
import type { Chance } from '../lib/crash/virtual-time.js';
import { RecordingDisk } from '../lib/recording-disk.js';
import { poolPath, type SimNode } from './node.js';
import { SimProcess } from './process.js';
import type { FaultKind } from './settings.js';
import type { Sim } from './sim.js';

export class Damage {
  readonly #sim: Sim;
  readonly #chance: Chance;
  readonly #later: (ms: number, heal: () => void) => void;

  constructor(sim: Sim, chance: Chance, later: (ms: number, heal: () => void) => void) {
    this.#sim = sim;
    this.#chance = chance;
    this.#later = later;
  }

  strike(kind: FaultKind, node: SimNode, other: SimNode | undefined): void {
    const sim = this.#sim;
    if (node.serving === null || !sim.volumes.every((volume) => volume.mayDestroy(node.nodeId))) return;
    switch (kind) {
      case 'write-error':
      case 'sync-error':
        return this.#failing(kind, node);
      case 'bit-flip':
        return this.#flip(node);
      case 'bad-sector':
        return this.#breakSectors(node);
      case 'wipe':
        return this.#wipe(node);
      case 'lost-file':
        return this.#loseFile(node);
      case 'swap':
        return other === undefined ? undefined : this.#swap(node, other);
      case 'rollback':
        return this.#rollBack(node);
      case 'misdirected':
        return this.#misdirect(node);
      default:
        throw new Error(`${kind} is no damage`);
    }
  }

  #destroy(kind: FaultKind, node: SimNode): void {
    this.#sim.fault(kind, node.nodeId);
    for (const volume of this.#sim.volumes) volume.destroyed(node.nodeId);
  }

  /** The disk answers EIO for a while; replicas that met it have failed for good. */
  #failing(kind: 'write-error' | 'sync-error', node: SimNode): void {
    this.#destroy(kind, node);
    const chance = this.#chance;
    if (kind === 'write-error')
      node.disk.failWrite = { after: chance.below(10), errno: 'EIO', keepBytes: chance.pick([0, 100, 5_000]) };
    else node.disk.failSync = { after: chance.below(4), errno: 'EIO' };
    this.#later(chance.between(500, 5_000), () => {
      node.disk.failWrite = null;
      node.disk.failSync = null;
    });
  }

  /** One bit of one file that a replica uses, with or without a restart. */
  #flip(node: SimNode): void {
    const chance = this.#chance;
    const volume = chance.pick(this.#sim.volumes);
    const directory = `${poolPath}/replicas/${volume.volumeId}`;
    if (node.disk.stat(directory) === undefined) return;
    const names = node.disk.list(directory).filter((name) => parseSegmentFileName(name) !== undefined);
    if (names.length === 0) return;
    const name = chance.hit(0.7) ? names.at(-1)! : chance.pick(names);
    const length = writtenLength(node.disk.contents(`${directory}/${name}`));
    if (length === 0) return;
    // What was written last is not known durable yet: another row of the recovery table.
    const at = chance.hit(0.3) ? chance.below(length) : Math.max(0, length - 1 - chance.below(40_000));
    this.#sim.damaged = true;
    this.#sim.fault('bit-flip', node.nodeId);
    // Clones share files with what they were made from.
    for (const one of this.#sim.volumes) if (one.lineageId === volume.lineageId) one.rotten(node.nodeId);
    const flip = (disk: RecordingDisk) => {
      disk.flipBit(`${directory}/${name}`, at, chance.below(8));
      return disk;
    };
    if (chance.hit(0.7)) this.#sim.kill(node, chance.between(1, 1_000), flip);
    else flip(node.disk);
  }

  /** Some blocks of a log, or one of a superblock, can't be read until they are written anew. With or without a restart. */
  #breakSectors(node: SimNode): void {
    const chance = this.#chance;
    const volume = chance.pick(this.#sim.volumes);
    const directory = `${poolPath}/replicas/${volume.volumeId}`;
    if (node.disk.stat(directory) === undefined) return;
    const names = node.disk.list(directory).filter((name) => parseSegmentFileName(name) !== undefined);
    if (names.length === 0) return;
    const slot = chance.hit(0.15);
    const name = slot ? `superblock.${chance.below(2)}` : chance.hit(0.5) ? names.at(-1)! : chance.pick(names);
    const path = `${directory}/${name}`;
    if (node.disk.stat(path) === undefined) return;
    // Not where it is written next: that block is in memory.
    const length = slot ? 1 : writtenLength(node.disk.contents(path)) - 4_096;
    if (length <= 0 || (slot && node.disk.badBlocks(`${directory}/superblock.${name.endsWith('0') ? 1 : 0}`) > 0))
      return;
    const places = Array.from({ length: slot ? 1 : chance.between(1, 3) }, () => chance.below(length));
    this.#sim.damaged = true;
    this.#sim.fault('bad-sector', node.nodeId);
    for (const one of this.#sim.volumes) if (one.lineageId === volume.lineageId) one.rotten(node.nodeId);
    const strike = (disk: RecordingDisk) => {
      const size = disk.stat(path)?.sizeBytes ?? 0;
      for (const at of places) if (at < size) disk.breakBlock(path, at);
      return disk;
    };
    if (slot || chance.hit(0.5)) this.#sim.kill(node, chance.between(1, 1_000), strike);
    else strike(node.disk);
  }

  /** The newest file of a log is gone after a restart, as a repair of the filesystem would have it. */
  #loseFile(node: SimNode): void {
    const volume = this.#chance.pick(this.#sim.volumes);
    const directory = `${poolPath}/replicas/${volume.volumeId}`;
    if (node.disk.stat(directory) === undefined) return;
    const name = node.disk.list(directory).findLast((one) => parseSegmentFileName(one) !== undefined);
    if (name === undefined) return;
    this.#destroy('lost-file', node);
    this.#sim.kill(node, this.#chance.between(1, 1_000), (disk) => {
      if (disk.stat(`${directory}/${name}`) !== undefined) disk.wipe(`${directory}/${name}`);
      return disk;
    });
  }

  /** Comes back on an empty disk, or without its replicas. */
  #wipe(node: SimNode): void {
    this.#destroy('wipe', node);
    if (this.#chance.hit(0.5)) {
      this.#sim.kill(node, this.#chance.between(1, 2_000), (disk) => {
        for (const { volumeId } of this.#sim.volumes) {
          const directory = `${poolPath}/replicas/${volumeId}`;
          if (disk.stat(directory) !== undefined) disk.wipe(directory);
        }
        return disk;
      });
      return;
    }
    this.#sim.kill(node, 60_000, () => {
      const fresh = new RecordingDisk();
      fresh.prepareDirectory(poolPath);
      return fresh;
    });
    const { lives } = node;
    const clock = new SimProcess(this.#sim.time, 'setup');
    const format = Pool.format(node.disk, poolPath, { nodeId: node.nodeId, random: this.#chance, clock });
    format.then(
      () => {
        if (node.lives !== lives) return;
        // Nothing of an empty pool is left to be rolled back.
        node.disk = node.disk.afterKill(node.disk.journal.length);
        this.#sim.startLater(node, this.#chance.between(1, 2_000));
      },
      (error: unknown) => this.#sim.fail(error as Error),
    );
  }

  /** Each comes back with the other's disk, until somebody notices. */
  #swap(node: SimNode, other: SimNode): void {
    if (other.serving === null) return;
    this.#sim.fault('swap', `${node.nodeId} ${other.nodeId}`);
    const exchange = () => {
      let mine: RecordingDisk | undefined;
      this.#sim.cutPower(node, 200, (disk) => {
        mine = disk;
        return disk;
      });
      this.#sim.cutPower(other, 200, (disk) => {
        node.disk = disk;
        return mine!;
      });
    };
    exchange();
    this.#later(this.#chance.between(500, 6_000), exchange);
  }

  /** One write of a log lands further up in the same file: it is missing where it belongs, and other bytes are overwritten. */
  #misdirect(node: SimNode): void {
    const { disk } = node;
    if (disk.misdirect !== null) return;
    this.#sim.damaged = true;
    this.#sim.fault('misdirected', node.nodeId);
    // The newest bytes of a log may be gone without a trace, as if its disk had gone back in time.
    for (const volume of this.#sim.volumes) {
      volume.destroyed(node.nodeId, true);
      volume.rotten(node.nodeId);
    }
    disk.misdirect = { after: this.#chance.below(20), name: '.seg', back: this.#chance.pick([512, 4_096, 65_536]) };
    this.#later(this.#chance.between(100, 2_000), () => {
      disk.misdirect = null;
    });
  }

  /** Comes back as it was some changes ago. */
  #rollBack(node: SimNode): void {
    const { journal } = node.disk;
    const since = journal.length - (node.disk === node.firstDisk ? node.setupChanges : 0);
    if (since < 2) return;
    this.#sim.fault('rollback', node.nodeId);
    for (const volume of this.#sim.volumes) volume.destroyed(node.nodeId, true);
    const count = journal.length - this.#chance.below(Math.min(since, 60));
    const old = node.disk.afterKill(count);
    this.#sim.kill(node, this.#chance.between(1, 1_000), () => old);
  }
}
