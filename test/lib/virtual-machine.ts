// A Debian kernel in QEMU, for what this machine's own kernel lacks (nbd): emulated, so right but slow. The guest's root is this
// machine's, shared read-only with memory on top, so everything installed here runs there as well.
//
// What is missing is installed, and the kernel's package fetched, where that is possible: as root on Debian. Files are kept
// under the temporary directory and used again.

import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { run } from './system-needs.js';

const packages: Readonly<Record<string, string>> = {
  'qemu-system-x86_64': 'qemu-system-x86',
  busybox: 'busybox-static',
  cpio: 'cpio',
  modprobe: 'kmod',
};
const home = join(tmpdir(), 'holdfast-vm');
const kernelPackage = 'linux-image-amd64';
/** To reach the root that is shared, and no more: the guest loads the rest from there. */
const bootModules = ['virtio_pci', 'virtio_net', '9p', '9pnet_virtio', 'overlay'];
const memoryMiB = 1_536;
/** Network and package lists are not waited for any longer. */
const aptTimeoutMs = 120_000;

/** Why there is no machine to be had here; empty when there is one. */
export function missingForVm(): string {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'not Linux on x86-64';
  if (process.getuid?.() !== 0) return 'not root';
  if (!existsSync('/etc/debian_version')) return 'not Debian, from which the kernel and its modules are taken';
  return '';
}

/** Rejects with what it said. */
async function apt(directory: string, ...args: string[]): Promise<void> {
  const options = [
    '-qq',
    '-o',
    'APT::Sandbox::User=root',
    '-o',
    'Acquire::Retries=1',
    '-o',
    'Acquire::http::Timeout=20',
  ];
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const child = spawn('apt-get', [...options, ...args], { cwd: directory, env, timeout: aptTimeoutMs });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      said = (said + chunk).slice(-500);
    });
  }
  const ended = await new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code ?? signal));
  });
  if (ended !== 0) throw new Error(`apt-get ${args.join(' ')} ended with ${ended}: ${said}`);
}

/** Programs, kernel and initial root, as far as they are not there. Rejects with what went wrong. */
export async function prepareVm(): Promise<void> {
  const missing = Object.keys(packages).filter((program) => spawnSync('which', [program]).status !== 0);
  const needed = missing.map((program) => packages[program]!);
  const kernel = join(home, 'kernel');
  if (needed.length > 0 || !existsSync(kernel)) {
    process.stdout.write(`installing for the kernel nbd tests: ${[...needed, kernelPackage].join(' ')}\n`);
    await apt('/', 'update');
  }
  if (needed.length > 0) await apt('/', 'install', '-y', '--no-install-recommends', ...needed);
  mkdirSync(home, { recursive: true });
  if (!existsSync(kernel)) await fetchKernel(kernel);
  makeInitialRoot(kernel);
}

/** Out of its package: it is not installed on this machine. */
async function fetchKernel(kernel: string): Promise<void> {
  const name = /Depends: (\S+)/.exec(run('apt-cache', 'depends', kernelPackage))?.[1];
  if (name === undefined) throw new Error(`${kernelPackage} names no kernel`);
  const part = mkdtempSync(join(home, 'part-'));
  try {
    await apt(part, 'download', name);
    const [archive] = readdirSync(part);
    const root = join(part, 'root');
    run('dpkg-deb', '-x', join(part, archive!), root);
    run('depmod', '-b', root, versionIn(root));
    if (!existsSync(kernel)) renameSync(root, kernel);
  } finally {
    rmSync(part, { recursive: true });
  }
}

function versionIn(kernel: string): string {
  const [version] = readdirSync(join(kernel, 'lib/modules'));
  if (version === undefined) throw new Error(`${kernel} holds no modules`);
  return version;
}

