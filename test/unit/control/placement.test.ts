import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, type PoolId } from '../../../src/base/index.js';
import { capacityFor, type PlacementNode, type PlacementRules, place } from '../../../src/control/index.js';
import { labelOf, NODE_LABEL } from '../../../src/control/topology.js';

const ZONE = 'topology.kubernetes.io/zone';
const GIB = 1024 ** 3;

const poolOf = (
  index: number,
  free: number,
  capacity: number,
  promisedBytes: number,
  tags: string[],
  problem?: string,
) => ({
  id: `pool-${index}` as PoolId,
  path: `/p${index}`,
  capacityBytes: capacity,
  freeBytes: free,
  promisedBytes,
  tags,
  ...(problem === undefined ? {} : { problem }),
});

const arbitraryPool = fc
  .record({
    capacity: fc.integer({ min: 1, max: 64 }),
    free: fc.integer({ min: 0, max: 64 }),
    promised: fc.integer({ min: 0, max: 80 }),
    ssd: fc.boolean(),
    problem: fc.boolean(),
  })
  .map(({ capacity, free, promised, ssd, problem }) =>
    poolOf(
      0,
      Math.min(free, capacity) * GIB,
      capacity * GIB,
      promised * GIB,
      ssd ? ['ssd'] : [],
      problem ? 'read-only' : undefined,
    ),
  );

const arbitraryNodes: fc.Arbitrary<PlacementNode[]> = fc
  .array(
    fc.record({
      zone: fc.option(fc.constantFrom('a', 'b', 'c'), { nil: undefined }),
      silent: fc.boolean(),
      fast: fc.boolean(),
      pools: fc.array(arbitraryPool, { maxLength: 3 }),
    }),
    { maxLength: 8 },
  )
  .map((nodes) =>
    nodes.map(({ zone, silent, fast, pools }, n) => ({
      id: `n${n}` as NodeId,
      topology: (zone === undefined ? {} : { [ZONE]: zone }) as Record<string, string>,
      tags: fast ? ['fast'] : [],
      ...(silent ? { silentMs: 20_000 } : {}),
      pools: pools.map((pool, p) => ({ ...pool, id: `pool-${n}-${p}` as PoolId })),
    })),
  );

const arbitraryWish = fc.array(
  fc.oneof(
    fc.constantFrom('a', 'b', 'c').map((zone) => ({ [ZONE]: zone })),
    fc.integer({ min: 0, max: 9 }).map((n) => ({ [NODE_LABEL]: `n${n}` })),
  ),
  { maxLength: 3 },
);

const arbitraryRules: fc.Arbitrary<PlacementRules> = fc.record({
  replicas: fc.integer({ min: 1, max: 5 }),
  failureDomain: fc.constantFrom('node', ZONE),
  dataLocality: fc.constantFrom('disabled' as const, 'preferred' as const, 'required' as const),
  nodeSelector: fc.constantFrom([], ['fast']),
  diskSelector: fc.constantFrom([], ['ssd']),
  wish: fc.record({ requisite: arbitraryWish, preferred: arbitraryWish }),
  overcommit: fc.constantFrom(1, 2),
});

const near = (node: PlacementNode, wish: Record<string, string>[]) =>
  wish.some((segments) => Object.entries(segments).every(([key, value]) => labelOf(node, key) === value));

