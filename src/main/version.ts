// The product's version, from its own package.json, beside src/ as well as beside dist/.

import { readFileSync } from 'node:fs';
import { errnoOf, HoldfastError } from '../base/index.js';

export function productVersion(): string {
  for (const up of ['../../package.json', '../../../package.json']) {
    try {
      const found: unknown = JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8'));
      if (typeof found === 'object' && found !== null && 'version' in found) return String(found.version);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
  throw new HoldfastError('INTERNAL', 'package.json of this installation is missing; install Holdfast again');
}
