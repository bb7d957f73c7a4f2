// A certificate authority for tests, and what is wrong in as many ways as peers are refused for.

import { type Logger, realRandom } from '../../src/base/index.js';
import { type Credentials, type Identity, parsePart, ToldTrust } from '../../src/trust/index.js';
import { type Issued, issue, makeAuthority, type Validity, validFor } from '../../src/trust/issuer.js';

const dayMs = 24 * 3600 * 1000;

export class TestAuthority {
  readonly cluster: string;
  readonly #issued: Issued;

  private constructor(cluster: string, issued: Issued) {
    this.cluster = cluster;
    this.#issued = issued;
  }

  static async make(cluster = 'demo'): Promise<TestAuthority> {
    return new TestAuthority(cluster, await makeAuthority(cluster, validFor(Date.now(), 30), realRandom));
  }

  get ca(): string {
    return this.#issued.certificate;
  }

  /** Valid from `fromDays` to `days` from now. */
  async credentials(part: string, fromDays = -1, days = 7, cluster = this.cluster): Promise<Credentials> {
    const validity: Validity = { fromMs: Date.now() + fromDays * dayMs, toMs: Date.now() + days * dayMs };
    const identity: Identity = { cluster, ...parsePart(part) };
    return { ca: this.ca, ...(await issue(this.#issued, identity, validity, realRandom)), identity };
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
