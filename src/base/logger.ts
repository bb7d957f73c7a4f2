// Structured logging through pino, one JSON object a line on standard error. Secrets never get here: callers log ids and
// numbers, and rpc/ logs requests through an allow-list of fields.

import { pino } from 'pino';

export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(fields: Record<string, unknown>): Logger;
}

/** `level` is one of debug, info, warn, error, silent. */
export function createLogger(process: string, level: string): Logger {
  return pino(
    { level, base: { process }, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
}

const nothing = () => {};
export const silentLogger: Logger = {
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  child: () => silentLogger,
};
