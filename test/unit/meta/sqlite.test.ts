// The SQLite file against everything that can be wrong with it and around it.

import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HoldfastError, realRandom } from '../../../src/base/index.js';
import { type MetadataStore, openSqliteStore } from '../../../src/meta/index.js';
import { loadSqlite } from '../../../src/meta/sqlite-driver.js';
import { IS_UNFINISHED, VOLUME_ID } from '../../../src/meta/sqlite-schema.js';
import { walDamage } from '../../../src/meta/sqlite-wal.js';

const driver = loadSqlite();
const isRoot = process.getuid?.() === 0;
let folder: string;
let file: string;
const cleanups: (() => unknown)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-sqlite-'));
  file = join(folder, 'meta.db');
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  rmSync(folder, { recursive: true, force: true });
});

const open = (at = file) => openSqliteStore({ file: at, random: realRandom, open: driver });

async function openClosing(at = file): Promise<MetadataStore> {
  const store = await open(at);
  cleanups.push(() => store.close());
  return store;
}

async function refusal(at = file): Promise<HoldfastError> {
  const error = await open(at).then(
    (store) => store.close().then(() => undefined),
    (thrown: unknown) => thrown,
  );
  expect(error, `opening ${at} should fail`).toBeInstanceOf(HoldfastError);
  expect((error as HoldfastError).message).toContain(at);
  return error as HoldfastError;
}

function digests(): Record<string, string> {
  const hash = (name: string) =>
    createHash('sha256')
      .update(readFileSync(join(folder, name)))
      .digest('hex');
  const names = readdirSync(folder).filter((name) => /\.db(-wal)?$/.test(name));
  return Object.fromEntries(names.map((name) => [name, hash(name)]));
}

async function fill(store: MetadataStore, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const value = {
      i,
      text: 'x'.repeat((i * 67) % 400),
      state: i % 2 === 0 ? 'ready' : 'creating',
      volumeId: `v${i % 5}`,
    };
    await store.compareAndSwap(`volume/${String(i).padStart(4, '0')}`, 0, value);
  }
}

const dump = async (store: MetadataStore) => JSON.stringify(await store.list(''));

/** The file and its log as kill -9 leaves them: copied from under a store that is open. */
async function crashed(count: number): Promise<{ contents: string }> {
  const live = join(folder, 'live');
  mkdirSync(live);
  const store = await open(join(live, 'meta.db'));
  await fill(store, count);
  const contents = await dump(store);
  for (const suffix of ['', '-wal']) copyFileSync(join(live, `meta.db${suffix}`), file + suffix);
  await store.close();
  rmSync(live, { recursive: true });
  return { contents };
}

