// Runs in a virtual machine whose kernel has nbd: what a volume must go through as a kernel nbd device, with real holders and
// a storage daemon that can be killed. One JSON line per scenario on /out/results, read by test/system/kernel-nbd.test.ts.
//
//   kernel-nbd-guest.js [NAME...]     all scenarios, or those named

import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { HoldfastError, MiB } from '../../src/base/index.js';
import {
  type AttachRig,
  cleanUpRigs,
  filesystems,
  mounter,
  newRig as newRigOf,
  rigLogs,
  sh,
  sleep,
} from './attach-rig.js';
import { FioLoad } from './fio-load.js';
import { replicatedVolume } from './kernel-nbd-cluster.js';
import { type KernelNbdScenario, kernelNbdScenarios, type ScenarioResult } from './kernel-nbd-scenarios.js';
import { checkUnmounted } from './system-needs.js';

const results = '/out/results';
/** Programs take seconds to start in an emulated machine, and tens of them when the machine beneath is busy. */
const newRig = (sizeBytes: number) => newRigOf(sizeBytes, 'auto', { launchTimeoutMs: 90_000 });

function check(what: string, actual: unknown, expected: unknown): void {
  if (isDeepStrictEqual(actual, expected)) return;
  throw new Error(`${what}: ${JSON.stringify(actual)} and not ${JSON.stringify(expected)}`);
}

async function eventually(what: string, timeoutMs: number, look: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await look())) {
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(50);
  }
}

async function refused(what: string, act: Promise<unknown>, reason: string): Promise<void> {
  const error = await act.then(
    () => undefined,
    (failure: unknown) => failure,
  );
  check(what, error instanceof HoldfastError ? error.reason : String(error), reason);
}

const backend = (devicePath: string): string | undefined => {
  const path = `/sys/block/${devicePath.slice('/dev/'.length)}/backend`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined;
};

/** Of a volume; others have theirs at the same time. */
const devicesOf = (rig: AttachRig): string[] =>
  readdirSync('/sys/block').filter((name) => backend(`/dev/${name}`)?.endsWith(`/${rig.volumeId}`));

async function stateBecomes(rig: AttachRig, state: string, timeoutMs = 20_000): Promise<void> {
  await eventually(`state ${state}`, timeoutMs, async () => (await rig.status())?.state === state);
}

async function mounted(rig: AttachRig, devicePath: string, fsType: 'ext4' | 'xfs' = 'ext4', format = true) {
  if (format) await filesystems.format(devicePath, fsType, rig.volumeId, []);
  const target = rig.mountPoint;
  await mounter.mountFilesystem({ device: devicePath, target, fsType, options: [], readOnly: false });
}

