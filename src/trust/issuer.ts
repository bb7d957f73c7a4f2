// A small certificate authority for `holdfast dev`, tests, and installations that have no issuer of their own. Loaded only by
// `holdfast certs` and `dev`. What it makes follows X509-SVID: a leaf has one URI, is no CA, and may sign.

// The library wants this to be loaded before it.
import 'reflect-metadata';
import { createPrivateKey, webcrypto } from 'node:crypto';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import type { Random } from '../base/index.js';
import { type Identity, partOf, uriOf } from './identity.js';

type WebCryptoKeyPair = Parameters<typeof X509CertificateGenerator.createSelfSigned>[0]['keys'];

/** Known to every TLS library, small, quick to sign and to verify. */
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
/** Clocks of nodes differ. */
const BACKDATE_MS = 5 * 60 * 1000;

/** PEM. */
export interface Issued {
  readonly certificate: string;
  readonly key: string;
}

export interface Validity {
  readonly fromMs: number;
  readonly toMs: number;
}

export function validFor(nowMs: number, days: number): Validity {
  return { fromMs: nowMs - BACKDATE_MS, toMs: nowMs + days * 24 * 3600 * 1000 };
}

async function newKeys(): Promise<WebCryptoKeyPair> {
  return (await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as WebCryptoKeyPair;
}

async function pemOf(keys: WebCryptoKeyPair): Promise<string> {
  const der = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
  return createPrivateKey({ key: Buffer.from(der), format: 'der', type: 'pkcs8' })
    .export({ format: 'pem', type: 'pkcs8' })
    .toString();
}

/** Positive, and never the same twice. */
function serialNumber(random: Random): string {
  const bytes = random.bytes(16);
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString('hex');
}

const dates = ({ fromMs, toMs }: Validity) => ({ notBefore: new Date(fromMs), notAfter: new Date(toMs) });

export async function makeAuthority(cluster: string, validity: Validity, random: Random): Promise<Issued> {
  const keys = await newKeys();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(random),
    name: `CN=Holdfast CA of ${cluster}`,
    keys,
    signingAlgorithm: algorithm,
    ...dates(validity),
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: `${certificate.toString('pem')}\n`, key: await pemOf(keys) };
}

/** A certificate of `authority` for a part of the cluster, with a key of its own; it does not outlive the authority. */
export async function issue(
  authority: Issued,
  identity: Identity,
  validity: Validity,
  random: Random,
): Promise<Issued> {
  const signer = new X509Certificate(authority.certificate);
  const endMs = Math.min(validity.toMs, signer.notAfter.getTime());
  const der = createPrivateKey(authority.key).export({ format: 'der', type: 'pkcs8' });
  const signingKey = await webcrypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign']);
  const keys = await newKeys();
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialNumber(random),
    // A common name has room for 64 characters; the name that counts is the URI.
    subject: `CN=holdfast ${partOf(identity)}`.slice(0, 60),
    issuer: signer.subject,
    publicKey: keys.publicKey,
    signingKey: signingKey as WebCryptoKeyPair['privateKey'],
    signingAlgorithm: algorithm,
    ...dates({ ...validity, toMs: endMs }),
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      // Every part both calls and is called.
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      await AuthorityKeyIdentifierExtension.create(signer.publicKey),
      new SubjectAlternativeNameExtension([{ type: 'url', value: uriOf(identity) }]),
    ],
  });
  return { certificate: `${certificate.toString('pem')}\n`, key: await pemOf(keys) };
}
