// The import table of src/ARCHITECTURE.md as data: who may import whom. Also the house rules that a compiler can't know.

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const src = join(root, 'src');

/** Folder -> folders it may import. `types` marks edges over which only types may go. */
const allowed: Record<string, readonly string[]> = {
  base: [],
  trust: ['base'],
  format: ['base'],
  hotpath: ['base', 'format'],
  segment: ['base', 'format', 'hotpath'],
  transport: ['base', 'trust', 'hotpath'],
  wire: ['base', 'trust', 'format', 'transport:types'],
  replica: ['base', 'format', 'segment', 'wire'],
  engine: ['base', 'format', 'hotpath', 'wire'],
  nbd: ['base', 'engine:types', 'transport:types'],
  rpc: ['base', 'trust'],
  platform: ['base', 'nbd', 'engine:types', 'hotpath:types'],
  meta: ['base', 'trust', 'rpc', 'format:types'],
  control: ['base', 'trust', 'meta', 'rpc'],
  agent: ['base', 'trust', 'engine', 'replica', 'segment', 'wire', 'nbd', 'platform', 'rpc', 'meta', 'format:types'],
  rescue: ['base', 'format', 'segment', 'replica', 'engine', 'meta', 'control'],
  csi: ['base', 'rpc', 'control', 'agent', 'meta:types', 'platform:types'],
  main: [
    'base',
    'trust',
    'format',
    'hotpath',
    'segment',
    'transport',
    'wire',
    'replica',
    'engine',
    'nbd',
    'rpc',
    'platform',
    'meta',
    'control',
    'agent',
    'rescue',
    'csi',
  ],
};

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name === 'generated' ? [] : filesUnder(path);
    return path.endsWith('.ts') ? [path] : [];
  });
}

interface Import {
  readonly file: string;
  readonly line: number;
  readonly specifier: string;
  readonly typeOnly: boolean;
}

function importsOf(file: string): Import[] {
  const text = readFileSync(file, 'utf8');
  const found: Import[] = [];
  const pattern = /(?:^|\n)\s*(import|export)\s+(type\s+)?(\{[^}]*\}|\*(?:\s+as\s+\w+)?|\w+)?\s*(?:from\s+)?'([^']+)'/g;
  for (const match of text.matchAll(pattern)) {
    const names = match[3] ?? '';
    const inner = names.startsWith('{')
      ? names
          .slice(1, -1)
          .split(',')
          .map((name) => name.trim())
          .filter((name) => name !== '')
      : [];
    const typeOnly = match[2] !== undefined || (inner.length > 0 && inner.every((name) => name.startsWith('type ')));
    found.push({ file, line: text.slice(0, match.index + 1).split('\n').length, specifier: match[4]!, typeOnly });
  }
  return found;
}

const sources = filesUnder(src);
const folderOf = (file: string) => relative(src, file).split(sep)[0]!;
const show = (one: Import) => `${relative(root, one.file)}:${one.line} imports ${one.specifier}`;

