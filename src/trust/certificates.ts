// The certificate of this process and the CA that it believes, from three files as Kubernetes and cert-manager name them:
// ca.crt, tls.crt, tls.key.
//
// Owner: main/, one for a process. They are read again every few seconds; when they have changed and are sound, connections made from
// then on use the new ones, and those that stand go on. Invariants: what `current` gives has been checked as a whole (the key fits
// the certificate, the CA vouches for it, it is valid now, it names what this process is); a bad change is warned of once, and
// nothing else comes of it. May fail: only the first load throws.

import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, HoldfastError, type Logger, messageOf, precondition, type TimerHandle } from '../base/index.js';
import { checkCluster, checkPart } from './access.js';
import { type Identity, identityOf, partOf, uriOf } from './identity.js';

export const fileNames = { ca: 'ca.crt', certificate: 'tls.crt', key: 'tls.key' } as const;

/** PEM. */
export interface Credentials {
  readonly ca: string;
  /** With what leads from it to the CA, if anything does. */
  readonly certificate: string;
  readonly key: string;
  readonly identity: Identity;
}

/** Where a process, or a thread of it, has its certificates from. */
export interface Trust {
  readonly current: Credentials;
  /** Calls `changed` after each change of `current`; returns what ends that. */
  watch(changed: (credentials: Credentials) => void): () => void;
}

/** A change of mounted secrets takes a minute to arrive; this adds little to it. */
const LOOK_EVERY_MS = 5_000;
const WARN_EVERY_MS = 24 * 3600 * 1000;
/** Of its time: whoever renews has done so by then. */
const OLD_AFTER = 0.85;

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

const dayMs = 24 * 3600 * 1000;
const when = (text: string) => new Date(text).toISOString();

function checkDates(certificate: X509Certificate, path: string, nowMs: number): void {
  if (nowMs < Date.parse(certificate.validFrom))
    throw precondition(`${path} is not valid before ${when(certificate.validFrom)}`, 'BadCertificate');
  if (nowMs > Date.parse(certificate.validTo))
    throw precondition(`${path} has expired, at ${when(certificate.validTo)}`, 'BadCertificate');
}

/** Whether one of the CA's certificates vouches for the first of the chain, over those that follow it. */
function leadsTo(chain: readonly X509Certificate[], ca: readonly X509Certificate[]): boolean {
  let subject = chain[0]!;
  for (let i = 1; ; i++) {
    if (ca.some((one) => subject.checkIssued(one) && subject.verify(one.publicKey))) return true;
    const next = chain[i];
    if (next === undefined || !subject.checkIssued(next) || !subject.verify(next.publicKey)) return false;
    subject = next;
  }
}

interface Files {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

function readFiles(directory: string): Files {
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
function checked(files: Files, directory: string, own: Pick<Identity, 'role' | 'node'>, nowMs: number): Credentials {
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
  if (!leadsTo(chain, ca)) throw precondition(`${paths.ca} does not vouch for ${paths.certificate}`, 'BadCertificate');
  const identity = identityOf(leaf);
  checkPart(identity, own, paths.certificate);
  return { ...files, identity };
}

export interface CertificatesOptions {
  readonly directory: string;
  /** What this process is: its certificate must say the same. */
  readonly part: Pick<Identity, 'role' | 'node'>;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class Certificates implements Trust {
  readonly #options: CertificatesOptions;
  readonly #watchers = new Set<(credentials: Credentials) => void>();
  #current: Credentials;
  /** What was last looked at, good or bad. */
  #seen: string;
  #timer: TimerHandle | null = null;
  #warnedOfAgeMs = Number.NEGATIVE_INFINITY;

  /** Throws FAILED_PRECONDITION/BadCertificate, or PERMISSION_DENIED/WrongRole for the certificate of another part. */
  constructor(options: CertificatesOptions) {
    this.#options = options;
    const files = readFiles(options.directory);
    this.#current = checked(files, options.directory, options.part, options.clock.wallMs());
    this.#seen = digestOf(files);
    this.#warnOfAge();
  }

  get current(): Credentials {
    return this.#current;
  }

  watch(changed: (credentials: Credentials) => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  /** Looks for changes from now on. */
  start(): void {
    this.#timer ??= this.#options.clock.after(LOOK_EVERY_MS, () => {
      this.#timer = null;
      this.look();
      this.start();
    });
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  /** Reads the files; what is new and sound is used from now on. */
  look(): void {
    const { directory, part, clock } = this.#options;
    let seen: string | undefined;
    try {
      const files = readFiles(directory);
      seen = digestOf(files);
      if (seen === this.#seen) return this.#warnOfAge();
      const next = checked(files, directory, part, clock.wallMs());
      checkCluster(this.#current.identity, next.identity);
      this.#seen = seen;
      if (seen !== digestOf(this.#current)) this.#change(next);
    } catch (error) {
      const why = messageOf(error);
      // Of files that can't be read, why they can't is what was seen.
      if (this.#seen === (seen ?? why)) return;
      this.#seen = seen ?? why;
      this.#options.logger.warn({ directory, error: why }, 'the new certificates are not used, the old ones stay');
    }
  }

  #change(next: Credentials): void {
    const { directory, logger } = this.#options;
    this.#current = next;
    this.#warnedOfAgeMs = Number.NEGATIVE_INFINITY;
    logger.info({ directory, identity: uriOf(next.identity), validTo: validTo(next) }, 'certificates were read anew');
    for (const changed of this.#watchers) {
      try {
        changed(next);
      } catch (error) {
        // One that can't use them keeps the old ones; the others must not.
        logger.warn({ directory, error: messageOf(error) }, 'the new certificates are not used everywhere');
      }
    }
    this.#warnOfAge();
  }

  #warnOfAge(): void {
    const { clock, logger, directory } = this.#options;
    const { validFrom, validTo: end } = certificatesIn(this.#current.certificate, directory)[0]!;
    const [fromMs, toMs, nowMs] = [Date.parse(validFrom), Date.parse(end), clock.wallMs()];
    if (nowMs < fromMs + (toMs - fromMs) * OLD_AFTER || nowMs < this.#warnedOfAgeMs + WARN_EVERY_MS) return;
    this.#warnedOfAgeMs = nowMs;
    const fields = { directory, part: partOf(this.#current.identity), validTo: when(end) };
    const days = Math.floor((toMs - nowMs) / dayMs);
    if (days >= 0) logger.warn({ ...fields, days }, 'the certificate expires soon: renew it');
    else logger.error(fields, 'the certificate has expired: nobody takes new connections of this process');
  }
}

function validTo({ certificate }: Credentials): string {
  return when(certificatesIn(certificate, fileNames.certificate)[0]!.validTo);
}

function digestOf(files: Files): string {
  return `${files.ca}\0${files.certificate}\0${files.key}`;
}

/** What a worker thread has of its process's certificates: told of changes, checks nothing. */
export class ToldTrust implements Trust {
  readonly #watchers = new Set<(credentials: Credentials) => void>();
  #current: Credentials;

  constructor(first: Credentials) {
    this.#current = first;
  }

  get current(): Credentials {
    return this.#current;
  }

  watch(changed: (credentials: Credentials) => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  tell(credentials: Credentials): void {
    this.#current = credentials;
    for (const changed of this.#watchers) changed(credentials);
  }
}
