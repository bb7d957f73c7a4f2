// The end of a `holdfast dev` cluster: what is still attached is unmounted and detached, so that no holder, mount or loop
// device outlives it.

import { createExportSource, mountsOfDevice } from '../agent/index.js';
import { type Logger, messageOf, realClock } from '../base/index.js';
import { createExec, createMounter, HolderAttach } from '../platform/index.js';
import { holderCommand } from './node.js';
import { openRunDirectory } from './run-directory.js';

/** A daemon that works flushes well within this; one that does not gets no second chance. */
const politeMs = 20_000;

/** Errors are logged, and the next thing is tried: this is the last chance to clean up. */
export async function detachEverything(runDir: string, logger: Logger): Promise<void> {
  const run = openRunDirectory(runDir);
  const exec = createExec();
  const mounter = createMounter(exec, realClock);
  const source = createExportSource(run.storageSocket, realClock);
  const holder = holderCommand(run.storageSocket, 'info');
  const attach = new HolderAttach({ exec, clock: realClock, logger, runDir: run.path, holder, source });
  const attempt = async (what: string, act: () => Promise<unknown>): Promise<boolean> => {
    try {
      await act();
      return true;
    } catch (error) {
      logger.warn({ reason: messageOf(error) }, `${what} failed`);
      return false;
    }
  };
  try {
    for (const { volumeId, devicePath } of await attach.list()) {
      const mounts = devicePath === '' ? [] : await mountsOfDevice(mounter, devicePath);
      for (const { target } of mounts.reverse()) {
        const gone = await attempt(`unmounting ${target}`, () => mounter.unmount(target));
        if (!gone) await attempt(`unmounting ${target} lazily`, () => mounter.unmount(target, { lazy: true }));
      }
      const polite = attempt(`detaching ${volumeId}`, () => attach.detach(volumeId));
      const done = await Promise.race([polite, realClock.sleep(politeMs).then(() => false)]);
      if (!done) {
        // Calls for one volume queue up in one HolderAttach: the polite one may still be waiting.
        const second = new HolderAttach({ exec, clock: realClock, logger, runDir: run.path, holder, source });
        await attempt(`detaching ${volumeId} by force`, () => second.detach(volumeId, { force: true }));
      }
    }
  } finally {
    source.disconnect();
  }
}
