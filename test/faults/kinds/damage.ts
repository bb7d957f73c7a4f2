// Replicas that come back empty, as another one, as they were before, or with a flipped bit. One replica of three at a time, so that
// the promise stands: the volume goes on, nothing that is wrong is read, and what is damaged is repaired or refused.

import { closeSync, cpSync, openSync, readdirSync, readSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Chance } from '../chance.js';
import { moveOwn, type OwnVolume, replicaDirectory, replicaStates, scratchName, withOwnVolume } from '../own-volume.js';
import type { Rig } from '../rig.js';
import type { Fault } from './fault.js';

const inSync = (states: ReadonlyMap<string, string>, ids: readonly string[]) =>
  ids.every((id) => states.get(id) === 'in-sync');

/** Does something to a replica's files while its daemon is down. */
async function whileDown(rig: Rig, nodes: readonly string[], act: () => void): Promise<void> {
  const services = nodes.map((id) => rig.cluster.service('storage', id));
  await Promise.all(services.map((one) => one.down()));
  act();
  for (const one of services) await one.start();
}

const wipe: Fault = {
  kind: 'replica wiped',
  weight: 2,
  pairs: false,
  async strike(rig, chance) {
    let hit = '';
    const what = await withOwnVolume(rig, chance, async (own) => {
      hit = chance.pick(own.replicas);
      const rest = own.replicas.filter((id) => id !== hit);
      await whileDown(rig, [hit], () => {
        rmSync(replicaDirectory(rig, hit, own.volume), { recursive: true });
      });
      await replicaStates(rig, own, (states) => inSync(states, rest) && states.get(hit) === 'lost');
      return `on ${hit}, ${hit === own.load.node.id ? 'the engine there' : 'the engine elsewhere'}`;
    });
    return { what, victims: [hit], checked: 'shown as lost' };
  },
};

const swap: Fault = {
  kind: 'replicas swapped between nodes',
  weight: 2,
  pairs: false,
  async strike(rig, chance) {
    let hit: string[] = [];
    const what = await withOwnVolume(rig, chance, async (own) => {
      const engine = own.replicas.at(-1)!;
      hit = own.replicas.slice(0, 2);
      const [a, b] = hit.map((id) => replicaDirectory(rig, id, own.volume));
      await whileDown(rig, hit, () => {
        const kept = scratchName(rig);
        cpSync(a!, kept, { recursive: true });
        rmSync(a!, { recursive: true });
        cpSync(b!, a!, { recursive: true });
        rmSync(b!, { recursive: true });
        cpSync(kept, b!, { recursive: true });
        rmSync(kept, { recursive: true });
      });
      const states = await replicaStates(rig, own, (now) => inSync(now, [engine]) && !inSync(now, [hit[0]!]));
      if (hit.some((id) => states.get(id) === 'in-sync')) throw new Error('a foreign replica is in sync');
      return hit.join(' and ');
    });
    return { what, victims: hit, checked: 'neither taken for the other' };
  },
};

/** Copies a replica as it is now, its daemon being down for that moment. */
async function keepCopy(rig: Rig, node: string, own: OwnVolume): Promise<string> {
  const kept = scratchName(rig);
  await whileDown(rig, [node], () => cpSync(replicaDirectory(rig, node, own.volume), kept, { recursive: true }));
  return kept;
}

function putBack(rig: Rig, node: string, own: OwnVolume, kept: string): void {
  const directory = replicaDirectory(rig, node, own.volume);
  rmSync(directory, { recursive: true });
  cpSync(kept, directory, { recursive: true });
  rmSync(kept, { recursive: true });
}

const rollback: Fault = {
  kind: 'replica rolled back under an open volume',
  weight: 2,
  pairs: false,
  async strike(rig, chance) {
    let hit = '';
    const what = await withOwnVolume(rig, chance, async (own) => {
      hit = chance.pick(own.replicas.slice(0, 2));
      const kept = await keepCopy(rig, hit, own);
      await replicaStates(rig, own, (states) => inSync(states, own.replicas));
      await rig.sleep(chance.between(300, 1_500));
      await whileDown(rig, [hit], () => putBack(rig, hit, own, kept));
      const states = await replicaStates(rig, own, (now) => ['in-sync', 'lost'].includes(now.get(hit) ?? ''));
      // What it holds now is read by an engine beside it.
      await moveOwn(rig, own.load, rig.node(hit));
      return `on ${hit}, ${states.get(hit) === 'lost' ? 'refused' : 'brought up to date'}`;
    });
    return { what, victims: [hit], checked: 'read beside it' };
  },
};

