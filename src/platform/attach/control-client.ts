// The other end of a holder's socket: one connection, one request, one answer.

import { createConnection } from 'node:net';
import { errnoOf, HoldfastError, unavailable } from '../../base/index.js';
import { type ControlRequest, encodeRequest, LineReader, parseReply } from './control-protocol.js';

type WithoutId<T> = T extends { readonly id: number } ? Omit<T, 'id'> : never;
export type ControlCall = WithoutId<ControlRequest>;

/** Thrown when nobody listens, or went away before it answered (it was killed, or has just ended). */
export class NoHolderError extends Error {
  override readonly name = 'NoHolderError';
}

/**
 * Asks the holder at `socketPath`. Errors: NoHolderError when there is none, DEADLINE_EXCEEDED after `timeoutMs` (the holder goes on; a repeat joins it), else what it answered.
 */
export function askHolder(socketPath: string, call: ControlCall, timeoutMs: number): Promise<object> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(socketPath);
    const reader = new LineReader();
    const finish = (act: () => void) => {
      clearTimeout(timer);
      socket.removeAllListeners();
      socket.on('error', () => {});
      socket.destroy();
      act();
    };
    const timer = setTimeout(() => {
      const text = `the holder at ${socketPath} did not answer "${call.op}" within ${timeoutMs} ms`;
      finish(() => reject(new HoldfastError('DEADLINE_EXCEEDED', text, { reason: 'Deadline' })));
    }, timeoutMs);
    const gone = () => finish(() => reject(new NoHolderError(`the holder at ${socketPath} went away`)));
    socket.on('connect', () => {
      const line = encodeRequest({ ...call, id: 1 });
      socket.write(line, () => line.fill(0));
    });
    socket.on('error', (error) => {
      const code = errnoOf(error) ?? '';
      if (['ECONNRESET', 'EPIPE'].includes(code)) return gone();
      const none = ['ENOENT', 'ECONNREFUSED'].includes(code);
      finish(() => reject(none ? new NoHolderError(`no holder at ${socketPath}`) : unavailable(error.message, error)));
    });
    socket.on('close', () => gone());
    socket.on('data', (chunk) => {
      try {
        reader.push(chunk, (line) => {
          const reply = parseReply(line);
          if (reply.ok) return finish(() => resolve(reply.result));
          const { code, reason, message } = reply.error;
          finish(() => reject(new HoldfastError(code, message, { reason })));
        });
      } catch (error) {
        finish(() => reject(error));
      }
    });
  });
}
