// Part of `npm run build`: compiles the native crate where cargo is at hand and puts it beside the compiled loader. Without it
// everything runs on its TypeScript twins, several times slower, so what happened is said in one line. Never fails the build.
// Usage: node src/hotpath/build-native.mjs [folder of compiled files, default dist]

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync } from 'node:fs';
import { join, resolve } from 'node:path';

const crate = join(import.meta.dirname, 'native');
const made = join(crate, 'target/release/libholdfast_native.so');
const target = resolve(process.argv[2] ?? 'dist', 'src/hotpath');
const without = 'Holdfast runs on its TypeScript twins instead, with the same format and several times the CPU';

function build() {
  if (spawnSync('cargo', ['--version']).error) return `cargo was not found (install Rust, or a package named cargo)`;
  if (!existsSync(made)) console.error('building the native kernel; the first time takes a minute or two');
  const cargo = spawnSync('cargo', ['build', '--release', '--locked', '--quiet'], {
    cwd: crate,
    stdio: ['ignore', 'inherit', 'pipe'],
    encoding: 'utf8',
    // Without a network to fetch crates from, that is to be known soon.
    env: { CARGO_NET_RETRY: '1', CARGO_HTTP_TIMEOUT: '15', ...process.env },
  });
  if (cargo.status === 0) return undefined;
  process.stderr.write(cargo.stderr);
  return `cargo failed (see above)`;
}

const failure = build();
if (failure === undefined) {
  mkdirSync(target, { recursive: true });
  // By rename: a running process keeps the file it has mapped.
  const part = join(target, `holdfast-native.${process.pid}.part`);
  copyFileSync(made, part);
  renameSync(part, join(target, 'holdfast-native.node'));
} else {
  const older = existsSync(join(target, 'holdfast-native.node')) ? '; an older build is still there and is used if it fits' : '';
  console.error(`native kernel not built: ${failure}. ${without}${older}.`);
}