const rollbackClosed: Fault = {
  kind: 'replica rolled back under a closed volume',
  weight: 2,
  pairs: false,
  async strike(rig, chance) {
    let hit = '';
    const what = await withOwnVolume(rig, chance, async (own) => {
      hit = chance.pick(own.replicas);
      const kept = await keepCopy(rig, hit, own);
      await replicaStates(rig, own, (states) => inSync(states, own.replicas));
      await rig.sleep(500);
      await own.load.pause();
      await rig.cluster.release(own.load.node, own.volume);
      await whileDown(rig, [hit], () => putBack(rig, hit, own, kept));
      const path = await rig.cluster.use(rig.node(hit), own.volume);
      own.load.node = rig.node(hit);
      await own.load.crash(path);
      await own.load.revive();
      return `on ${hit}, opened there`;
    });
    return { what, victims: [hit], checked: 'read beside it' };
  },
};

/** Flips one bit of what was written into a file. Returns false when there is nothing in it. */
function flipBit(path: string, chance: Chance): boolean {
  const fd = openSync(path, 'r+');
  try {
    const bytes = Buffer.alloc(statSync(path).size);
    readSync(fd, bytes, 0, bytes.length, 0);
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] === 0) end--;
    // Not the newest frames: those of a live log may not be known flushed yet, and a bad one there is a torn tail.
    const room = Math.floor(end * 0.6);
    if (room < 8_192) return false;
    const at = chance.between(4_096, room);
    bytes[at]! ^= 1 << chance.between(0, 8);
    writeSync(fd, bytes, at, 1, at);
    return true;
  } finally {
    closeSync(fd);
  }
}

const bitFlip: Fault = {
  kind: 'bits of a replica flipped',
  weight: 3,
  pairs: false,
  async strike(rig, chance) {
    let hit = '';
    const what = await withOwnVolume(rig, chance, async (own) => {
      await rig.sleep(1_000);
      hit = chance.hit(0.6) ? own.load.node.id : chance.pick(own.replicas);
      const directory = replicaDirectory(rig, hit, own.volume);
      let flips = 0;
      const flip = () => {
        for (const name of readdirSync(directory).filter((one) => one.endsWith('.seg')))
          for (let i = 0; i < 4; i++) if (flipBit(join(directory, name), chance)) flips++;
      };
      const live = chance.hit(0.5);
      if (live) flip();
      else await whileDown(rig, [hit], flip);
      await replicaStates(rig, own, (states) => inSync(states, own.replicas));
      await own.load.pause();
      await own.load.verify();
      if (own.load.node.id !== hit) await moveOwn(rig, own.load, rig.node(hit));
      else await own.load.resume();
      await replicaStates(rig, own, (states) => inSync(states, own.replicas));
      return `${flips} on ${hit}, ${live ? 'while it ran' : 'while it was down'}`;
    });
    return { what, victims: [hit], checked: 'all read beside it' };
  },
};

const renamed: Fault = {
  kind: "replica under another volume's name",
  weight: 1,
  pairs: false,
  async strike(rig, chance) {
    let hit = '';
    const what = await withOwnVolume(rig, chance, (first) =>
      withOwnVolume(rig, chance, async (second) => {
        const common = first.replicas.slice(0, 2).find((id) => second.replicas.includes(id));
        hit = common ?? '';
        if (common === undefined) return 'no node holds both';
        const [a, b] = [first, second].map((own) => replicaDirectory(rig, common, own.volume));
        await whileDown(rig, [common], () => {
          const kept = `${a}.kept`;
          renameSync(a!, kept);
          renameSync(b!, a!);
          renameSync(kept, b!);
        });
        for (const own of [first, second]) {
          const rest = own.replicas.filter((id) => id !== common);
          const states = await replicaStates(rig, own, (now) => inSync(now, rest));
          if (states.get(common) === 'in-sync') throw new Error("another volume's replica is in sync");
        }
        return `on ${common}`;
      }),
    );
    return { what, victims: hit === '' ? [] : [hit], checked: 'neither taken for the other' };
  },
};

export const damages = [wipe, swap, rollback, rollbackClosed, bitFlip, renamed];
