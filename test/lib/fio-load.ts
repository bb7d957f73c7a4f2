// A load that others made and that checks itself.

import { type ChildProcess, spawn } from 'node:child_process';

/** fio under a mounted filesystem: random writes with checksums and flushes then all read back. */
export class FioLoad {
  readonly #child: ChildProcess;
  readonly #ended: Promise<number | null>;
  #out = '';
  running = true;

  constructor(directory: string, sizeMiB: number, iops: number) {
    this.#child = spawn('fio', [
      '--name=load',
      `--filename=${directory}/load`,
      '--rw=randwrite',
      '--bs=4k',
      '--ioengine=libaio',
      '--direct=1',
      '--iodepth=4',
      '--fsync=16',
      `--size=${sizeMiB}M`,
      `--rate_iops=,${iops}`,
      '--verify=crc32c',
      '--verify_fatal=1',
      '--do_verify=1',
      '--verify_state_save=0',
      '--output-format=json',
    ]);
    this.#child.stdout?.on('data', (chunk) => {
      this.#out += chunk;
    });
    this.#child.stderr?.on('data', (chunk) => process.stderr.write(chunk));
    this.#ended = new Promise((resolve) => this.#child.once('close', resolve));
    void this.#ended.then(() => {
      this.running = false;
    });
  }

  /** Its end, with no error: the longest that a write took, in ms. */
  async done(): Promise<number> {
    const code = await this.#ended;
    if (code !== 0) throw new Error(`fio ended with ${code}: ${this.#out.slice(-1_500)}`);
    const [job] = (JSON.parse(this.#out.slice(this.#out.indexOf('{'))) as FioReport).jobs;
    if (job === undefined || job.error !== 0) throw new Error(`fio met error ${job?.error}`);
    return Math.round(job.write.clat_ns.max / 1e6);
  }
}

interface FioReport {
  readonly jobs: readonly { readonly error: number; readonly write: { readonly clat_ns: { readonly max: number } } }[];
}
