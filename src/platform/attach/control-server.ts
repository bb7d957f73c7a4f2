// The holder's unix socket. It knows lines and connections; what a request does is the handler's.

import { chmod, unlink } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { asHoldfastError, errnoOf, HoldfastError } from '../../base/index.js';
import { type ControlReply, type ControlRequest, encodeReply, LineReader, parseRequest } from './control-protocol.js';

export type ControlHandler = (request: ControlRequest) => Promise<object>;

const connectionsMax = 32;
/** Requests of one connection that are worked on at a time. */
const pendingMax = 16;

export interface ControlServer {
  /** Waits until the answers that are ready have left, then closes everything and removes the socket's file. */
  close(): Promise<void>;
}

/** Listens on `path` (0600; a file of a dead predecessor is replaced: the caller owns the name). */
export async function listenControl(path: string, handler: ControlHandler): Promise<ControlServer> {
  await unlink(path).catch((error) => {
    if (errnoOf(error) !== 'ENOENT') throw error;
  });
  const sockets = new Set<Socket>();
  const working = new Set<Promise<void>>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    serve(socket, handler, working);
  });
  server.maxConnections = connectionsMax;
  const oldMask = process.umask(0o177);
  try {
    await listen(server, path);
  } finally {
    process.umask(oldMask);
  }
  await chmod(path, 0o600);
  return { close: () => close(server, sockets, working) };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function serve(socket: Socket, handler: ControlHandler, working: Set<Promise<void>>): void {
  const reader = new LineReader();
  let pending = 0;
  const answer = (reply: ControlReply) => {
    if (socket.writable) socket.write(encodeReply(reply));
  };
  const refuse = (error: unknown) => {
    const { code, reason, message } = asHoldfastError(error);
    socket.end(encodeReply({ id: 0, ok: false, error: { code, reason, message } }));
  };
  const work = async (request: ControlRequest) => {
    try {
      answer({ id: request.id, ok: true, result: await handler(request) });
    } catch (error) {
      const { code, reason, message } = asHoldfastError(error);
      answer({ id: request.id, ok: false, error: { code, reason, message } });
    }
  };
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk) => {
    if (!socket.writable) return;
    try {
      reader.push(chunk, (line) => {
        const request = parseRequest(line);
        if (pending >= pendingMax) {
          throw new HoldfastError('RESOURCE_EXHAUSTED', `more than ${pendingMax} requests at once on one connection`);
        }
        pending++;
        const done = work(request).finally(() => {
          pending--;
          working.delete(done);
        });
        working.add(done);
      });
    } catch (error) {
      refuse(error);
    }
  });
}

/** Time for requests to be answered and for peers to read their last answer. */
const lingerMs = 1_000;

function close(server: Server, sockets: Set<Socket>, working: Set<Promise<void>>): Promise<void> {
  return new Promise((resolve) => {
    const linger = setTimeout(() => {
      for (const socket of sockets) socket.destroy();
    }, lingerMs);
    server.close(() => {
      clearTimeout(linger);
      resolve();
    });
    void Promise.all(working).then(() => {
      for (const socket of sockets) socket.end();
    });
  });
}