describe('placement', () => {
  it('never breaks a rule, whatever the cluster', () => {
    fc.assert(
      fc.property(arbitraryNodes, arbitraryRules, fc.integer({ min: 1, max: 40 }), (nodes, rules, gib) => {
        const sizeBytes = gib * GIB;
        let places: ReturnType<typeof place>;
        try {
          places = place(nodes, rules, sizeBytes);
        } catch (error) {
          expect(error).toBeInstanceOf(HoldfastError);
          expect((error as HoldfastError).code).toBe('RESOURCE_EXHAUSTED');
          return;
        }
        expect(places).toHaveLength(rules.replicas);
        const chosen = places.map((at) => nodes.find((node) => node.id === at.nodeId)!);
        const domains = chosen.map((node) => (rules.failureDomain === 'node' ? node.id : node.topology[ZONE]));
        expect(new Set(domains).size).toBe(rules.replicas);
        expect(domains).not.toContain(undefined);
        places.forEach((at, index) => {
          const node = chosen[index]!;
          const pool = node.pools.find((held) => held.id === at.poolId)!;
          expect(node.silentMs).toBeUndefined();
          expect(pool.problem).toBeUndefined();
          expect(pool.promisedBytes + sizeBytes).toBeLessThanOrEqual(pool.capacityBytes * rules.overcommit);
          expect(pool.freeBytes).toBeGreaterThan(pool.capacityBytes * 0.05);
          for (const tag of rules.nodeSelector) expect(node.tags).toContain(tag);
          for (const tag of rules.diskSelector) expect(pool.tags).toContain(tag);
        });
        const requisite = rules.wish.requisite as Record<string, string>[];
        if (rules.dataLocality === 'required' && requisite.length > 0) {
          expect(chosen.some((node) => near(node, requisite))).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('finds a place whenever there is one, and capacity says the same', () => {
    const simple = arbitraryRules.map((rules) => ({ ...rules, wish: { requisite: [], preferred: [] } }));
    fc.assert(
      fc.property(arbitraryNodes, simple, fc.integer({ min: 1, max: 40 }), (nodes, rules, gib) => {
        const { maximumBytes, availableBytes } = capacityFor(nodes, rules);
        const fits = (sizeBytes: number) => {
          try {
            return place(nodes, rules, sizeBytes).length === rules.replicas;
          } catch {
            return false;
          }
        };
        expect(fits(gib * GIB)).toBe(gib * GIB <= maximumBytes);
        expect(availableBytes).toBeGreaterThanOrEqual(maximumBytes);
      }),
      { numRuns: 300 },
    );
  });

  const node = (id: string, zone: string, free = 50 * GIB): PlacementNode => ({
    id: id as NodeId,
    topology: { [ZONE]: zone },
    tags: [],
    pools: [{ ...poolOf(0, free, 100 * GIB, 0, []), id: `p-${id}` as PoolId }],
  });
  const rules: PlacementRules = {
    replicas: 3,
    failureDomain: 'node',
    dataLocality: 'preferred',
    nodeSelector: [],
    diskSelector: [],
    wish: { requisite: [], preferred: [] },
    overcommit: 1,
  };

  it('puts the first replica where the caller prefers it', () => {
    const nodes = [node('a', 'z1'), node('b', 'z1'), node('c', 'z2'), node('d', 'z3')];
    const wish = { requisite: [], preferred: [{ [NODE_LABEL]: 'd' }, { [ZONE.toUpperCase()]: 'z2' }] };
    expect(place(nodes, { ...rules, replicas: 2, wish }, GIB).map((at) => at.nodeId)).toEqual(['d', 'c']);
  });

  it('takes the preferred node of a failure domain, wherever it stands in the list', () => {
    const nodes = [node('a', 'z1'), node('b', 'z1'), node('c', 'z1'), node('d', 'z2')];
    for (const wanted of ['a', 'b', 'c']) {
      const wish = { requisite: [], preferred: [{ [NODE_LABEL]: wanted }] };
      const places = place(nodes, { ...rules, replicas: 2, failureDomain: ZONE, wish }, GIB);
      expect(places.map((at) => at.nodeId)).toEqual([wanted, 'd']);
    }
  });

  it('says what is missing and what excluded each node', () => {
    const nodes = [
      node('a', 'z1'),
      { ...node('b', 'z1'), silentMs: 34_000 },
      { ...node('c', 'z2'), pools: [] },
      node('d', 'z3', GIB),
    ];
    let said = '';
    try {
      place(nodes, rules, 10 * GIB);
    } catch (error) {
      said = (error as HoldfastError).message;
    }
    expect(said).toContain('3 replicas need 3 different nodes, there are 1');
    expect(said).toContain('b: no sign of life for 34 s');
    expect(said).toContain('c: has no pool');
    expect(said).toContain('d: room for 0 B (1.0 GiB of 100 GiB free), 10.0 GiB needed');
  });

  it('counts capacity net of copies and domains', () => {
    const nodes = [node('a', 'z1'), node('b', 'z1'), node('c', 'z2'), node('d', 'z2')];
    // Two domains of 200 GiB each: two copies of 200 GiB, the largest single volume fills one pool.
    expect(capacityFor(nodes, { ...rules, replicas: 2, failureDomain: ZONE })).toEqual({
      availableBytes: 200 * GIB,
      maximumBytes: 100 * GIB,
    });
    // Four nodes of 100 GiB, three copies: 400 / 3, but no volume above one pool.
    expect(capacityFor(nodes, rules).availableBytes).toBe(Math.floor((400 * GIB) / 3));
    expect(capacityFor(nodes, { ...rules, replicas: 3, failureDomain: ZONE }).availableBytes).toBe(0);
  });
});
