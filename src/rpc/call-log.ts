// What a log may say about a call: the fields of the request that are named here, and nothing else. An allow-list, because
// a field nobody thought of must stay out; never secrets, parameters, contexts, keys or values.

import type { HoldfastError, Logger } from '../base/index.js';

export const loggedFields: readonly string[] = [
  'name',
  'volume_id',
  'source_volume_id',
  'source_volume_ids',
  'new_volume_id',
  'snapshot_id',
  'snapshot_ids',
  'base_snapshot_id',
  'target_snapshot_id',
  'group_snapshot_id',
  'group_id',
  'node_id',
  'pool_id',
  'replica_id',
  'incarnation_id',
  'operation_id',
  'epoch',
  'set_version',
  'size_bytes',
  'staging_target_path',
  'target_path',
  'volume_path',
  'volume_publish_path',
  'readonly',
  'starting_token',
  'starting_offset',
  'max_entries',
  'max_results',
];

const TEXT_MAX = 160;
const LIST_MAX = 8;

function loggable(value: unknown): string | number | boolean | undefined {
  if (typeof value === 'number' || typeof value === 'boolean') return value;
  if (typeof value !== 'string' || value === '') return undefined;
  return value.length > TEXT_MAX ? `${value.slice(0, TEXT_MAX)}...` : value;
}

/** The allowed fields of `request`, shortened; `more` adds names that are harmless in one service only. */
export function requestFields(request: object, more: readonly string[] = []): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  const message = request as Record<string, unknown>;
  for (const name of [...loggedFields, ...more]) {
    if (!Object.hasOwn(message, name)) continue;
    const value = message[name];
    const shown = Array.isArray(value) ? value.slice(0, LIST_MAX).map(loggable) : loggable(value);
    if (shown !== undefined && !(Array.isArray(shown) && shown.length === 0)) fields[name] = shown;
  }
  return fields;
}

/** Text without the secrets of the request it is about; short ones are left, they would blank out ordinary words. */
export function scrub(text: string, secrets: readonly string[]): string {
  let clean = text;
  for (const secret of secrets) if (secret.length >= 4) clean = clean.replaceAll(secret, '***');
  return clean;
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? error.message;
  return error.cause === undefined ? own : `${own}\ncaused by ${stackOf(error.cause)}`;
}

/** One line when a call has failed. Failures that are ours carry the stack; those of the caller do not. */
export function logFailure(logger: Logger, error: HoldfastError, durationMs: number, secrets: readonly string[]): void {
  const fields = { code: error.code, reason: error.reason, durationMs: Math.round(durationMs) };
  const message = scrub(error.message, secrets);
  switch (error.code) {
    case 'INTERNAL':
    case 'DATA_LOSS':
      logger.error({ ...fields, stack: scrub(stackOf(error), secrets) }, message);
      return;
    case 'UNAVAILABLE':
    case 'RESOURCE_EXHAUSTED':
    case 'DEADLINE_EXCEEDED':
    case 'PERMISSION_DENIED':
    case 'UNAUTHENTICATED':
      logger.warn(fields, message);
      return;
    default:
      logger.info(fields, message);
  }
}
