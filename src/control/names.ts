// CSI names: free text chosen by the caller. They never touch a path or a key; the store is addressed by their digest.

import { createHash } from 'node:crypto';
import { invalid, printable } from '../base/index.js';
import { NAME_BYTES_MAX } from './limits.js';

// Banned by the CSI specification; tab, line feed and carriage return are allowed there.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const banned = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/;

/** Checks a CSI name and returns it. Throws INVALID_ARGUMENT naming `what` ("volume name"). */
export function checkName(name: string, what: string): string {
  if (name === '') throw invalid(`the ${what} is missing`);
  const bytes = Buffer.byteLength(name);
  if (bytes > NAME_BYTES_MAX) {
    throw invalid(`the ${what} is ${bytes} bytes long, at most ${NAME_BYTES_MAX} are allowed: ${printable(name)}`);
  }
  if (banned.test(name)) throw invalid(`the ${what} holds a control character: ${printable(name)}`);
  if (name.split(/[/\\]/).includes('..')) {
    throw invalid(`the ${what} climbs directories ("..") like a path, choose a plain one: ${printable(name)}`);
  }
  return name;
}

/** First 32 hex digits of SHA-256: the key of a name. */
export function nameHash(name: string): string {
  return createHash('sha256').update(name, 'utf8').digest('hex').slice(0, 32);
}