describe('a SQLite metadata file', () => {
  it('is private, leaves no log behind after close and no half-made file ever', async () => {
    writeFileSync(`${file}.creating-0000`, 'left by a crash');
    const store = await open();
    expect(statSync(file).mode & 0o777).toBe(0o600);
    await fill(store, 3);
    expect(statSync(`${file}-wal`).mode & 0o777).toBe(0o600);
    await store.close();
    expect(readdirSync(folder)).toEqual(['meta.db']);
    const database = driver(file, { readonly: true });
    expect(database.pragma('application_id', { simple: true })).toBe(0x48464d44);
    database.close();
  });

  it('syncs each commit, and another process cannot even read it', async () => {
    let database: ReturnType<typeof driver> | undefined;
    const spying: typeof driver = (at, options) => {
      database = driver(at, options);
      return database;
    };
    const store = await openSqliteStore({ file, random: realRandom, open: spying });
    cleanups.push(() => store.close());
    await fill(store, 2);
    const settings = ['journal_mode', 'synchronous', 'locking_mode'].map((name) =>
      database!.pragma(name, { simple: true }),
    );
    expect(settings).toEqual(['wal', 2, 'exclusive']);
    expect(await refusal()).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'PoolInUse' });
    const script = `const D=require('better-sqlite3');try{new D(${JSON.stringify(file)},{timeout:50}).pragma('quick_check');console.log('open')}catch(e){console.log(e.code)}`;
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    for await (const chunk of child.stdout) output += chunk;
    expect(output.trim()).toBe('SQLITE_BUSY');
    expect((await store.list('')).entries.length).toBe(2);
  });

  it('of another controller process is refused, and opens when that one is dead', async () => {
    const store = await open();
    await fill(store, 2);
    await store.close();
    const script = `const d=new (require('better-sqlite3'))(${JSON.stringify(file)});d.pragma('locking_mode=EXCLUSIVE');d.pragma('journal_mode=WAL');
      d.prepare('SELECT * FROM entry').all();console.log('held');setInterval(()=>{},1000)`;
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    cleanups.push(() => child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    expect(await refusal()).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'PoolInUse' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect((await (await openClosing()).list('')).entries.length).toBe(2);
  });

  it('is owned from the first moment, before anything was written by this opener', async () => {
    await (await open()).close();
    await openClosing();
    expect(await refusal()).toMatchObject({ reason: 'PoolInUse' });
  });

  it('is refused untouched when it is empty, text, truncated or a directory', async () => {
    await fill(await openClosing(join(folder, 'good.db')), 200);
    await cleanups.pop()!();
    const good = readFileSync(join(folder, 'good.db'));
    const bad: Buffer[] = [Buffer.alloc(0), Buffer.from('hello '.repeat(100)), Buffer.alloc(8192)];
    for (const length of [50, 4096, good.length - 4096, good.length - 1]) bad.push(good.subarray(0, length));
    for (const bytes of bad) {
      writeFileSync(file, bytes);
      const before = digests();
      const error = await refusal();
      expect(error, `${bytes.length} bytes`).toMatchObject({ code: 'DATA_LOSS', reason: 'Corrupt' });
      expect(error.message).toContain('left untouched');
      expect(digests()).toMatchObject(before);
    }
    rmSync(file);
    mkdirSync(file);
    expect(await refusal()).toMatchObject({ code: 'DATA_LOSS' });
    rmSync(file, { recursive: true });
    writeFileSync(`${file}-wal`, 'a log without its file');
    expect((await refusal()).message).toContain('is missing, while its write-ahead log is there');
    expect(existsSync(file)).toBe(false);
  });

  it('of another program, or of a newer Holdfast, is left alone', async () => {
    const database = driver(file);
    database.exec('CREATE TABLE t(x); PRAGMA application_id = 77');
    database.close();
    const before = digests();
    expect(await refusal()).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'PoolForeign' });
    expect(digests()).toEqual(before);
    const newer = join(folder, 'newer.db');
    await (await open(newer)).close();
    const changed = driver(newer);
    changed.pragma('user_version = 99');
    changed.close();
    const untouched = digests();
    expect(await refusal(newer)).toMatchObject({
      reason: 'UnknownVersion',
      message: expect.stringMatching(/newer\.db is of version 99, this program knows version 1: use a release/),
    });
    expect(digests()).toEqual(untouched);
  });

  it('with any bit flipped shows the right contents or is refused untouched', async () => {
    const store = await open();
    await fill(store, 60);
    const contents = await dump(store);
    await store.close();
    const good = readFileSync(file);
    let refused = 0;
    const places = Array.from({ length: 140 }, (_, i) =>
      i < 70 ? i + Math.floor(i / 35) * 30 : (i * 7919) % good.length,
    );
    for (const at of places) {
      const bytes = Buffer.from(good);
      bytes[at] = bytes[at]! ^ (1 << (at % 8));
      writeFileSync(file, bytes);
      const opened = await open().catch((thrown: unknown) => thrown);
      if (opened instanceof HoldfastError) {
        expect(opened.message, `byte ${at}`).toContain(file);
        expect(readFileSync(file).equals(bytes), `byte ${at} refused untouched: ${opened.message}`).toBe(true);
        refused++;
      } else {
        expect(await dump(opened as MetadataStore), `byte ${at}`).toBe(contents);
        await (opened as MetadataStore).close();
      }
      for (const suffix of ['-wal', '-shm']) rmSync(file + suffix, { force: true });
    }
    expect(refused).toBeGreaterThan(70);
  });

  it('finds what is unfinished and what belongs to a volume through an index', async () => {
    const store = await open();
    await fill(store, 300);
    await store.close();
    const database = driver(file);
    const plan = (where: string) =>
      (
        database
          .prepare(
            `EXPLAIN QUERY PLAN SELECT * FROM entry WHERE ${where} AND key >= 'a' AND key > 'b' AND key < 'w' ORDER BY key LIMIT 5`,
          )
          .all() as { detail: string }[]
      )
        .map((step) => step.detail)
        .join('; ');
    expect(plan(IS_UNFINISHED)).toMatch(
      /^SEARCH entry USING (COVERING )?INDEX entry_unfinished \(key>\? AND key<\?\)$/,
    );
    expect(plan(`${VOLUME_ID} = 'v1'`)).toMatch(
      /^SEARCH entry USING (COVERING )?INDEX entry_of_volume \(<expr>=\? AND key>\? AND key<\?\)$/,
    );
    database.close();
  });

  it('names the entry when a value was changed without a trace in the structure', async () => {
    const store = await open();
    await store.compareAndSwap('volume/victim', 0, { text: 'MARK-AAAA' });
    await store.close();
    const bytes = readFileSync(file);
    bytes.write('MARK-AAAB', bytes.indexOf('MARK-AAAA'));
    writeFileSync(file, bytes);
    expect((await refusal()).message).toContain('entry volume/victim');
  });

  it('keeps what its log holds after a crash, and drops a torn tail', async () => {
    const { contents } = await crashed(40);
    const log = readFileSync(`${file}-wal`);
    const main = readFileSync(file);
    expect(await dump(await openClosing())).toBe(contents);
    // What makes frames of the current salt ours alone.
    expect(statSync(`${file}-wal`).size).toBe(0);
    await cleanups.pop()!();
    writeFileSync(file, main);
    writeFileSync(`${file}-wal`, Buffer.concat([log.subarray(0, log.length - 1000)]));
    const store = await openClosing();
    expect(await store.version()).toBe(39);
    expect((await store.list('')).entries.length).toBe(39);
  });

  it('is refused untouched when its log is damaged before committed changes', async () => {
    await crashed(40);
    const log = readFileSync(`${file}-wal`);
    const main = readFileSync(file);
    expect(walDamage(`${file}-wal`)).toBeUndefined();
    const frame = 24 + 4096;
    // Header: magic, page size, salt, sums. First frames: number, commit mark, salt, sum, page.
    for (const at of [0, 9, 17, 25, 32, 37, 41, 50, 32 + 24 + 99, 32 + frame * 9 + 2000, 32 + frame * 20 + 30]) {
      const bytes = Buffer.from(log);
      bytes[at] = bytes[at]! ^ 4;
      writeFileSync(file, main);
      writeFileSync(`${file}-wal`, bytes);
      const error = await refusal();
      expect(error, `byte ${at}`).toMatchObject({ code: 'DATA_LOSS', reason: 'Corrupt' });
      expect(error.message).toContain('write-ahead log');
      expect(readFileSync(file).equals(main)).toBe(true);
      expect(readFileSync(`${file}-wal`).equals(bytes)).toBe(true);
    }
  });

  it('needs a directory that is there and writable', async () => {
    expect(await refusal(join(folder, 'none', 'meta.db'))).toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'PoolMissing',
    });
    writeFileSync(join(folder, 'plain'), '');
    expect(await refusal(join(folder, 'plain', 'meta.db'))).toMatchObject({ reason: 'PoolMissing' });
  });

  it.skipIf(isRoot)('says when this user may not write there', async () => {
    chmodSync(folder, 0o555);
    cleanups.push(() => chmodSync(folder, 0o755));
    expect(await refusal()).toMatchObject({ reason: 'PoolNotWritable' });
  });

  it.runIf(isRoot && process.platform === 'linux')(
    'names a full and a read-only filesystem, and goes on when there is room',
    async () => {
      const mounted = join(folder, 'small');
      mkdirSync(mounted);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', mounted]);
      cleanups.push(() => execFileSync('umount', [mounted]));
      const at = join(mounted, 'meta.db');
      const store = await open(at);
      cleanups.push(() => store.close());
      let full: unknown;
      let written = 0;
      while (full === undefined) {
        const key = `volume/${written}`;
        await store.compareAndSwap(key, 0, { text: 'x'.repeat(20_000) }).then(
          () => written++,
          (thrown: unknown) => {
            full = thrown;
          },
        );
      }
      expect(full).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'NoSpace' });
      expect((full as HoldfastError).message).toContain(at);
      expect(await store.version()).toBe(written);
      expect((await store.list('')).entries.length).toBe(written);
      expect(await store.get(`volume/${written}`)).toBeUndefined();
      execFileSync('mount', ['-o', 'remount,size=8m', mounted]);
      expect(await store.compareAndSwap(`volume/${written}`, 0, {})).toEqual({ ok: true, version: written + 1 });
      await store.close();
      execFileSync('mount', ['-o', 'remount,ro', mounted]);
      const error = await refusal(at);
      expect(error).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'PoolNotWritable' });
      expect(error.message).toContain('read-only filesystem');
    },
  );
});