const scenarios: Record<KernelNbdScenario, () => Promise<string>> = {
  'attach, flush, FUA, discard, detach': async () => {
    const rig = await newRig(64 * MiB);
    const device = await rig.up();
    const { kind, sizeBytes, devicePath } = device;
    check('device', { kind, sizeBytes }, { kind: 'kernel-nbd', sizeBytes: 64 * MiB });
    check('bridge', (await rig.status())?.bridgePid, 0);
    check('identifier', backend(devicePath)?.endsWith(`/${rig.volumeId}`), true);
    check('block size', await sh('blockdev', '--getss', '--getsize64', devicePath), `4096\n${64 * MiB}`);
    check('a repeat', await rig.newPlugin().attach({ volumeId: rig.volumeId, key: rig.key, readOnly: false }), device);
    const data = randomBytes(3 * MiB);
    const disk = () => readFileSync(rig.file('disk'));
    writeFileSync(rig.file('in'), data);
    await sh('dd', `if=${rig.file('in')}`, `of=${devicePath}`, 'bs=1M', 'seek=7', 'oflag=direct', 'conv=notrunc');
    check(
      'data at the server',
      disk()
        .subarray(7 * MiB, 10 * MiB)
        .equals(data),
      true,
    );
    rig.forgetOps();
    await sh('dd', 'if=/dev/zero', `of=${devicePath}`, 'bs=4k', 'count=1', 'conv=notrunc,fsync');
    check(
      'flush at the server',
      rig.ops().some((op) => op.startsWith('flush')),
      true,
    );
    rig.forgetOps();
    await sh(
      'dd',
      `if=${rig.file('in')}`,
      `of=${devicePath}`,
      'bs=4k',
      'count=1',
      'seek=9',
      'oflag=direct,dsync',
      'conv=notrunc',
    );
    check('FUA at the server', rig.ops().includes(`fua ${9 * 4096} 4096`), true);
    rig.forgetOps();
    await sh('blkdiscard', '-o', String(8 * MiB), '-l', String(MiB), devicePath);
    check('discard at the server', rig.ops().includes(`trim ${8 * MiB} ${MiB}`), true);
    check(
      'discarded',
      disk()
        .subarray(8 * MiB, 9 * MiB)
        .equals(Buffer.alloc(MiB)),
      true,
    );
    // Buffered, so that detach has something to flush.
    await sh('dd', `if=${rig.file('in')}`, `of=${devicePath}`, 'bs=1M', 'seek=20', 'conv=notrunc');
    rig.forgetOps();
    await rig.attach.detach(rig.volumeId);
    check(
      'flushed by detach',
      disk()
        .subarray(20 * MiB, 23 * MiB)
        .equals(data),
      true,
    );
    check('last order', rig.ops().at(-1), 'close');
    check('traces', await rig.traces(), []);
    check('devices', devicesOf(rig), []);
    check('status', await rig.status(), undefined);
    await rig.attach.detach(rig.volumeId);
    return devicePath;
  },

  'ext4 and xfs keep what was written': async () => {
    const rig = await newRig(320 * MiB);
    for (const fsType of ['ext4', 'xfs'] as const) {
      const { devicePath } = await rig.up();
      if (fsType === 'xfs') await sh('wipefs', '-qa', devicePath);
      await mounted(rig, devicePath, fsType);
      const data = randomBytes(8 * MiB);
      writeFileSync(`${rig.mountPoint}/data`, data);
      await refused('detach of a mounted volume', rig.attach.detach(rig.volumeId), 'Busy');
      await mounter.unmount(rig.mountPoint);
      await rig.attach.detach(rig.volumeId);
      const again = await rig.up();
      await checkUnmounted(again.devicePath, fsType);
      await mounted(rig, again.devicePath, fsType, false);
      check(`data on ${fsType}`, readFileSync(`${rig.mountPoint}/data`).equals(data), true);
      await mounter.unmount(rig.mountPoint);
    }
    return '';
  },

  'kill -9 of the storage daemon under fio': async () => {
    const rig = await newRig(128 * MiB);
    const { devicePath } = await rig.up();
    await mounted(rig, devicePath);
    const load = new FioLoad(rig.mountPoint, 4, 100);
    await sleep(3_000);
    const killedAt = performance.now();
    await rig.killDaemon();
    await stateBecomes(rig, 'reconnecting');
    await sleep(3_000);
    check('load under way', load.running, true);
    await rig.startDaemon();
    const awayMs = Math.round(performance.now() - killedAt);
    await stateBecomes(rig, 'attached');
    const backMs = Math.round(performance.now() - killedAt) - awayMs;
    const longestMs = await load.done();
    check('reconnects', (await rig.status())?.reconnects, 1);
    await mounter.unmount(rig.mountPoint);
    const checked = await sh('e2fsck', '-f', '-n', devicePath);
    // What was in flight is sent again when the driver looks, each second.
    if (longestMs > awayMs + 4_000)
      throw new Error(`a write took ${longestMs} ms, the daemon was away for ${awayMs} ms`);
    return `away ${awayMs} ms, connected ${backMs} ms later, longest write ${longestMs} ms; ${checked.split('\n').at(-1)}`;
  },

  'kill -9 of the holder loses no device': async () => {
    const rig = await newRig(128 * MiB);
    const first = await rig.up();
    await mounted(rig, first.devicePath);
    const orphaned = new FioLoad(rig.mountPoint, 1, 60);
    await sleep(1_500);
    process.kill(first.pid, 'SIGKILL');
    await stateBecomes(rig, 'orphaned');
    check('orphan', (await rig.status())?.devicePath, first.devicePath);
    await orphaned.done();
    const second = await rig.up();
    check('same device', [second.devicePath, second.kind], [first.devicePath, 'kernel-nbd']);
    if (second.pid === first.pid) throw new Error('no new holder');
    // The new one is the monitor.
    const load = new FioLoad(rig.mountPoint, 2, 100);
    await sleep(1_500);
    await rig.killDaemon();
    await stateBecomes(rig, 'reconnecting');
    check('load under way', load.running, true);
    await rig.startDaemon();
    await stateBecomes(rig, 'attached');
    const longestMs = await load.done();
    // Both at once: the volume waits until there is a holder with the key again.
    process.kill(second.pid, 'SIGKILL');
    await rig.killDaemon();
    const waiting = sh('dd', 'if=/dev/zero', `of=${rig.mountPoint}/late`, 'bs=4k', 'count=16', 'conv=fsync');
    await sleep(500);
    await rig.startDaemon();
    const third = await rig.up();
    check('same device again', third.devicePath, first.devicePath);
    await waiting;
    // In the other order: the holder has noticed and waits for the daemon when it is killed. It must not wait in the kernel,
    // where it could not be killed.
    await rig.killDaemon();
    await stateBecomes(rig, 'reconnecting');
    await sleep(500);
    process.kill(third.pid, 'SIGKILL');
    await stateBecomes(rig, 'orphaned');
    await rig.startDaemon();
    const fourth = await rig.up();
    check('same device for the third time', fourth.devicePath, first.devicePath);
    await sh('dd', 'if=/dev/zero', `of=${rig.mountPoint}/later`, 'bs=4k', 'count=16', 'conv=fsync');
    // A detach that finds no holder.
    await mounter.unmount(rig.mountPoint);
    await sh('e2fsck', '-f', '-n', first.devicePath);
    process.kill(fourth.pid, 'SIGKILL');
    await stateBecomes(rig, 'orphaned');
    await rig.attach.detach(rig.volumeId);
    check('traces', [await rig.traces(), devicesOf(rig)], [[], []]);
    return `longest write ${longestMs} ms`;
  },

  'grows under a mounted filesystem': async () => {
    const rig = await newRig(64 * MiB);
    const { devicePath } = await rig.up();
    await mounted(rig, devicePath);
    await refused('growth beyond the volume', rig.attach.grow(rig.volumeId, 128 * MiB), 'Generic');
    truncateSync(rig.file('disk'), 128 * MiB);
    check('grown', (await rig.attach.grow(rig.volumeId, 128 * MiB)).sizeBytes, 128 * MiB);
    check('size', await filesystems.deviceSize(devicePath), 128 * MiB);
    await filesystems.growMounted(devicePath, 'ext4', rig.mountPoint);
    const data = randomBytes(80 * MiB);
    writeFileSync(`${rig.mountPoint}/data`, data);
    await mounter.unmount(rig.mountPoint);
    await sh('e2fsck', '-f', '-n', devicePath);
    return '';
  },

  'a deposed volume fails at once and goes': async () => {
    const rig = await newRig(64 * MiB);
    const first = await rig.up();
    await mounted(rig, first.devicePath);
    writeFileSync(rig.file('deposed'), '');
    const before = performance.now();
    await rig.source.open(rig.volumeId, rig.key, false).catch(() => {});
    await stateBecomes(rig, 'failed');
    const failedMs = Math.round(performance.now() - before);
    const write = sh('dd', 'if=/dev/zero', `of=${first.devicePath}`, 'bs=4k', 'count=1', 'oflag=direct');
    const said = await write.then(() => 'written', String);
    if (!/Input\/output error/.test(said)) throw new Error(`a write to a deposed volume: ${said}`);
    await refused('attach while it is mounted', rig.up(), 'Busy');
    await mounter.unmount(rig.mountPoint);
    await refused('attach', rig.up(), 'StaleReign');
    check('devices', devicesOf(rig), []);
    rmSync(rig.file('deposed'));
    const second = await rig.up();
    if (second.pid === first.pid) throw new Error('the failed holder was not replaced');
    await checkUnmounted(second.devicePath, 'ext4');
    // The same with a holder that comes too late to see it.
    process.kill(second.pid, 'SIGKILL');
    await stateBecomes(rig, 'orphaned');
    writeFileSync(rig.file('deposed'), '');
    await refused('attach of a deposed orphan', rig.up(), 'StaleReign');
    check('devices of a deposed orphan', devicesOf(rig), []);
    rmSync(rig.file('deposed'));
    return `failed after ${failedMs} ms`;
  },

  'read-only, and detach by force': async () => {
    const rig = await newRig(16 * MiB);
    const { devicePath, readOnly } = await rig.up(true);
    check('read-only', [readOnly, await sh('blockdev', '--getro', devicePath)], [true, '1']);
    const write = sh('dd', 'if=/dev/zero', `of=${devicePath}`, 'bs=4k', 'count=1', 'oflag=direct');
    check(
      'write',
      await write.then(
        () => 'written',
        () => 'refused',
      ),
      'refused',
    );
    await refused('attach for writing', rig.up(), 'Conflict');
    await rig.killDaemon();
    const waiting = sh('dd', `if=${devicePath}`, 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct');
    const ended = waiting.then(
      () => 'read',
      () => 'failed',
    );
    await sleep(500);
    await rig.attach.detach(rig.volumeId, { force: true });
    check('what waited', await ended, 'failed');
    check('traces', [await rig.traces(), devicesOf(rig)], [[], []]);
    return '';
  },

  "two volumes never get each other's device": async () => {
    const [one, two] = await Promise.all([newRig(16 * MiB), newRig(32 * MiB)]);
    const first = await Promise.all([one.up(), two.up()]);
    for (const { pid } of first) process.kill(pid, 'SIGKILL');
    await stateBecomes(one, 'orphaned');
    await stateBecomes(two, 'orphaned');
    // In the other order.
    const again = [await two.up(), await one.up()].reverse();
    check(
      'devices',
      again.map(({ devicePath }) => devicePath),
      first.map(({ devicePath }) => devicePath),
    );
    check(
      'sizes',
      again.map(({ sizeBytes }) => sizeBytes),
      [16 * MiB, 32 * MiB],
    );
    return '';
  },

  'FLUSH and FUA reach the disks of all replicas, and a killed storage daemon is waited for': replicatedVolume,
};

const wanted = process.argv.slice(2);
mkdirSync('/out', { recursive: true });
let failed = false;
for (const name of kernelNbdScenarios) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const startedMs = performance.now();
  const result = await scenarios[name]().then(
    (detail): ScenarioResult => ({ name, ms: 0, detail, error: '' }),
    (error): ScenarioResult => ({
      name,
      ms: 0,
      detail: '',
      error: `${error instanceof Error ? error.stack : error}\n${rigLogs()}`,
    }),
  );
  const left = await cleanUpRigs().then(
    () => '',
    (error) => `\nclean-up: ${error}`,
  );
  const told = { ...result, error: result.error + left, ms: Math.round(performance.now() - startedMs) };
  failed ||= told.error !== '';
  appendFileSync(results, `${JSON.stringify(told)}\n`);
  process.stdout.write(`${told.error === '' ? 'ok' : 'FAILED'} ${told.ms} ms ${name}: ${told.detail}${told.error}\n`);
}
process.exitCode = failed ? 1 : 0;
