// Where `holdfast rescue read` puts a volume: a new sparse file, or standard output.

import { type FileHandle, open, unlink } from 'node:fs/promises';
import { BLOCK_SIZE, errnoOf, HoldfastError, messageOf, precondition } from '../base/index.js';
import type { Sink } from '../rescue/index.js';

const ZEROES = Buffer.alloc(1024 * 1024);

export interface ClosableSink extends Sink {
  /** Lets go of it; what is incomplete is removed where that can be done. */
  close(): Promise<void>;
}

/** Throws ALREADY_EXISTS: nothing is ever written over. */
export async function fileSink(path: string): Promise<ClosableSink> {
  let file: FileHandle;
  try {
    file = await open(path, 'wx', 0o600);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST')
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `${path} exists already; choose another name, or write into it through a pipe: --out - | dd of=...`,
      );
    throw precondition(`${path} can't be made: ${messageOf(error)}`);
  }
  let complete = false;
  return {
    async write(bytes, offset) {
      // Zeroes are left to be holes, as what was never written is.
      for (let from = 0; from < bytes.length; ) {
        const zero = isZero(bytes, from);
        let to = from;
        while (to < bytes.length && isZero(bytes, to) === zero) to = Math.min(to + BLOCK_SIZE, bytes.length);
        if (!zero) await writeAll(file, path, bytes.subarray(from, to), offset + from);
        from = to;
      }
    },
    async end(sizeBytes) {
      try {
        await file.truncate(sizeBytes);
        await file.sync();
      } catch (error) {
        throw writeFailed(path, error);
      }
      complete = true;
    },
    async close() {
      await file.close();
      if (!complete) await unlink(path);
    },
  };
}

function isZero(bytes: Buffer, from: number): boolean {
  const to = Math.min(from + BLOCK_SIZE, bytes.length);
  return bytes.compare(ZEROES, 0, to - from, from, to) === 0;
}

async function writeAll(file: FileHandle, path: string, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    try {
      done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
    } catch (error) {
      throw writeFailed(path, error);
    }
  }
}

function writeFailed(path: string, error: unknown): HoldfastError {
  const full = errnoOf(error) === 'ENOSPC';
  return new HoldfastError(
    full ? 'RESOURCE_EXHAUSTED' : 'UNAVAILABLE',
    `${path} can't be written: ${messageOf(error)}`,
    { reason: full ? 'NoSpace' : 'Generic', cause: error },
  );
}

export function streamSink(stream: NodeJS.WritableStream): ClosableSink {
  let at = 0;
  const put = (bytes: Uint8Array) =>
    new Promise<void>((resolve, reject) => {
      stream.write(bytes, (error) => (error ? reject(writeFailed('standard output', error)) : resolve()));
    });
  const zeroesTo = async (offset: number) => {
    while (at < offset) {
      const some = ZEROES.subarray(0, Math.min(ZEROES.length, offset - at));
      await put(some);
      at += some.length;
    }
  };
  // Its errors come with the writes; unheard, one would end the process.
  if (stream.listenerCount('error') === 0) stream.on('error', () => {});
  return {
    async write(bytes, offset) {
      await zeroesTo(offset);
      await put(bytes);
      at += bytes.length;
    },
    end: zeroesTo,
    close: async () => {},
  };
}
