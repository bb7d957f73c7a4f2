// A process that looks like a storage daemon to a holder: holdfast.v1.Volume over gRPC and one NBD export over a file. It
// opens nothing by itself: like the real one, after a restart it has to be given the volume and its key again.
//
//   storage-daemon.js DIR    expects DIR/disk (the volume's bytes) and DIR/key (hex, or empty); serves DIR/grpc and
//                            DIR/nbd; appends each flush, trim, zero and FUA write to DIR/ops; refuses while DIR/deposed exists

import { spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, fdatasync, fstatSync, openSync, read, readFileSync, write } from 'node:fs';
import { join } from 'node:path';
import { HoldfastError, realClock, silentLogger } from '../../src/base/index.js';
import type { BlockDevice, BlockRequest } from '../../src/engine/index.js';
import { ExportTable, NbdServer } from '../../src/nbd/index.js';
import { createServer, holdfastServices, implement } from '../../src/rpc/index.js';
import { openNet } from '../../src/transport/index.js';

class FileDevice implements BlockDevice {
  readonly readOnly = false;
  closed = false;
  sizeBytes: number;
  readonly #fd: number;
  readonly #path: string;
  readonly #ops: string;
  readonly #closedListeners: (() => void)[] = [];
  readonly #resizedListeners: (() => void)[] = [];

  constructor(path: string, ops: string) {
    this.#path = path;
    this.#ops = ops;
    this.#fd = openSync(path, 'r+');
    this.sizeBytes = fstatSync(this.#fd).size;
  }

  submit(requests: readonly BlockRequest[]): void {
    for (const request of requests) this.#one(request);
  }

  #one(request: BlockRequest): void {
    const { op, offset, length, data, dataAt } = request;
    const done = (error: Error | null) => request.complete(error ? 'EIO' : null);
    if (op === 'read') return read(this.#fd, data!, dataAt, length, offset, done);
    if (op === 'write') {
      // Written behind this turn's back, while the payload's memory is received into again.
      const payload = Buffer.from(data!.subarray(dataAt, dataAt + length));
      request.data = null;
      if (!request.fua) return write(this.#fd, payload, 0, length, offset, done);
      appendFileSync(this.#ops, `fua ${offset} ${length}\n`);
      return write(this.#fd, payload, 0, length, offset, (error) => (error ? done(error) : fdatasync(this.#fd, done)));
    }
    appendFileSync(this.#ops, `${op} ${offset} ${length}\n`);
    if (op === 'flush') return fdatasync(this.#fd, done);
    const range = ['-o', String(offset), '-l', String(length)];
    const { status } = spawnSync('fallocate', ['-p', ...range, this.#path]);
    request.complete(status === 0 ? null : 'EIO');
  }

  refresh(): void {
    this.sizeBytes = fstatSync(this.#fd).size;
    for (const listener of this.#resizedListeners) listener();
  }

  close(): void {
    this.closed = true;
    for (const listener of this.#closedListeners) listener();
  }

  onClosed(listener: () => void): void {
    this.#closedListeners.push(listener);
  }

  onResized(listener: () => void): void {
    this.#resizedListeners.push(listener);
  }
}

const directory = process.argv[2]!;
const file = (name: string) => join(directory, name);
const exports = new ExportTable();
const nbd = new NbdServer({ exports, logger: silentLogger });
let device: FileDevice | undefined;

function refuseDeposed(): void {
  if (!existsSync(file('deposed'))) return;
  if (device) {
    exports.remove('volume');
    device.close();
    device = undefined;
  }
  throw new HoldfastError('FAILED_PRECONDITION', 'another node has the volume', { reason: 'StaleReign' });
}

const unused = () => Promise.reject(new HoldfastError('UNIMPLEMENTED', 'not part of this test'));

const volume = implement(holdfastServices.volume(), {
  Open: async (request) => {
    appendFileSync(file('ops'), 'open\n');
    refuseDeposed();
    if (request.wrapping_key.toString('hex') !== readFileSync(file('key'), 'utf8')) {
      throw new HoldfastError('FAILED_PRECONDITION', "the key is not this volume's", { reason: 'WrongKey' });
    }
    if (device) device.refresh();
    else {
      device = new FileDevice(file('disk'), file('ops'));
      exports.add({ name: 'volume', device });
    }
    return { socket_path: file('nbd'), export_name: 'volume', size_bytes: device.sizeBytes, epoch: 1 };
  },
  Close: async () => {
    appendFileSync(file('ops'), 'close\n');
    if (device) {
      exports.remove('volume');
      device.close();
      device = undefined;
    }
    return {};
  },
  Freeze: unused,
  Hold: unused,
  Release: unused,
  Clone: unused,
  Resize: unused,
  SetQos: unused,
  Members: unused,
  DeleteSnapshot: unused,
  Changed: unused as never,
  Status: unused,
});

await nbd.listen(openNet(realClock), `unix:${file('nbd')}`);
await createServer({ address: file('grpc'), services: [volume], logger: silentLogger, clock: realClock });
process.stdout.write('ready\n');
