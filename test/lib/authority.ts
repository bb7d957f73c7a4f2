// A certificate authority for tests, and what is wrong in as many ways as peers are refused for.

import 'reflect-metadata';

import { createPrivateKey, generateKeyPairSync, webcrypto } from 'node:crypto';
import {
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { type Logger, realRandom } from '../../src/base/index.js';
import { type Credentials, type Identity, parsePart, ToldTrust, uriOf } from '../../src/trust/index.js';
import { type Issued, issue, makeAuthority, type Validity, validFor } from '../../src/trust/issuer.js';

export { ExtendedKeyUsage };

const dayMs = 24 * 3600 * 1000;

export class TestAuthority {
  readonly cluster: string;
  readonly #issued: Issued;

  private constructor(cluster: string, issued: Issued) {
    this.cluster = cluster;
    this.#issued = issued;
  }

  /** Valid until `days` from now. */
  static async make(cluster = 'demo', days = 30): Promise<TestAuthority> {
    const validity = { ...validFor(Date.now(), days), fromMs: Date.now() - 60 * dayMs };
    return new TestAuthority(cluster, await makeAuthority(cluster, validity, realRandom));
  }

  get ca(): string {
    return this.#issued.certificate;
  }

  /** Valid from `fromDays` to `days` from now. */
  async credentials(part: string, fromDays = -1, days = 7, cluster = this.cluster): Promise<Credentials> {
    const validity: Validity = { fromMs: Date.now() + fromDays * dayMs, toMs: Date.now() + days * dayMs };
    const identity: Identity = { cluster, ...parsePart(part) };
    const issued = await issue(this.#issued, identity, validity, realRandom);
    return { ca: this.ca, ...issued, identity, validFromMs: validity.fromMs, validToMs: validity.toMs };
  }

  /** One that `issue` would not make: with a key on another curve, or for some purposes only. */
  async odd(part: string, curve: string, usages: ExtendedKeyUsage[]): Promise<Credentials> {
    const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
    const signer = new X509Certificate(this.#issued.certificate);
    const der = createPrivateKey(this.#issued.key).export({ format: 'der', type: 'pkcs8' });
    const signingKey = await webcrypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign']);
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: curve });
    const spki = publicKey.export({ format: 'der', type: 'spki' });
    const named = { name: 'ECDSA', namedCurve: curve };
    const identity: Identity = { cluster: this.cluster, ...parsePart(part) };
    const [fromMs, toMs] = [Date.now() - dayMs, Date.now() + dayMs];
    const certificate = await X509CertificateGenerator.create({
      serialNumber: '4711',
      subject: 'CN=odd',
      issuer: signer.subject,
      publicKey: await webcrypto.subtle.importKey('spki', spki, named, true, ['verify']),
      signingKey,
      signingAlgorithm: algorithm,
      notBefore: new Date(fromMs),
      notAfter: new Date(toMs),
      extensions: [
        new ExtendedKeyUsageExtension(usages),
        new SubjectAlternativeNameExtension([{ type: 'url', value: uriOf(identity) }]),
      ],
    });
    const key = privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
    const dates = { validFromMs: fromMs, validToMs: toMs };
    return { ca: this.ca, certificate: certificate.toString('pem'), key, identity, ...dates };
  }

  async trust(part: string): Promise<ToldTrust> {
    return new ToldTrust(await this.credentials(part));
  }
}

/** What was logged, as text. */
export class LogLines implements Logger {
  readonly lines: string[] = [];
  debug(): void {}
  readonly #add = (fields: object, message: string) => {
    this.lines.push(`${message} ${JSON.stringify(fields)}`);
  };
  info = this.#add;
  warn = this.#add;
  error = this.#add;
  child(): Logger {
    return this;
  }
}
