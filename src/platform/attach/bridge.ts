// The bridge: FUSE requests in, NBD requests out. Purpose: a process of its own, so that what parses and copies can crash
// without the device going away. Owner: a holder, whose child it is, and which gives it everything: the FUSE descriptor
// as number 3, and the address of the export over the IPC channel. Invariants: it keeps no state that its successor would
// need; it fails a request only with what the server answered or, once the holder said so, with EIO; while there is no
// connection requests wait. It ends when the holder or the mount is gone, always by SIGKILL: its threads sit in read(2)
// on the FUSE descriptor, and an ordinary exit would wait for them.
//
// Known limit of this kind of device: under extreme memory pressure the kernel may want to write to the volume in order to
// give this process the memory with which to write to the volume. A Node process can't ask for exemption (prctl
// PR_SET_IO_FLUSHER); buffers are reused so that a warm bridge needs little. With kernel nbd there is no bridge, and so one process
// less that has it.

import { read, writevSync } from 'node:fs';
import type { Clock, Logger } from '../../base/index.js';
import type { FromBridge, ToBridge } from './bridge-messages.js';
import { type FuseChannel, FuseSession } from './fuse-session.js';
import { type BlockTransport, createNbdTransport } from './nbd-transport.js';

/** The process around a bridge. */
export interface BridgeProcess {
  readonly clock: Clock;
  readonly logger: Logger;
  send(message: FromBridge, sent: () => void): void;
  onMessage(listener: (message: ToBridge) => void): void;
  /** The holder is gone. */
  onDisconnect(listener: () => void): void;
  /** Ends this process at once. */
  end(): void;
}

type Start = ToBridge & { readonly type: 'start' };

/** The descriptor that the holder passes. */
const fuseFd = 3;

export function runBridge(owner: BridgeProcess): void {
  let running: { session: FuseSession; transport: BlockTransport } | undefined;
  owner.onDisconnect(() => owner.end());
  owner.onMessage((message) => {
    switch (message.type) {
      case 'start':
        running ??= start(message, owner);
        return;
      case 'endpoint':
        return running?.transport.setSocketPath(message.endpoint.socketPath);
      case 'size':
        return running?.session.setSize(message.sizeBytes);
      case 'fail':
        running?.session.fail();
        return running?.transport.fail();
      case 'report': {
        const counters = running ? { ...running.session.counters, inFlight: running.session.inFlight } : {};
        return owner.send({ type: 'report', counters }, () => {});
      }
    }
  });
}

function start(message: Start, owner: BridgeProcess): { session: FuseSession; transport: BlockTransport } {
  const transport = createNbdTransport({
    endpoint: message.endpoint,
    clientId: message.clientId,
    clock: owner.clock,
    logger: owner.logger,
    onConnection: (connected, text) => owner.send({ type: 'connection', connected, message: text }, () => {}),
  });
  const session = new FuseSession({
    channel: fuseChannel(fuseFd),
    submit: transport.submit,
    sizeBytes: message.sizeBytes,
    readOnly: message.readOnly,
    takeOver: message.takeOver,
    negotiated: (canResend) => owner.send({ type: 'negotiated', canResend }, () => {}),
    ended: (error) => owner.send({ type: 'ended', message: error?.message ?? null }, () => owner.end()),
  });
  if (message.failing) {
    session.fail();
    transport.fail();
  }
  session.start();
  return { session, transport };
}

function fuseChannel(fd: number): FuseChannel {
  return {
    read: (into, done) => read(fd, into, 0, into.length, null, done),
    write: (parts) => {
      // The kernel takes a reply whole or not at all.
      writevSync(fd, parts);
    },
  };
}
