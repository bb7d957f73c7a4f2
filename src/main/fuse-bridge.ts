// The process entry of a bridge. Started by a holder with the FUSE descriptor as number 3 and an IPC channel; of no use
// by hand.

import { createLogger, realClock } from '../base/index.js';
import { runBridge } from '../platform/attach/index.js';

if (!process.send) {
  process.stderr.write('fuse-bridge is started by "holdfast attach" only\n');
  process.exitCode = 2;
} else {
  // Signals to the group are the holder's business; it ends the bridge.
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(name, () => {});
  runBridge({
    clock: realClock,
    logger: createLogger('fuse-bridge', 'warn'),
    send: (message, sent) => {
      process.send?.(message, undefined, undefined, sent);
    },
    onMessage: (listener) => {
      process.on('message', (message) => listener(message as never));
    },
    onDisconnect: (listener) => {
      process.on('disconnect', listener);
    },
    end: () => process.kill(process.pid, 'SIGKILL'),
  });
}