describe('the SQLite driver', () => {
  const require = createRequire(import.meta.url);
  const Real = require('better-sqlite3') as new (file: string, options: object) => { close(): void };

  it('when its native part is missing, says what to install and what of it is missing', () => {
    const request = () =>
      function Broken() {
        return new Real(':memory:', { nativeBinding: '/nonexistent/better_sqlite3.node' });
      };
    const tools = join(folder, 'bin');
    mkdirSync(tools);
    for (const name of ['python3', 'make']) writeFileSync(join(tools, name), '', { mode: 0o755 });
    const failure = (path: string) => {
      try {
        loadSqlite(request, { path });
      } catch (error) {
        return error as HoldfastError;
      }
      throw new Error('it loaded');
    };
    const error = failure(tools);
    expect(error).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'ToolMissing' });
    expect(error.message).toContain('python3, make and a C++ compiler (g++)');
    expect(error.message).toContain('Missing on this machine: g++.');
    expect(error.message).toContain('npm rebuild better-sqlite3');
    expect(failure('').message).toContain('Missing on this machine: python3, make, g++.');
    writeFileSync(join(tools, 'clang++'), '', { mode: 0o755 });
    expect(failure(tools).message).toContain('All three are on this machine, so run: npm rebuild better-sqlite3');
    writeFileSync(join(tools, 'make'), '');
    chmodSync(join(tools, 'make'), 0o644);
    expect(failure(tools).message).toContain('Missing on this machine: make.');
  });

  it('when the package is not installed, says so the same way', () => {
    const request = () => require('no-such-package-here');
    expect(() => loadSqlite(request, { path: '' })).toThrow(/better-sqlite3, whose native part can't be loaded/);
  });
});

