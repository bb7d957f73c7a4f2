// `holdfast certs` and the flags by which processes find what it makes.

import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { realClock, realRandom, silentLogger } from '../../../src/base/index.js';
import { makeCertificates, parseCertsOrder } from '../../../src/main/certs.js';
import { parseControllerConfig } from '../../../src/main/controller.js';
import { parseNodeConfig } from '../../../src/main/node.js';
import { openCertificates } from '../../../src/main/security.js';
import { parseStorageConfig } from '../../../src/main/storage-config.js';
import { parsePart, uriOf } from '../../../src/trust/index.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-certs-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const make = (...words: string[]) => makeCertificates(parseCertsOrder(['--dir', dir, ...words]), realClock, realRandom);
const ports = { clock: realClock, logger: silentLogger };

it('makes a CA once and a folder for each part, fit for that part alone', async () => {
  const folders = await make('--cluster', 'prod', 'controller', 'storage/n1', '--days', '3', 'node/n1', 'operator');
  expect(folders).toEqual(['controller', 'storage-n1', 'node-n1', 'operator'].map((name) => join(dir, name)));
  const ca = readFileSync(join(dir, 'ca.crt'), 'utf8');
  for (const folder of folders) {
    expect(readFileSync(join(folder, 'ca.crt'), 'utf8')).toBe(ca);
    expect(statSync(join(folder, 'tls.key')).mode & 0o777).toBe(0o600);
  }
  expect(statSync(join(dir, 'ca.key')).mode & 0o777).toBe(0o600);
  const opened = openCertificates(join(dir, 'storage-n1'), parsePart('storage/n1'), ports)!;
  opened.stop();
  expect(uriOf(opened.current.identity)).toBe('spiffe://prod/holdfast/storage/n1');
  expect(() => openCertificates(join(dir, 'storage-n1'), parsePart('storage/n2'), ports)).toThrow(
    /and not storage\/n2/,
  );
  expect(() => openCertificates(join(dir, 'none'), parsePart('controller'), ports)).toThrow(/holdfast certs/);

  const before = readFileSync(join(dir, 'controller', 'tls.crt'), 'utf8');
  await make('controller');
  expect(readFileSync(join(dir, 'ca.crt'), 'utf8')).toBe(ca);
  expect(readFileSync(join(dir, 'controller', 'tls.crt'), 'utf8')).not.toBe(before);
  openCertificates(join(dir, 'controller'), parsePart('controller'), ports)!.stop();
});

it('makes none of another cluster, and none without the key of the CA', async () => {
  await make('controller');
  await expect(make('--cluster', 'other', 'controller')).rejects.toThrow(/is of cluster "holdfast"/);
  rmSync(join(dir, 'ca.key'));
  await expect(make('controller')).rejects.toThrow(/needs both/);
});

it('makes none that outlives the CA, and none with a CA that has expired', async () => {
  await make('controller');
  const later = (years: number) => ({ ...realClock, wallMs: () => Date.now() + years * 365.25 * 24 * 3600 * 1000 });
  const order = parseCertsOrder(['--dir', dir, '--days', '3650', 'controller']);
  await makeCertificates(order, later(9), realRandom);
  const endOf = (path: string) => new X509Certificate(readFileSync(join(dir, path))).validTo;
  expect(endOf('controller/tls.crt')).toBe(endOf('ca.crt'));
  await expect(makeCertificates(order, later(11), realRandom)).rejects.toThrow(/has expired, at .*another one/);
});

it('says what is wrong with its order', () => {
  for (const [words, why] of [
    [['--dir', 'x'], /name the parts/],
    [['controller'], /--dir is missing/],
    [['--dir', 'x', 'admin'], /none of controller/],
    [['--dir', 'x', 'storage/'], /DNS|none of/],
    [['--dir', 'x', '--days', '0', 'controller'], /--days/],
    [['--dir=x', '--cluster=A', 'controller'], /a cluster's name/],
    [['--dir', 'x', '--what', 'controller'], /--what/],
  ] as const)
    expect(() => parseCertsOrder(words), words.join(' ')).toThrow(why);
  expect(parseCertsOrder(['--dir', 'x', '--cluster', 'controller', 'controller'])).toMatchObject({
    cluster: 'controller',
    parts: [parsePart('controller')],
  });
  expect(parseCertsOrder(['--dir=x', 'node/a', '--days', '7', 'controller'])).toMatchObject({
    dir: 'x',
    days: 7,
    parts: [parsePart('node/a'), parsePart('controller')],
  });
});

it('is wanted by every process unless it is told otherwise', () => {
  const args = ['--csi-address', 'unix:///x', '--database', 'd', '--control-address'];
  const tls = (more: string[], environment = {}, address = '127.0.0.1:1') =>
    parseControllerConfig([...args, address, ...more], environment).tls;
  expect(tls([])).toBe('/etc/holdfast/tls');
  expect(tls(['--tls-dir', '/a'])).toBe('/a');
  expect(tls([], { HOLDFAST_TLS_DIR: '/b' })).toBe('/b');
  expect(tls(['--insecure'])).toBeNull();
  // A stray variable opens nothing.
  expect(tls([], { HOLDFAST_INSECURE: '1', HOLDFAST_insecure: '1' })).toBe('/etc/holdfast/tls');
  expect(() => tls(['--insecure', '--tls-dir', '/a'])).toThrow(/choose one/);
  // CSI has no TLS, and keys come in by it.
  const open = ['--csi-address', '0.0.0.0:1', ...args.slice(2), '127.0.0.1:1'];
  expect(() => parseControllerConfig(open, {})).toThrow(/plain text from anybody: give unix/);
  // Plain text stays within the machine: where others reach it, and where it goes.
  expect(() => parseControllerConfig([...open, '--insecure'], {})).toThrow(/plain text from anybody: give unix/);
  expect(() => tls(['--insecure'], {}, '0.0.0.0:1')).toThrow(/--control-address 0\.0\.0\.0:1 can be reached/);
  expect(tls(['--insecure'], {}, '[::1]:1')).toBeNull();
  const plain = ['--node-id', 'n', '--csi-address', '/a', '--insecure'];
  expect(() => parseNodeConfig([...plain, '--controller', '127.evil.example:1'], {})).toThrow(/--controller 127\.evil/);
  expect(parseNodeConfig([...plain, '--controller', '127.0.0.1:1'], {}).tls).toBeNull();
  const storage = ['--node-id', 'n', '--controller', '127.0.0.1:1', '--pool', '/p', '--insecure'];
  expect(() => parseStorageConfig([...storage, '--listen', '10.0.0.1:0'], {})).toThrow(/--listen 10\.0\.0\.1:0 can be/);
  expect(parseStorageConfig(storage, {}).tls).toBeNull();
  const node = ['--node-id', 'n', '--controller', 'a:1', '--csi-address', '127.0.0.1:1'];
  expect(() => parseNodeConfig(node, {})).toThrow(/plain text from anybody: give unix/);
  writeFileSync(join(dir, 'ca.crt'), '');
  expect(() => openCertificates(dir, parsePart('controller'), ports)).toThrow(/tls\.crt can't be read/);
});
