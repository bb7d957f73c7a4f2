// The network: packets lost in both directions or in one, between a node and all others or one of them, for a while or on and off;
// connections reset; a slow link.

import type { Chance } from '../chance.js';
import { controllerPlace, type Place } from '../network.js';
import type { Rig } from '../rig.js';
import { type Fault, victim } from './fault.js';

type Direction = readonly [from: Place, to: Place];

const others = (rig: Rig, place: Place): Place[] =>
  Array.from({ length: rig.nodes.length + 1 }, (_, other) => other).filter((other) => other !== place);

const outward = (rig: Rig, place: Place): Direction[] => others(rig, place).map((other) => [place, other]);
const inward = (rig: Rig, place: Place): Direction[] => others(rig, place).map((other) => [other, place]);
const both = (rig: Rig, place: Place): Direction[] => [...outward(rig, place), ...inward(rig, place)];

async function cut(rig: Rig, directions: readonly Direction[], ms: number): Promise<void> {
  for (const [from, to] of directions) rig.cluster.network.block(from, to);
  await rig.sleep(ms);
  for (const [from, to] of directions) rig.cluster.network.allow(from, to);
}

/** Some shorter than the time after which a peer counts as dead, some longer. */
const length = (chance: Chance) => chance.pick([600, 1_500, 3_000, 7_000, 10_000]);

const isolate: Fault = {
  kind: 'partition, both ways',
  weight: 6,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const ms = length(chance);
    await cut(rig, both(rig, rig.cluster.placeOf(node)), ms);
    return { what: `${node} from all for ${ms} ms`, victims: [node] };
  },
};

const oneWay: Fault = {
  kind: 'partition, one way',
  weight: 6,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const ms = length(chance);
    const out = chance.hit(0.5);
    await cut(rig, (out ? outward : inward)(rig, rig.cluster.placeOf(node)), ms);
    return { what: `${out ? 'from' : 'to'} ${node} for ${ms} ms`, victims: [node] };
  },
};

const pair: Fault = {
  kind: 'partition of two nodes',
  weight: 4,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const other = chance.pick(rig.nodes.filter(({ id }) => id !== node)).id;
    const ms = length(chance);
    const [a, b] = [rig.cluster.placeOf(node), rig.cluster.placeOf(other)];
    const oneSide = chance.hit(0.3);
    await cut(
      rig,
      oneSide
        ? [[a, b]]
        : [
            [a, b],
            [b, a],
          ],
      ms,
    );
    return { what: `${node} ${oneSide ? 'to' : 'and'} ${other} for ${ms} ms`, victims: [node, other] };
  },
};

const flap: Fault = {
  kind: 'flapping partition',
  weight: 4,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const place = rig.cluster.placeOf(node);
    const times = chance.between(3, 9);
    const directions = chance.pick([both, outward, inward])(rig, place);
    for (let i = 0; i < times; i++) {
      await cut(rig, directions, chance.between(20, 900));
      await rig.sleep(chance.between(20, 700));
    }
    return { what: `${node} ${times} times`, victims: [node] };
  },
};

const cutController: Fault = {
  kind: 'controller cut off',
  weight: 3,
  pairs: true,
  async strike(rig, chance) {
    const ms = length(chance);
    await cut(rig, both(rig, controllerPlace), ms);
    return { what: `for ${ms} ms`, victims: [] };
  },
};

const slow: Fault = {
  kind: 'slow link',
  weight: 3,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const ms = length(chance);
    rig.cluster.network.slow(rig.cluster.placeOf(node), true);
    await rig.sleep(ms);
    rig.cluster.network.slow(rig.cluster.placeOf(node), false);
    return { what: `${node} for ${ms} ms`, victims: [node] };
  },
};

const reset: Fault = {
  kind: 'connections reset',
  weight: 4,
  pairs: true,
  async strike(rig, chance, spared) {
    const node = victim(rig, chance, spared);
    const times = chance.between(1, 4);
    let connections = 0;
    for (let i = 0; i < times; i++) {
      connections += await rig.cluster.network.reset(rig.cluster.placeOf(node));
      await rig.sleep(chance.between(10, 600));
    }
    return { what: `${connections} of ${node}`, victims: [node] };
  },
};

export const cuts = [isolate, oneWay, pair, flap, cutController, slow, reset];