describe('a disk that fails', () => {
  it('closes the store for good: no answer from a page cache whose state nobody knows', async () => {
    let broken = false;
    const failing: typeof driver = (at, options) => {
      const database = driver(at, options);
      const prepare = database.prepare.bind(database);
      database.prepare = ((sql: string) => {
        const statement = prepare(sql);
        if (!sql.startsWith('UPDATE store')) return statement;
        const run = statement.run.bind(statement);
        statement.run = ((...args: unknown[]) => {
          if (broken) throw Object.assign(new Error('disk I/O error'), { code: 'SQLITE_IOERR_FSYNC' });
          return run(...args);
        }) as typeof statement.run;
        return statement;
      }) as typeof database.prepare;
      return database;
    };
    const store = await openSqliteStore({ file, random: realRandom, open: failing });
    cleanups.push(() => store.close());
    await fill(store, 2);
    broken = true;
    const failed = { code: 'UNAVAILABLE', reason: 'DiskFailed' };
    await expect(store.compareAndSwap('volume/x', 0, {})).rejects.toMatchObject(failed);
    broken = false;
    await expect(store.compareAndSwap('volume/x', 0, {})).rejects.toMatchObject(failed);
    await expect(store.get('volume/0000')).rejects.toMatchObject(failed);
    await expect(store.list('')).rejects.toMatchObject(failed);
  });
});
