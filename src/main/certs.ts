// `holdfast certs`: makes certificates where there is no issuer: a CA once, then a folder for each part of the cluster. Running it
// again renews them; processes take the new ones by themselves.

import { X509Certificate } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Clock, invalid, precondition, printable, type Random, realClock, realRandom } from '../base/index.js';
import { makeDirectory } from '../platform/index.js';
import { fileNames, type Identity, parseCluster, parsePart, partOf } from '../trust/index.js';
import { type FlagSpec, Flags } from './flags.js';

export const certsUsage = `holdfast certs [flags] PART...: makes certificates for parts of a cluster

A PART is controller, storage/NODE, node/NODE or operator. Its certificate, its key and the CA's certificate come into a
folder of DIR (controller, storage-NODE, ...), to be copied to where that part runs, as its --tls-dir. The first run makes the
CA; its key (DIR/ca.key) makes certificates for anybody, so keep it where few can read it.

  --dir DIR        where they are made
  --cluster NAME   of the CA that the first run makes (holdfast)
  --days N         until they expire, 1 to 3650 (365)
`;

const flagSpec: FlagSpec = { dir: { type: 'string' }, cluster: { type: 'string' }, days: { type: 'string' } };
const AUTHORITY_DAYS = 3650;
const AUTHORITY_KEY = 'ca.key';
const CLUSTER_FILE = 'cluster';

export interface CertsOrder {
  readonly dir: string;
  /** Undefined: as the CA has it, or the default for a new one. */
  readonly cluster?: string;
  readonly days: number;
  readonly parts: readonly Pick<Identity, 'role' | 'node'>[];
}

export function parseCertsOrder(argv: readonly string[]): CertsOrder {
  const isPart = (word: string, i: number) => !word.startsWith('--') && !takesValue(argv[i - 1]);
  const parts = argv.filter(isPart);
  const flags = new Flags(
    argv.filter((word, i) => !isPart(word, i)),
    flagSpec,
    {},
  );
  if (parts.length === 0)
    throw invalid('name the parts that need certificates: controller, storage/NODE, node/NODE, operator');
  const cluster = flags.optional('cluster');
  return {
    dir: flags.text('dir'),
    cluster: cluster === undefined ? undefined : parseCluster(cluster),
    days: flags.integer('days', 365, 1, AUTHORITY_DAYS),
    parts: parts.map(parsePart),
  };
}

function takesValue(word: string | undefined): boolean {
  return word?.startsWith('--') === true && !word.includes('=') && Object.hasOwn(flagSpec, word.slice(2));
}

/** Whole or not at all, for a process may be reading it; and for good, when this returns. */
function put(path: string, text: string, mode: number): void {
  rmSync(`${path}.new`, { force: true });
  // Made with its mode: a key is never there for others to read.
  writeFileSync(`${path}.new`, text, { mode, flag: 'wx', flush: true });
  renameSync(`${path}.new`, path);
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

/** The folder of a part within `dir`. */
export function folderOf(dir: string, part: Pick<Identity, 'role' | 'node'>): string {
  return join(dir, partOf(part).replace('/', '-'));
}

/** Makes them; resolves with the folders. Throws FAILED_PRECONDITION when the CA there is of another cluster or not whole. */
export async function makeCertificates(order: CertsOrder, clock: Clock, random: Random): Promise<string[]> {
  // Loaded when it is asked for: no other command needs the library behind it.
  const { issue, makeAuthority, validFor } = await import('../trust/issuer.js');
  const { dir } = order;
  makeDirectory(dir);
  const [certificatePath, keyPath] = [join(dir, fileNames.ca), join(dir, AUTHORITY_KEY)];
  const clusterPath = join(dir, CLUSTER_FILE);
  if (existsSync(certificatePath) !== existsSync(keyPath)) {
    throw precondition(
      `${dir} holds one of ${fileNames.ca} and ${AUTHORITY_KEY}, but a CA needs both: choose another --dir, or bring the other`,
    );
  }
  if (!existsSync(certificatePath)) {
    const made = await makeAuthority(order.cluster ?? 'holdfast', validFor(clock.wallMs(), AUTHORITY_DAYS), random);
    put(keyPath, made.key, 0o600);
    put(clusterPath, `${order.cluster ?? 'holdfast'}\n`, 0o644);
    put(certificatePath, made.certificate, 0o644);
  }
  const cluster = parseCluster(readFileSync(clusterPath, 'utf8').trim());
  if (order.cluster !== undefined && order.cluster !== cluster)
    throw precondition(`the CA in ${dir} is of cluster ${printable(cluster)}, not ${printable(order.cluster)}`);
  const authority = { certificate: readFileSync(certificatePath, 'utf8'), key: readFileSync(keyPath, 'utf8') };
  const endMs = Date.parse(new X509Certificate(authority.certificate).validTo);
  if (clock.wallMs() > endMs)
    throw precondition(
      `the CA in ${dir} has expired, at ${new Date(endMs).toISOString()}: make another one in a new --dir, and let all parts believe both for a while`,
    );
  const folders: string[] = [];
  for (const part of order.parts) {
    const folder = folderOf(dir, part);
    makeDirectory(folder);
    const made = await issue(authority, { cluster, ...part }, validFor(clock.wallMs(), order.days), random);
    // A process that looks in between finds a key that does not fit, and looks again.
    put(join(folder, fileNames.ca), authority.certificate, 0o644);
    put(join(folder, fileNames.key), made.key, 0o600);
    put(join(folder, fileNames.certificate), made.certificate, 0o644);
    folders.push(folder);
  }
  return folders;
}

export async function runCerts(argv: readonly string[]): Promise<void> {
  const folders = await makeCertificates(parseCertsOrder(argv), realClock, realRandom);
  for (const folder of folders) process.stdout.write(`${folder}\n`);
}
