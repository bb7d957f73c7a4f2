// better-sqlite3 is loaded only when a SQLite store is opened, so that daemons run where its native part is missing. Where
// it is missing the error says what to install.

import { accessSync, constants } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, join } from 'node:path';
import type BetterSqlite3 from 'better-sqlite3';
import { HoldfastError, messageOf } from '../base/index.js';

export type Database = BetterSqlite3.Database;
export type OpenDatabase = (file: string, options?: BetterSqlite3.Options) => Database;

/** Where the build looks for tools; a parameter for tests. */
export interface ToolPath {
  readonly path: string;
}

const compilers = ['g++', 'c++', 'clang++'];
const tools: readonly (readonly string[])[] = [['python3', 'python'], ['make', 'gmake'], compilers];

function onPath(name: string, path: string): boolean {
  return path.split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return folder !== '';
    } catch {
      return false;
    }
  });
}

function missingDriver(cause: unknown, { path }: ToolPath): HoldfastError {
  const missing = tools.filter((names) => !names.some((name) => onPath(name, path))).map((names) => names[0]!);
  const found =
    missing.length === 0
      ? 'All three are on this machine, so run: npm rebuild better-sqlite3'
      : `Missing on this machine: ${missing.join(', ')}. Install them (Debian and Ubuntu: apt-get install python3 make g++; ` +
        `Fedora: dnf install python3 make gcc-c++; Alpine: apk add python3 make g++), then run: npm rebuild better-sqlite3`;
  return new HoldfastError(
    'FAILED_PRECONDITION',
    `the metadata store needs better-sqlite3, whose native part can't be loaded (${messageOf(cause).split('\n')[0]}). ` +
      `npm downloads it prebuilt or, where it can't, builds it with python3, make and a C++ compiler (g++). ${found}`,
    { reason: 'ToolMissing', cause },
  );
}

/**
 * The driver, proven to work. Throws FAILED_PRECONDITION (ToolMissing) naming what the machine lacks. `request` stands for
 * Node's require, `toolPath` for PATH.
 */
export function loadSqlite(
  request: (name: string) => unknown = createRequire(import.meta.url),
  toolPath: ToolPath = { path: process.env.PATH ?? '' },
): OpenDatabase {
  try {
    const Driver = request('better-sqlite3') as typeof BetterSqlite3;
    // The native part is loaded by the first database, not by the import.
    new Driver(':memory:').close();
    return (file, options) => new Driver(file, options);
  } catch (error) {
    throw missingDriver(error, toolPath);
  }
}
