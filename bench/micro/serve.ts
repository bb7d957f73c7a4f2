// A process of its own that serves one NBD export from memory, so that its CPU time is that of the NBD server (and the
// engine) alone. Ends when its standard input does.
//
//   serve.js SOCKET SIZE_BYTES memory             NBD server over a buffer
//   serve.js SOCKET SIZE_BYTES engine REPLICAS    NBD server over an engine with replicas in this process's memory

import { realClock, silentLogger } from '../../src/base/index.js';
import type { BlockDevice } from '../../src/engine/index.js';
import { ExportTable, NbdServer } from '../../src/nbd/index.js';
import { EngineRig } from '../../test/lib/engine-rig.js';
import { MemoryDevice } from '../../test/lib/memory-device.js';

/** MemoryDevice notes each request in a list, which would grow for as long as the run lasts. */
class UnloggedDevice extends MemoryDevice {
  override submit(requests: Parameters<BlockDevice['submit']>[0]): void {
    for (const request of requests) {
      this.apply(request);
      request.complete(null);
    }
  }
}

async function open(kind: string, sizeBytes: number, replicas: number): Promise<BlockDevice> {
  if (kind === 'memory') return new UnloggedDevice(sizeBytes);
  const rig = new EngineRig(replicas, { sizeBytes, encrypted: true });
  return rig.open({ clock: realClock });
}

const [socket, size, kind, replicas] = process.argv.slice(2);
if (socket === undefined || size === undefined || kind === undefined) {
  process.stderr.write('usage: serve.js SOCKET SIZE_BYTES memory | engine REPLICAS\n');
  process.exit(2);
}
const exports = new ExportTable();
const device = await open(kind, Number(size), Number(replicas ?? 1));
exports.add({ name: 'volume', device });
const server = new NbdServer({ exports, logger: silentLogger });
await server.listen(socket);
process.stdout.write('ready\n');
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
// A profile is written at a regular exit only.
process.on('SIGTERM', () => process.exit(0));