describe('layers', () => {
  it('knows every folder', () => {
    const folders = readdirSync(src).filter((name) => statSync(join(src, name)).isDirectory() && name !== 'decisions');
    expect(folders.sort()).toEqual(Object.keys(allowed).sort());
  });

  it('imports go down the table only, and through the index', () => {
    const wrong: string[] = [];
    for (const one of sources.flatMap(importsOf)) {
      if (!one.specifier.startsWith('.')) continue;
      const target = resolve(dirname(one.file), one.specifier);
      if (!target.startsWith(src + sep)) {
        wrong.push(`${show(one)}: outside src/`);
        continue;
      }
      const from = folderOf(one.file);
      const to = folderOf(target);
      if (from === to) continue;
      const edge = allowed[from]!.find((name) => name === to || name === `${to}:types`);
      if (edge === undefined) wrong.push(`${show(one)}: ${from}/ may not import ${to}/`);
      else if (edge.endsWith(':types') && !one.typeOnly)
        wrong.push(`${show(one)}: ${from}/ may import only types of ${to}/`);
      if (from !== 'main' && !/^((attach|mount|kube)\/)?index\.js$/.test(relative(join(src, to), target)))
        wrong.push(`${show(one)}: import ${to}/index.js`);
    }
    expect(wrong).toEqual([]);
  });

  it('only the port folders touch the world', () => {
    // Time, chance, disk, network and processes come in as ports; these are the files that make the real ones.
    const makers: Record<string, readonly string[]> = {
      'node:fs': [
        'segment/node-disk.ts',
        'trust/credentials.ts',
        'transport/',
        'platform/',
        'meta/',
        'rpc/',
        'nbd/',
        'main/',
        'segment/',
        'agent/',
        'csi/',
      ],
      'node:fs/promises': ['platform/', 'meta/', 'rpc/', 'nbd/', 'main/', 'agent/', 'segment/', 'csi/'],
      'node:net': ['nbd/', 'transport/', 'rpc/', 'platform/', 'main/', 'agent/'],
      'node:child_process': ['platform/', 'main/'],
      'node:worker_threads': ['main/', 'agent/'],
      'node:dgram': [],
      'node:http': ['main/'],
    };
    const wrong = sources.flatMap(importsOf).filter((one) => {
      const places = makers[one.specifier];
      const path = relative(src, one.file).split(sep).join('/');
      return places !== undefined && !one.typeOnly && !places.some((place) => path.startsWith(place));
    });
    expect(wrong.map(show)).toEqual([]);
  });

  it('the protocol cores know no clock, no timers and no chance but their ports', () => {
    const cores = [
      'trust',
      'format',
      'hotpath',
      'segment',
      'transport',
      'wire',
      'replica',
      'engine',
      'control',
      'agent',
      'rescue',
      'csi',
      'nbd',
      'meta',
    ];
    const banned =
      /\bDate\.now\(|\bMath\.random\(|(?<![.\w])setTimeout\(|(?<![.\w])setInterval\(|\bperformance\.now\(|\brandomBytes\(|\brandomUUID\(/;
    const wrong: string[] = [];
    for (const file of sources.filter((one) => cores.includes(folderOf(one)))) {
      readFileSync(file, 'utf8')
        .split('\n')
        .forEach((line, i) => {
          if (banned.test(line) && !line.trimStart().startsWith('//') && !line.trimStart().startsWith('*'))
            wrong.push(`${relative(root, file)}:${i + 1}: ${line.trim()}`);
        });
    }
    expect(wrong).toEqual([]);
  });
});

describe('house rules', () => {
  const everything = [...sources, ...filesUnder(join(root, 'test')), ...filesUnder(join(root, 'bench'))];

  it('no file of leftovers by name, none that is too long', () => {
    const badName = everything.filter((file) =>
      /(^|\/)(utils?|helpers?|common|misc|manager)(\.|\/|-)/.test(relative(root, file)),
    );
    expect(badName.map((file) => relative(root, file))).toEqual([]);
    const long = sources.filter((file) => readFileSync(file, 'utf8').split('\n').length > 520);
    expect(long.map((file) => relative(root, file))).toEqual([]);
  });

  it('no unfinished work, type escapes or switched-off tests', () => {
    const marks = [
      /\bTO(?:)DO\b/,
      /\bFIX(?:)ME\b/,
      /@ts-(?:)ignore/,
      /\bas an(?:)y\b/,
      /: an(?:)y\b/,
      /\b(?:it|test|describe)\.(?:only|todo)\(/,
      /\b(?:it|test|describe)\.(?:)skip\(/,
    ];
    const wrong: string[] = [];
    for (const file of everything) {
      if (file === import.meta.filename) continue;
      readFileSync(file, 'utf8')
        .split('\n')
        .forEach((line, i) => {
          const prose = /^\s*(\/\/|\/?\*)/.test(line) ? marks.slice(0, 3) : marks;
          if (prose.some((mark) => mark.test(line.replace(/'[^']*'/g, "''"))))
            wrong.push(`${relative(root, file)}:${i + 1}: ${line.trim()}`);
        });
    }
    expect(wrong).toEqual([]);
  });

  it('every source file is imported by another, or is an entry', () => {
    const entries = new Set(['main/holdfast.ts', 'main/storage-worker.ts', 'main/fuse-bridge.ts', 'main/attach.ts']);
    const reached = new Set<string>();
    for (const one of [...sources, ...filesUnder(join(root, 'test')), ...filesUnder(join(root, 'bench'))].flatMap(
      importsOf,
    )) {
      if (one.specifier.startsWith('.')) reached.add(resolve(dirname(one.file), one.specifier).replace(/\.js$/, '.ts'));
    }
    const dynamic = sources.map((file) => readFileSync(file, 'utf8')).join('\n');
    const dead = sources.filter((file) => {
      const name = relative(src, file).split(sep).join('/');
      return (
        !reached.has(file) &&
        !entries.has(name) &&
        !dynamic.includes(`/${name.split('/').at(-1)!.replace('.ts', '.js')}'`)
      );
    });
    expect(dead.map((file) => relative(root, file))).toEqual([]);
  });
});
