// BlockError <-> the error numbers of the NBD protocol: the one table of both directions.

import type { ErrorCode, ErrorReason } from '../base/index.js';
import { HoldfastError } from '../base/index.js';
import type { BlockError } from '../engine/index.js';

const numbers: Readonly<Record<BlockError, number>> = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
};

const byNumber: ReadonlyMap<number, BlockError> = new Map(
  Object.entries(numbers).map(([error, number]) => [number, error as BlockError]),
);

/** The number that stands for `error` on the wire. */
export function wireErrno(error: BlockError): number {
  return numbers[error];
}

/** What a non-zero number on the wire means. Numbers the protocol does not list count as EINVAL, as proto.md asks. */
export function blockErrorOf(wire: number): BlockError {
  return byNumber.get(wire) ?? 'EINVAL';
}

const kinds: Readonly<Record<BlockError, readonly [ErrorCode, ErrorReason, string]>> = {
  EPERM: ['PERMISSION_DENIED', 'Generic', 'the export is read-only'],
  EIO: ['INTERNAL', 'DiskFailed', 'the server reports an input/output error; its log has the cause'],
  ENOMEM: ['RESOURCE_EXHAUSTED', 'Generic', 'the server is out of memory'],
  EINVAL: ['INVALID_ARGUMENT', 'BadField', 'the server refuses the request as invalid (range, length or flags)'],
  ENOSPC: ['RESOURCE_EXHAUSTED', 'NoSpace', 'no space left in the volume or its pools'],
  EOVERFLOW: ['OUT_OF_RANGE', 'Generic', 'the request is too large for the server'],
  ENOTSUP: ['UNIMPLEMENTED', 'Generic', 'the server does not support the request'],
  ESHUTDOWN: ['UNAVAILABLE', 'Closed', 'the export is shut down'],
};

/** A block request that was answered with an error. `blockError` says which. */
export class BlockRequestError extends HoldfastError {
  readonly blockError: BlockError;

  constructor(blockError: BlockError, what: string) {
    const [code, reason, text] = kinds[blockError];
    super(code, `${what}: ${text} (${blockError})`, { reason });
    this.blockError = blockError;
  }
}
