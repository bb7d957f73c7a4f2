// Names in certificates, and the files of a process: what is taken, what is refused and why, and what happens when they change.

import { X509Certificate } from 'node:crypto';
import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NodeId } from '../../../src/base/index.js';
import { Certificates, type Credentials, identityOf, parsePart, Refusals, uriOf } from '../../../src/trust/index.js';
import { ExtendedKeyUsage, LogLines, TestAuthority } from '../../lib/authority.js';
import { ManualClock } from '../nbd/manual-clock.js';

const authority = await TestAuthority.make();
const stranger = await TestAuthority.make();
const old = await TestAuthority.make('demo', -1);
const both = [ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth];
const dayMs = 24 * 3600 * 1000;
const good = await authority.credentials('storage/node-1');

describe('names', () => {
  it('are read as they are written', () => {
    for (const part of ['controller', 'operator', 'storage/node-1', 'node/a.b-c']) {
      const identity = { cluster: 'demo', ...parsePart(part) };
      expect(uriOf(identity)).toBe(`spiffe://demo/holdfast/${part}`);
    }
    for (const bad of [
      '',
      'controller/x',
      'storage',
      'storage/',
      'storage/a/b',
      'admin',
      'storage/A',
      'node/..',
      'Storage/x',
    ])
      expect(() => parsePart(bad), bad).toThrow(/none of|DNS/);
  });

  it('are taken from exactly one URI of a certificate', () => {
    expect(identityOf(new X509Certificate(good.certificate))).toEqual({
      cluster: 'demo',
      role: 'storage',
      node: 'node-1',
    });
    const of = (subjectAltName: string | undefined) =>
      identityOf({ subjectAltName, subject: 'CN=x' } as X509Certificate);
    expect(of('DNS:a, URI:spiffe://c/holdfast/node/n, DNS:b').role).toBe('node');
    for (const bad of [
      undefined,
      'DNS:storage',
      'URI:spiffe://c/holdfast/node/n, URI:spiffe://c/holdfast/node/n',
      'URI:https://c/holdfast/controller',
      'URI:spiffe://c/holdfast/controller/',
      'URI:spiffe://c/other/controller',
      'URI:spiffe://c/holdfast/controller?x',
      'URI:spiffe://C/holdfast/controller',
      'URI:spiffe:///holdfast/controller',
      // As Node writes one name that tries to be two.
      'DNS:"a, URI:spiffe://c/holdfast/controller"',
      'URI:"spiffe://c/holdfast/controller, DNS:b"',
    ])
      expect(() => of(bad), bad).toThrow(/names nobody/);
  });
});

/** Time as it is, until told otherwise. */
class WallClock extends ManualClock {
  offsetMs = Date.now();
  override wallMs(): number {
    return this.offsetMs + super.wallMs();
  }
}

