// The program csi-sanity: found, or built once from its Go module into the user's cache; run, and its report read.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

const VERSION = 'v5.6.0';
const MODULE = `github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@${VERSION}`;

/** Whether the binary was built from exactly the version whose specs are counted. */
function isVersion(path: string): boolean {
  const { status, stdout } = spawnSync('go', ['version', '-m', path], { encoding: 'utf8' });
  return status === 0 && stdout.includes(`github.com/kubernetes-csi/csi-test/v5\t${VERSION}`);
}

/** Its path, or the sentence why it can't be had here. */
export function findCsiSanity(): { path: string } | { missing: string } {
  const go = spawnSync('go', ['env', 'GOPATH'], { encoding: 'utf8' });
  if (go.status !== 0) return { missing: 'Go is not installed' };
  const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'holdfast', `csi-sanity-${VERSION}`);
  const inPath = spawnSync('which', ['csi-sanity'], { encoding: 'utf8' }).stdout.trim();
  const known = [inPath, join(go.stdout.trim(), 'bin', 'csi-sanity'), join(cache, 'csi-sanity')];
  const found = known.find((path) => path !== '' && existsSync(path) && isVersion(path));
  if (found !== undefined) return { path: found };
  mkdirSync(cache, { recursive: true });
  process.stderr.write(`building csi-sanity ${VERSION} into ${cache} (once) ...\n`);
  const built = spawnSync('go', ['install', MODULE], {
    encoding: 'utf8',
    env: { ...process.env, GOBIN: cache },
    timeout: 600_000,
  });
  if (built.status === 0) return { path: join(cache, 'csi-sanity') };
  return { missing: `go install ${MODULE} failed: ${(built.stderr ?? '').trim().slice(-600)}` };
}

export interface SanityOptions {
  readonly path: string;
  /** An empty directory of its own. */
  readonly workDir: string;
  /** Paths of unix sockets. */
  readonly controllerSocket: string;
  readonly nodeSocket: string;
  readonly accessType: 'mount' | 'block';
  readonly volumeBytes: number;
  readonly expandBytes: number;
  readonly parameters: Readonly<Record<string, string>>;
  readonly mutableParameters: Readonly<Record<string, string>>;
  /** Passed with every call that takes secrets. */
  readonly secret: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}

export interface SanityResult {
  readonly specs: number;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly pending: number;
  /** Name and reason of each spec that failed or was skipped. */
  readonly complaints: readonly string[];
}

const secretKinds = [
  'CreateVolumeSecret',
  'DeleteVolumeSecret',
  'ControllerPublishVolumeSecret',
  'ControllerUnpublishVolumeSecret',
  'ControllerValidateVolumeCapabilitiesSecret',
  'NodeStageVolumeSecret',
  'NodePublishVolumeSecret',
  'CreateSnapshotSecret',
  'DeleteSnapshotSecret',
  'ControllerExpandVolumeSecret',
  'ControllerModifyVolumeSecret',
  'ListSnapshotsSecret',
  'GetSnapshotSecret',
];

/** YAML reads JSON. */
function jsonFile(folder: string, name: string, value: object): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(value), { mode: 0o600 });
  return path;
}

interface Spec {
  readonly State: string;
  readonly LeafNodeType: string;
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeText: string;
  readonly Failure?: { readonly Message: string };
}

function complaint(spec: Spec): string {
  const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' / ');
  return `${spec.State}: ${name}: ${(spec.Failure?.Message ?? '').slice(0, 800)}`;
}

function readReport(path: string): SanityResult {
  const [report] = JSON.parse(readFileSync(path, 'utf8')) as [{ readonly SpecReports: readonly Spec[] }];
  const specs = report.SpecReports.filter((spec) => spec.LeafNodeType === 'It');
  const count = (state: string) => specs.filter((spec) => spec.State === state).length;
  const bad = specs.filter((spec) => spec.State !== 'passed' && spec.State !== 'pending');
  return {
    specs: specs.length,
    passed: count('passed'),
    skipped: count('skipped'),
    pending: count('pending'),
    failed: specs.length - count('passed') - count('skipped') - count('pending'),
    complaints: bad.map(complaint),
  };
}

/** Runs the whole suite. Rejects when it ends without a report or does not end in time. */
export async function runCsiSanity(options: SanityOptions): Promise<SanityResult> {
  const { workDir } = options;
  const report = join(workDir, 'report.json');
  const secrets = Object.fromEntries(secretKinds.map((kind) => [kind, options.secret]));
  const args = [
    `--csi.controllerendpoint=${options.controllerSocket}`,
    `--csi.endpoint=${options.nodeSocket}`,
    `--csi.mountdir=${join(workDir, 'mount')}`,
    `--csi.stagingdir=${join(workDir, 'staging')}`,
    `--csi.testvolumeaccesstype=${options.accessType}`,
    `--csi.testvolumesize=${options.volumeBytes}`,
    `--csi.testvolumeexpandsize=${options.expandBytes}`,
    `--csi.testvolumeparameters=${jsonFile(workDir, 'parameters', options.parameters)}`,
    `--csi.testvolumemutableparameters=${jsonFile(workDir, 'mutable', options.mutableParameters)}`,
    `--csi.secrets=${jsonFile(workDir, 'secrets', secrets)}`,
    '--csi.testnodevolumeattachlimit',
    '--ginkgo.no-color',
    `--ginkgo.json-report=${report}`,
  ];
  const child: ChildProcess = spawn(options.path, args, { cwd: workDir, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk) => {
      said = (said + chunk).slice(-16_384);
    });
  }
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs);
  try {
    await new Promise((resolve, reject) => child.once('error', reject).once('close', resolve));
  } finally {
    clearTimeout(timer);
  }
  if (!existsSync(report)) throw new Error(`csi-sanity ended without a report:\n${said.slice(-4_000)}`);
  return readReport(report);
}
