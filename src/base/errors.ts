// One error class for every expected failure. The code says what kind of failure it is (the closed list below, spelled
// like gRPC's status names because that is the edge most of them leave by); the reason narrows it for programs; the
// message names the thing and says what to do. Each edge (gRPC status, NBD errno, exit code) maps it in one table.

export const errorCodes = [
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'CANCELLED',
  'DATA_LOSS',
] as const;

export type ErrorCode = (typeof errorCodes)[number];

/** CamelCase, stable, matched by programs. */
export const errorReasons = [
  'Generic',
  'BadField',
  'UnknownParameter',
  'WrongKey',
  'MissingKey',
  'NoSpace',
  'StaleReign',
  'Conflict',
  'Corrupt',
  'DiskFailed',
  'PoolMissing',
  'PoolNotWritable',
  'PoolForeign',
  'PoolInUse',
  'AddressInUse',
  'ReplicaLost',
  'NotInSync',
  'TooFewReplicas',
  'Busy',
  'Deadline',
  'ToolMissing',
  'Closed',
  'Unreachable',
  'Protocol',
  'StoreWentBack',
  'BadCertificate',
  'WrongRole',
  'UnknownVersion',
] as const;

export type ErrorReason = (typeof errorReasons)[number];

export class HoldfastError extends Error {
  override readonly name = 'HoldfastError';
  readonly code: ErrorCode;
  readonly reason: ErrorReason;

  constructor(code: ErrorCode, message: string, options: { reason?: ErrorReason; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.reason = options.reason ?? 'Generic';
  }
}

export const invalid = (message: string, reason: ErrorReason = 'BadField') =>
  new HoldfastError('INVALID_ARGUMENT', message, { reason });
export const notFound = (message: string) => new HoldfastError('NOT_FOUND', message);
export const unavailable = (message: string, cause?: unknown) => new HoldfastError('UNAVAILABLE', message, { cause });
export const precondition = (message: string, reason: ErrorReason = 'Generic') =>
  new HoldfastError('FAILED_PRECONDITION', message, { reason });
export const corrupt = (message: string, cause?: unknown) =>
  new HoldfastError('DATA_LOSS', message, { reason: 'Corrupt', cause });

/** The message of anything thrown, without its stack. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The system error code (ENOENT, EADDRINUSE, ...) of anything thrown, or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string' && /^E[A-Z0-9]+$/.test(error.code)) {
    return error.code;
  }
  return undefined;
}

/** Any thrown value as a HoldfastError; unknown ones become INTERNAL with the cause kept. */
export function asHoldfastError(error: unknown): HoldfastError {
  if (error instanceof HoldfastError) return error;
  return new HoldfastError('INTERNAL', messageOf(error), { cause: error });
}
