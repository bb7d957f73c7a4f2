// A build of this tree whose checksums cost nothing, so that what they cost can be measured: its compiled files with a CRC-32C that is
// always 0, and its native crate built anew with the same change. It reads what it wrote and nothing else. The product has no
// such switch. Owner: one stage; the copy lies in its directory, the crate's build below the crate's own target directory.

import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { precondition } from '../../src/base/index.js';
import { nativeBinding } from '../../src/hotpath/index.js';
import { projectRoot } from '../history.js';
import { lastLine } from '../processes.js';
import type { Tools } from '../volume/content.js';

/** The first time it compiles every crate. */
const BUILD_MS = 600_000;
const SUMMED = 'checksum(Crc32Iscsi, bytes) as u32';
const UNSUMMED = '(bytes.len() & 0) as u32';
const script = `export const crc32c = () => 0;
export const crc32cTable = () => 0;
export const crc32cShort = () => 0;
`;

/** The crate's checksum without its work. Throws when it is not where it was. */
export function withoutChecksum(source: string): string {
  const parts = source.split(SUMMED);
  if (parts.length !== 2) throw precondition(`the native crate's checksum is not "${SUMMED}" any more`);
  return parts.join(UNSUMMED);
}

/** Only what differs, so that cargo builds only what changed. */
function write(path: string, text: string): void {
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) writeFileSync(path, text);
}

/** Returns the path of the built library. */
async function buildCrate({ processes }: Tools): Promise<string> {
  const crate = join(projectRoot(), 'src', 'hotpath', 'native');
  const copy = join(crate, 'target', 'unsummed');
  mkdirSync(join(copy, 'src'), { recursive: true });
  for (const name of ['Cargo.toml', 'Cargo.lock', 'build.rs'])
    write(join(copy, name), readFileSync(join(crate, name), 'utf8'));
  for (const name of readdirSync(join(crate, 'src'))) {
    const source = readFileSync(join(crate, 'src', name), 'utf8');
    write(join(copy, 'src', name), name === 'record.rs' ? withoutChecksum(source) : source);
  }
  const manifest = ['--manifest-path', join(copy, 'Cargo.toml'), '--target-dir', join(copy, 'target')];
  const args = ['build', '--release', '--locked', '--quiet', ...manifest];
  const { code, stderr } = await processes.run('cargo', args, BUILD_MS);
  if (code !== 0) throw precondition(`cargo could not build the crate without checksums: ${lastLine(stderr)}`);
  return join(copy, 'target', 'release', 'libholdfast_native.so');
}

/** Returns the path of a serve.js whose process sums nothing; a sentence as `whyNot` where none can be built. */
export async function buildUnsummed(tools: Tools): Promise<{ program: string } | { whyNot: string }> {
  const root = join(tools.directory, 'unsummed');
  const compiled = fileURLToPath(new URL('../..', import.meta.url));
  const copy = join(root, 'dist');
  mkdirSync(root, { recursive: true });
  for (const name of ['node_modules', 'package.json']) symlinkSync(join(projectRoot(), name), join(root, name));
  cpSync(compiled, copy, { recursive: true });
  writeFileSync(join(copy, 'src', 'base', 'crc32c.js'), script);
  if (nativeBinding() !== null) {
    if ((await tools.processes.version('cargo')) === undefined) return { whyNot: 'cargo is not installed' };
    copyFileSync(await buildCrate(tools), join(copy, 'src', 'hotpath', 'holdfast-native.node'));
  }
  return { program: join(copy, 'bench', 'micro', 'serve.js') };
}