function makeInitialRoot(kernel: string): void {
  const part = mkdtempSync(join(home, 'part-'));
  const root = join(part, 'root');
  for (const name of ['bin', 'sbin', 'dev', 'proc', 'sys', 'modules', 'host', 'over', 'root']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  cpSync(run('which', 'busybox').trim(), join(root, 'bin/busybox'), { dereference: true });
  run('ln', '-s', 'busybox', join(root, 'bin/sh'));
  const order: string[] = [];
  for (const name of bootModules) {
    const listed = run('modprobe', '-d', kernel, '-S', versionIn(kernel), '--show-depends', name);
    for (const [, path] of listed.matchAll(/^insmod (\S+)/gm)) {
      if (order.includes(basename(path!))) continue;
      cpSync(path!, join(root, 'modules', basename(path!)));
      order.push(basename(path!));
    }
  }
  writeFileSync(join(root, 'order'), `${order.join('\n')}\n`);
  // The kernel loads modules by this program, and knows the initial root only.
  writeFileSync(join(root, 'sbin/modprobe'), '#!/bin/sh\nexec /bin/busybox chroot /root /sbin/modprobe "$@"\n');
  writeFileSync(join(root, 'init'), initScript(kernel));
  for (const name of ['init', 'sbin/modprobe']) chmodSync(join(root, name), 0o755);
  const archive = join(part, 'initial.gz');
  run('sh', '-c', `cd '${root}' && find . | cpio -o -H newc 2>/dev/null | gzip -1 > '${archive}'`);
  // By rename: another run may be starting its machine.
  renameSync(archive, join(home, 'initial.gz'));
  rmSync(part, { recursive: true });
}

const initScript = (kernel: string) => `#!/bin/sh
alias b=/bin/busybox; r=/root; p=trans=virtio,version=9p2000.L,msize=524288
b mount -t proc p /proc; b mount -t sysfs s /sys; b mount -t devtmpfs d /dev
while read m; do b insmod /modules/$m; done < /order
b mount -t 9p -o $p,cache=loose,ro host /host && b mount -t tmpfs -o size=80% t /over && b mkdir /over/u /over/w &&
b mount -t overlay -o lowerdir=/host,upperdir=/over/u,workdir=/over/w o $r || b poweroff -f
b mount --move /dev $r/dev; b mount -t proc p $r/proc; b mount -t sysfs s $r/sys
for d in run dev/shm; do b mkdir -p $r/$d; b mount -t tmpfs t $r/$d; done
b mkdir -p $r/dev/pts $r/out $r/lib/modules $r/run/tmp; b mount -t devpts p $r/dev/pts
b mount -t 9p -o $p,cache=none out $r/out; b mount --bind /host${kernel}/lib/modules $r/lib/modules
b ip link set lo up
HOME=/root TMPDIR=/run/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin b chroot $r /bin/sh /out/script
echo $? > $r/out/code; b sync; b poweroff -f
`;

/**
 * Runs a script of sh(1) as root in a fresh machine; `directory` of this machine is /out there. Resolves with the script's exit
 * code and all that came over the console; the code is undefined when the machine was ended after `timeoutMs`.
 */
export async function runInVm(
  script: string,
  directory: string,
  timeoutMs: number,
): Promise<{ code: number | undefined; console: string }> {
  writeFileSync(join(directory, 'script'), script);
  const kernel = join(home, 'kernel');
  const share = (path: string, tag: string, more: string) => [
    '-virtfs',
    `local,path=${path},mount_tag=${tag},security_model=none${more}`,
  ];
  const machine = spawn(
    'timeout',
    [
      // It ends in time also when this process is killed, and with Ctrl-C.
      ...['--foreground', '--signal=KILL', String(timeoutMs / 1_000), 'qemu-system-x86_64'],
      // An older processor, and nothing against spying: a quarter less to emulate. A second processor would double the cost.
      ...['-M', 'q35', '-accel', 'tcg', '-cpu', 'Nehalem', '-smp', '1', '-m', String(memoryMiB)],
      ...['-display', 'none', '-no-reboot', '-nodefaults', '-serial', 'stdio', '-device', 'virtio-rng-pci'],
      ...['-kernel', join(kernel, 'boot', `vmlinuz-${versionIn(kernel)}`), '-initrd', join(home, 'initial.gz')],
      ...['-append', 'console=ttyS0 panic=-1 quiet mitigations=off'],
      ...share('/', 'host', ',readonly=on,multidevs=remap'),
      ...share(directory, 'out', ''),
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const said: Buffer[] = [];
  for (const stream of [machine.stdout, machine.stderr]) stream.on('data', (chunk: Buffer) => said.push(chunk));
  await new Promise<void>((resolve, reject) => {
    machine.once('error', reject);
    machine.once('close', () => resolve());
  });
  const code = join(directory, 'code');
  return {
    code: existsSync(code) ? Number(readFileSync(code, 'utf8')) : undefined,
    console: Buffer.concat(said).toString('utf8').replaceAll('\r', ''),
  };
}
