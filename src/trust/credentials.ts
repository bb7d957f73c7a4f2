// The three files of a process's certificates, as Kubernetes and cert-manager name them, and whether they are of use: everything that
// would make a peer refuse them, or be refused, is to be known before they are used.

import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { HoldfastError, messageOf, precondition } from '../base/index.js';
import { checkPart } from './access.js';
import { type Identity, identityOf } from './identity.js';

export const fileNames = { ca: 'ca.crt', certificate: 'tls.crt', key: 'tls.key' } as const;

/** PEM. */
export interface Credentials {
  /** Those of the CA's certificates that had not expired when they were read. */
  readonly ca: string;
  /** With what leads from it to the CA, if anything does. */
  readonly certificate: string;
  readonly key: string;
  readonly identity: Identity;
  /** When the certificate, or the CA's behind it, runs out, and the time of the certificate so far; milliseconds since 1970. */
  readonly validFromMs: number;
  readonly validToMs: number;
}

const pemBlock = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

function certificatesIn(pem: string, path: string): X509Certificate[] {
  const blocks = pem.match(pemBlock) ?? [];
  if (blocks.length === 0) throw precondition(`${path} holds no certificate in PEM`, 'BadCertificate');
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (error) {
    throw precondition(`${path} holds what is no certificate: ${messageOf(error)}`, 'BadCertificate');
  }
}

const when = (text: string) => new Date(text).toISOString();

function checkDates(certificate: X509Certificate, path: string, nowMs: number): void {
  if (nowMs < Date.parse(certificate.validFrom))
    throw precondition(`${path} is not valid before ${when(certificate.validFrom)}`, 'BadCertificate');
  if (nowMs > Date.parse(certificate.validTo))
    throw precondition(`${path} has expired, at ${when(certificate.validTo)}: renew it`, 'BadCertificate');
}

function isValid(certificate: X509Certificate, nowMs: number): boolean {
  return nowMs >= Date.parse(certificate.validFrom) && nowMs <= Date.parse(certificate.validTo);
}

/** The one of the CA's certificates that vouches for the first of the chain, over those that follow it. */
function issuerOf(chain: readonly X509Certificate[], ca: readonly X509Certificate[]): X509Certificate | undefined {
  let subject = chain[0]!;
  for (let i = 1; ; i++) {
    const found = ca.find((one) => subject.checkIssued(one) && subject.verify(one.publicKey));
    if (found !== undefined) return found;
    const next = chain[i];
    if (next === undefined || !subject.checkIssued(next) || !subject.verify(next.publicKey)) return undefined;
    subject = next;
  }
}

const purposes = { '1.3.6.1.5.5.7.3.1': 'server', '1.3.6.1.5.5.7.3.2': 'client' };

/** Every part connects and is connected to. */
function checkPurposes({ keyUsage }: X509Certificate, path: string): void {
  // What Node calls key usage is the extended one; without it a certificate is good for everything.
  for (const [purpose, end] of Object.entries(purposes))
    if (keyUsage !== undefined && !keyUsage.includes(purpose))
      throw precondition(
        `${path} is not for TLS ${end}s, and every part is both: issue it with the usages server auth and client auth`,
        'BadCertificate',
      );
}

/** Of the kinds that rustls and OpenSSL both use. */
function checkKey(
  { publicKey: { asymmetricKeyType: type, asymmetricKeyDetails: details } }: X509Certificate,
  path: string,
) {
  const curve = details?.namedCurve ?? '';
  const bits = details?.modulusLength ?? 0;
  if (type === 'ed25519' || (type === 'ec' && ['prime256v1', 'secp384r1'].includes(curve))) return;
  if (type === 'rsa' && bits >= 2048) return;
  throw precondition(
    `${path} has a key of type ${type} ${curve || bits || ''}: use ECDSA with P-256 or P-384, Ed25519, or RSA of 2048 bits or more`,
    'BadCertificate',
  );
}

export interface Files {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

export function readFiles(directory: string): Files {
  const read = (name: string): string => {
    const path = join(directory, name);
    try {
      return readFileSync(path, 'utf8');
    } catch (cause) {
      throw new HoldfastError('FAILED_PRECONDITION', `${path} can't be read: ${messageOf(cause)}`, {
        reason: 'BadCertificate',
        cause,
      });
    }
  };
  return { ca: read(fileNames.ca), certificate: read(fileNames.certificate), key: read(fileNames.key) };
}

/** Throws FAILED_PRECONDITION/BadCertificate naming the file and what is wrong with it. */
export function checked(
  files: Files,
  directory: string,
  own: Pick<Identity, 'role' | 'node'>,
  nowMs: number,
): Credentials {
  const paths = { ca: join(directory, fileNames.ca), certificate: join(directory, fileNames.certificate) };
  const ca = certificatesIn(files.ca, paths.ca);
  const chain = certificatesIn(files.certificate, paths.certificate);
  const leaf = chain[0]!;
  let fits: boolean;
  try {
    fits = leaf.checkPrivateKey(createPrivateKey(files.key));
  } catch {
    // Nothing of what the file holds may get into an error.
    throw precondition(`${join(directory, fileNames.key)} holds no private key in PEM`, 'BadCertificate');
  }
  if (!fits)
    throw precondition(`${join(directory, fileNames.key)} is not the key of ${paths.certificate}`, 'BadCertificate');
  checkDates(leaf, paths.certificate, nowMs);
  checkKey(leaf, paths.certificate);
  checkPurposes(leaf, paths.certificate);
  const issuer = issuerOf(
    chain,
    ca.filter((one) => isValid(one, nowMs)),
  );
  if (issuer === undefined) {
    const expired = issuerOf(chain, ca);
    if (expired !== undefined) checkDates(expired, `the CA of ${paths.certificate} in ${paths.ca}`, nowMs);
    const remedy = 'put the certificate of the CA that issued it there';
    throw precondition(`${paths.ca} does not vouch for ${paths.certificate}: ${remedy}`, 'BadCertificate');
  }
  const identity = identityOf(leaf);
  checkPart(identity, own, paths.certificate);
  // rustls asks no date of what it is told to believe.
  const believed = ca.filter((one) => nowMs <= Date.parse(one.validTo));
  return {
    ...files,
    ca: believed.map(String).join(''),
    identity,
    validFromMs: Date.parse(leaf.validFrom),
    validToMs: Math.min(Date.parse(leaf.validTo), Date.parse(issuer.validTo)),
  };
}

export function digestOf(files: Files): string {
  return `${files.ca}\0${files.certificate}\0${files.key}`;
}