describe('the files of a process', () => {
  let directory: string;
  let log: LogLines;
  let clock: WallClock;
  const part = { role: 'storage', node: 'node-1' as NodeId } as const;
  const open = () => new Certificates({ directory, part, clock, logger: log });
  const put = ({ ca, certificate, key }: Partial<Credentials>) => {
    for (const [name, text] of Object.entries({ 'ca.crt': ca, 'tls.crt': certificate, 'tls.key': key }))
      if (text !== undefined) writeFileSync(join(directory, name), text);
  };
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'holdfast-trust-'));
    log = new LogLines();
    clock = new WallClock();
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('are refused at the start, each with its reason and none with its contents', async () => {
    const cases: [Partial<Credentials>, RegExp][] = [
      [{}, /ca\.crt can't be read/],
      [{ ...good, ca: 'text' }, /ca\.crt holds no certificate/],
      [{ ...good, certificate: good.key }, /tls\.crt holds no certificate/],
      [{ ...good, key: 'secret text' }, /tls\.key holds no private key/],
      [{ ...good, key: (await authority.credentials('storage/node-1')).key }, /tls\.key is not the key of/],
      [{ ...good, ca: stranger.ca }, /ca\.crt does not vouch for .*: put the certificate of the CA/],
      // Good by itself, and refused by every peer later.
      [await old.odd('storage/node-1', 'P-256', both), /the CA of .*tls\.crt in .*ca\.crt has expired/],
      [await authority.odd('storage/node-1', 'P-521', both), /a key of type ec secp521r1: use ECDSA with P-256/],
      [await authority.odd('storage/node-1', 'P-256', [ExtendedKeyUsage.clientAuth]), /is not for TLS servers/],
      [await authority.odd('storage/node-1', 'P-256', [ExtendedKeyUsage.serverAuth]), /is not for TLS clients/],
      [await authority.credentials('storage/node-1', -3, -1), /tls\.crt has expired/],
      [await authority.credentials('storage/node-1', 1, 3), /tls\.crt is not valid before/],
      [
        await authority.credentials('storage/node-2'),
        /is spiffe:\/\/demo\/holdfast\/storage\/node-2, and not storage\/node-1/,
      ],
      [await authority.credentials('node/node-1'), /and not storage\/node-1/],
    ];
    for (const [files, why] of cases) {
      put(files);
      expect(open).toThrow(why);
      expect(open).not.toThrow(/secret text|PRIVATE/);
    }
    put(good);
    expect(open().current.certificate).toBe(good.certificate);
    put(await authority.odd('storage/node-1', 'P-384', both));
    expect(open().current.identity.role).toBe('storage');
  });

  it('are used once they are valid, if they were there before, and without what has expired of the CA', async () => {
    put(good);
    const certificates = open();
    const early = await authority.credentials('storage/node-1', 1, 3);
    put({ ...early, ca: `${old.ca}\n${early.ca}` });
    for (let i = 0; i < 5; i++) certificates.look();
    expect(log.lines).toEqual([expect.stringMatching(/is not valid before/)]);
    expect(certificates.current.certificate).toBe(good.certificate);
    clock.offsetMs += 1.5 * dayMs;
    certificates.look();
    expect(certificates.current.certificate).toBe(early.certificate);
    expect(certificates.current.ca).toBe(authority.ca);
  });

  it('are not doubted while they are being exchanged', async () => {
    put(good);
    const certificates = open();
    const second = await authority.credentials('storage/node-1');
    put({ key: second.key });
    certificates.look();
    put({ certificate: second.certificate });
    certificates.look();
    expect(certificates.current.certificate).toBe(second.certificate);
    expect(log.lines.join()).not.toMatch(/old ones stay/);
  });

  it('are warned of when the CA runs out before them', async () => {
    put(await (await TestAuthority.make('demo', 0.05)).odd('storage/node-1', 'P-256', both));
    open();
    expect(log.lines).toEqual([expect.stringMatching(/or its CA, expires soon.*"days":0/)]);
  });

  it('are read again when they change, at once for everybody; a bad change is warned of once', async () => {
    put(good);
    const certificates = open();
    certificates.start();
    const told: string[] = [];
    const end = certificates.watch(({ certificate }) => told.push(certificate));
    clock.pass(20_000);
    expect([told, log.lines]).toEqual([[], []]);

    const second = await authority.credentials('storage/node-1');
    // The key first: for a moment it fits nothing.
    put({ key: second.key });
    clock.pass(5_000);
    clock.pass(20_000);
    expect(log.lines).toEqual([expect.stringMatching(/old ones stay.*is not the key of/)]);
    put({ certificate: second.certificate });
    clock.pass(5_000);
    expect([told, certificates.current.certificate]).toEqual([[second.certificate], second.certificate]);

    log.lines.length = 0;
    for (const bad of [
      await stranger.credentials('storage/node-1', -1, 7),
      await authority.credentials('storage/node-2'),
      await authority.credentials('storage/node-1', -3, -1),
      await authority.credentials('storage/node-1', -1, 7, 'elsewhere'),
    ]) {
      put({ ...bad, ca: authority.ca });
      clock.pass(10_000);
    }
    rmSync(join(directory, 'tls.crt'));
    clock.pass(10_000);
    expect(log.lines.map((line) => /vouch|and not|expired|another cluster|can't be read/.exec(line)?.[0])).toEqual([
      'vouch',
      'and not',
      'expired',
      'another cluster',
      "can't be read",
    ]);
    expect([told.length, certificates.current.certificate]).toEqual([1, second.certificate]);
    // What is good again is no change.
    put(second);
    clock.pass(5_000);
    expect(told.length).toBe(1);

    end();
    put(good);
    clock.pass(5_000);
    expect([told.length, certificates.current.certificate]).toEqual([1, good.certificate]);
    certificates.stop();
    expect(clock.waiting).toBe(0);
  });

  it('may be exchanged as Kubernetes does, by one link for all', async () => {
    const second = await authority.credentials('storage/node-1');
    const base = directory;
    for (const [name, files] of [
      ['one', good],
      ['two', second],
    ] as const) {
      directory = join(base, name);
      const { mkdirSync } = await import('node:fs');
      mkdirSync(directory);
      put(files);
    }
    symlinkSync('one', join(base, 'data'));
    directory = join(base, 'data');
    const certificates = open();
    certificates.start();
    symlinkSync('two', join(base, 'new'));
    renameSync(join(base, 'new'), join(base, 'data'));
    clock.pass(5_000);
    expect(certificates.current.certificate).toBe(second.certificate);
    certificates.stop();
    directory = base;
  });

  it('are warned of once a day when they become old, and when they have expired', async () => {
    put(await authority.credentials('storage/node-1', -10, 10));
    const certificates = open();
    expect(log.lines).toEqual([]);
    clock.offsetMs += 7.5 * 24 * 3600 * 1000;
    certificates.look();
    certificates.look();
    expect(log.lines).toEqual([expect.stringMatching(/expires soon.*"days":2/)]);
    clock.offsetMs += 3 * 24 * 3600 * 1000;
    certificates.look();
    expect(log.lines[1]).toMatch(/has expired/);
  });
});

it('few lines are written about many refused peers', () => {
  const log = new LogLines();
  const clock = new ManualClock();
  const refusals = new Refusals(clock, log);
  for (let i = 0; i < 1000; i++) refusals.note('peer', 'bad');
  expect(log.lines.length).toBe(20);
  clock.pass(60_000);
  refusals.note('peer', 'bad');
  expect(log.lines[20]).toContain('"unsaid":980');
});
