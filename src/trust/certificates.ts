// The certificate of this process and the CA that it believes, from three files as Kubernetes and cert-manager name them:
// ca.crt, tls.crt, tls.key.
//
// Owner: main/, one for a process. They are read again every few seconds; when they have changed and are sound, connections made from
// then on use the new ones, and those that stand go on. Invariants: what `current` gives has been checked as a whole (the key fits
// the certificate, the CA vouches for it, it is valid now, it names what this process is); a bad change is warned of once, nothing
// else comes of it, and it is looked at again for as long as it is there. May fail: only the first load throws.

import { type Clock, type Logger, messageOf, type TimerHandle } from '../base/index.js';
import { checkCluster } from './access.js';
import { type Credentials, checked, digestOf, readFiles } from './credentials.js';
import { type Identity, partOf, uriOf } from './identity.js';

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

const dayMs = 24 * 3600 * 1000;
const when = (ms: number) => new Date(ms).toISOString();

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
  /** The files that `current` is made of. */
  #used: string;
  /** Why those that lie there are not used, if they aren't, and whether that was said. */
  #doubt = '';
  #warned = false;
  #timer: TimerHandle | null = null;
  #warnedOfAgeMs = Number.NEGATIVE_INFINITY;

  /** Throws FAILED_PRECONDITION/BadCertificate, or PERMISSION_DENIED/WrongRole for the certificate of another part. */
  constructor(options: CertificatesOptions) {
    this.#options = options;
    const files = readFiles(options.directory);
    this.#current = checked(files, options.directory, options.part, options.clock.wallMs());
    this.#used = digestOf(files);
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
    try {
      const files = readFiles(directory);
      const seen = digestOf(files);
      if (seen !== this.#used) {
        const next = checked(files, directory, part, clock.wallMs());
        checkCluster(this.#current.identity, next.identity);
        this.#used = seen;
        this.#change(next);
      }
      this.#doubt = '';
    } catch (error) {
      this.#doubtOf(messageOf(error));
    }
    this.#warnOfAge();
  }

  /** They may be valid later, or in the middle of being exchanged: only what is found twice is said, and once. */
  #doubtOf(why: string): void {
    const { directory, logger } = this.#options;
    if (why !== this.#doubt) {
      this.#doubt = why;
      this.#warned = false;
    } else if (!this.#warned) {
      this.#warned = true;
      logger.warn({ directory, error: why }, 'the new certificates are not used, the old ones stay');
    }
  }

  #change(next: Credentials): void {
    const { directory, logger } = this.#options;
    this.#current = next;
    this.#warnedOfAgeMs = Number.NEGATIVE_INFINITY;
    logger.info(
      { directory, identity: uriOf(next.identity), validTo: when(next.validToMs) },
      'certificates were read anew',
    );
    for (const changed of this.#watchers) {
      try {
        changed(next);
      } catch (error) {
        // One that can't use them keeps the old ones; the others must not.
        logger.warn({ directory, error: messageOf(error) }, 'the new certificates are not used everywhere');
      }
    }
  }

  #warnOfAge(): void {
    const { clock, logger, directory } = this.#options;
    const { validFromMs: fromMs, validToMs: toMs } = this.#current;
    const nowMs = clock.wallMs();
    if (nowMs < fromMs + (toMs - fromMs) * OLD_AFTER || nowMs < this.#warnedOfAgeMs + WARN_EVERY_MS) return;
    this.#warnedOfAgeMs = nowMs;
    const fields = { directory, part: partOf(this.#current.identity), validTo: when(toMs) };
    const days = Math.floor((toMs - nowMs) / dayMs);
    if (days >= 0) logger.warn({ ...fields, days }, 'the certificate, or its CA, expires soon: renew it');
    else
      logger.error(
        fields,
        'the certificate, or its CA, has expired: nobody takes new connections of this process; renew it',
      );
  }
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
