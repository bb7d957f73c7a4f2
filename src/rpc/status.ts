// The one table between HoldfastErrors and gRPC statuses. Code and message travel as gRPC has them; the reason travels in
// trailing metadata, so that a client of ours throws the very error the handler threw. Callers without that metadata (CSI
// sidecars) lose nothing they know of.

import { Metadata, status } from '@grpc/grpc-js';
import { type ErrorCode, type ErrorReason, errorCodes, errorReasons, HoldfastError } from '../base/index.js';

export const REASON_KEY = 'holdfast-reason';
/** Longest message sent, in characters: trailers share one 16 KiB header block, each character may take nine bytes there. */
const MESSAGE_MAX = 1500;

const codes: Record<ErrorCode, status> = {
  INVALID_ARGUMENT: status.INVALID_ARGUMENT,
  NOT_FOUND: status.NOT_FOUND,
  ALREADY_EXISTS: status.ALREADY_EXISTS,
  PERMISSION_DENIED: status.PERMISSION_DENIED,
  UNAUTHENTICATED: status.UNAUTHENTICATED,
  RESOURCE_EXHAUSTED: status.RESOURCE_EXHAUSTED,
  FAILED_PRECONDITION: status.FAILED_PRECONDITION,
  ABORTED: status.ABORTED,
  OUT_OF_RANGE: status.OUT_OF_RANGE,
  UNIMPLEMENTED: status.UNIMPLEMENTED,
  INTERNAL: status.INTERNAL,
  UNAVAILABLE: status.UNAVAILABLE,
  DEADLINE_EXCEEDED: status.DEADLINE_EXCEEDED,
  CANCELLED: status.CANCELLED,
  DATA_LOSS: status.DATA_LOSS,
};

export interface GrpcFailure {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;
}

export function toStatus(error: HoldfastError): GrpcFailure {
  const metadata = new Metadata();
  metadata.set(REASON_KEY, error.reason);
  const details = error.message.length > MESSAGE_MAX ? `${error.message.slice(0, MESSAGE_MAX - 3)}...` : error.message;
  return { code: codes[error.code], details, metadata };
}

function codeOf(code: status): ErrorCode {
  return errorCodes.find((name) => codes[name] === code) ?? 'INTERNAL';
}

/**
 * The error a failed call stands for. One made by a handler comes back as it was; one made on the way (no connection, no
 * answer in time) says which call to whom.
 */
export function fromStatus(
  failure: { code: status; details: string; metadata?: Metadata },
  method: string,
  address: string,
  cause?: unknown,
): HoldfastError {
  const sent = failure.metadata?.get(REASON_KEY)[0];
  const reason = errorReasons.find((known) => known === sent);
  const code = codeOf(failure.code);
  if (sent !== undefined) return new HoldfastError(code, failure.details, { reason: reason ?? 'Generic', cause });
  const transportReasons: Partial<Record<ErrorCode, ErrorReason>> = {
    DEADLINE_EXCEEDED: 'Deadline',
    UNAVAILABLE: 'Unreachable',
  };
  const transportReason = transportReasons[code] ?? 'Generic';
  return new HoldfastError(code, `${method} at ${address}: ${failure.details}`, { reason: transportReason, cause });
}
