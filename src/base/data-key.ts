// The data key of a lineage, and how a key from outside (Secret, file, KMS) wraps it: AES-256-GCM, random nonce, the lineage
// as associated data, so that a blob can't be moved to another volume. The blob names its wrapping key by a digest, which
// lets a wrong key be told from a damaged blob before any I/O.

import { createCipheriv, createDecipheriv, createHash } from 'node:crypto';
import { HoldfastError } from './errors.js';
import type { LineageId } from './ids.js';
import type { Random } from './world.js';

export const KEY_SIZE = 32;

/** The field of a CSI secret that holds the wrapping key. */
export const SECRET_FIELD = 'encryptionKey';

export interface WrappedDataKey {
  readonly cipher: string;
  readonly wrappedBy: string;
  /** base64 of nonce (12), sealed key (32), tag (16). */
  readonly blob: string;
}

/**
 * The wrapping key out of a CSI secret map: `encryptionKey`, 32 bytes as 64 hexadecimal digits or as base64.
 * Throws INVALID_ARGUMENT (MissingKey, WrongKey) with a sentence that never shows the key.
 */
export function wrappingKeyFromSecret(secrets: Readonly<Record<string, string>>): Buffer {
  const text = secrets[SECRET_FIELD]?.trim();
  if (text === undefined || text === '') {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the volume is encrypted, but the secret has no field "${SECRET_FIELD}": put a 32-byte key there, as 64 hexadecimal digits or base64`,
      { reason: 'MissingKey' },
    );
  }
  const key = /^[0-9a-fA-F]{64}$/.test(text) ? Buffer.from(text, 'hex') : Buffer.from(text, 'base64');
  if (key.length !== KEY_SIZE || (!/^[0-9a-fA-F]{64}$/.test(text) && !/^[A-Za-z0-9+/_-]+={0,2}$/.test(text))) {
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `the field "${SECRET_FIELD}" of the secret decodes to ${key.length} bytes: it must be exactly ${KEY_SIZE}, as 64 hexadecimal digits or base64`,
      { reason: 'WrongKey' },
    );
  }
  return key;
}

/** Names a wrapping key without revealing it: 16 hexadecimal digits. */
export function wrappingKeyName(wrappingKey: Buffer): string {
  return createHash('sha256').update('holdfast wrapping key\0').update(wrappingKey).digest('hex').slice(0, 16);
}

export function wrapDataKey(
  dataKey: Buffer,
  wrappingKey: Buffer,
  lineageId: LineageId,
  random: Random,
): WrappedDataKey {
  const nonce = random.bytes(12);
  const cipher = createCipheriv('aes-256-gcm', wrappingKey, nonce);
  cipher.setAAD(Buffer.from(lineageId, 'utf8'));
  const sealed = Buffer.concat([nonce, cipher.update(dataKey), cipher.final(), cipher.getAuthTag()]);
  return { cipher: 'aes-256-gcm', wrappedBy: wrappingKeyName(wrappingKey), blob: sealed.toString('base64') };
}

/** Throws FAILED_PRECONDITION/WrongKey for another key, DATA_LOSS for a damaged blob. */
export function unwrapDataKey(wrapped: WrappedDataKey, wrappingKey: Buffer, lineageId: LineageId): Buffer {
  const name = wrappingKeyName(wrappingKey);
  if (name !== wrapped.wrappedBy) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `wrong key: the volume's data key was wrapped by key ${wrapped.wrappedBy}, the secret holds key ${name}`,
      { reason: 'WrongKey' },
    );
  }
  const sealed = Buffer.from(wrapped.blob, 'base64');
  try {
    const decipher = createDecipheriv('aes-256-gcm', wrappingKey, sealed.subarray(0, 12), { authTagLength: 16 });
    decipher.setAAD(Buffer.from(lineageId, 'utf8'));
    decipher.setAuthTag(sealed.subarray(12 + KEY_SIZE));
    return Buffer.concat([decipher.update(sealed.subarray(12, 12 + KEY_SIZE)), decipher.final()]);
  } catch (cause) {
    throw new HoldfastError(
      'DATA_LOSS',
      `the wrapped data key of lineage ${lineageId} is damaged: it names the right wrapping key but does not open`,
      { reason: 'Corrupt', cause },
    );
  }
}
