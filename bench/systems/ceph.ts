// Ceph RBD with three copies, from Debian's packages: a monitor, a manager and three OSDs on files, on the loopback, driven by
// fio's rbd engine. Everything lives under one directory; nothing of it touches /etc/ceph or /var/lib/ceph. rbd_cache is off,
// so an acknowledged write is durable on three OSDs; cephx is off, which spares it work. Owner: one run.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, MiB, precondition, type Random } from '../../src/base/index.js';
import { lastLine, type Processes, type Started } from '../processes.js';
import type { BenchSystem, FioTarget } from './system.js';

export const cephPackages = ['ceph-mon', 'ceph-osd', 'ceph-mgr', 'ceph-common'] as const;

const COMMAND_MS = 60_000;
const READY_MS = 120_000;
const POLL_MS = 1_000;
const MON = 'v2:127.0.0.1:13300';
const OSDS = 3;
const OSD_BYTES = 4096 * MiB;
const SHARDS = 2;

export interface CephOptions {
  readonly processes: Processes;
  readonly clock: Clock;
  readonly random: Random;
  readonly directory: string;
  readonly sizeBytes: number;
}

function configuration(base: string, fsid: string): string {
  const global = {
    fsid,
    mon_host: `[${MON}/0]`,
    mon_initial_members: 'a',
    public_addr: '127.0.0.1',
    cluster_addr: '127.0.0.1',
    ms_bind_msgr1: 'false',
    ms_bind_ipv6: 'false',
    auth_cluster_required: 'none',
    auth_service_required: 'none',
    auth_client_required: 'none',
    run_dir: `${base}/run`,
    admin_socket: `${base}/run/$name.$pid.asok`,
    log_file: `${base}/log/$name.log`,
    crash_dir: `${base}/crash`,
    osd_pool_default_size: 3,
    osd_pool_default_min_size: 2,
    osd_crush_chooseleaf_type: 0,
    mon_allow_pool_delete: 'true',
    mon_data_avail_warn: 1,
    mon_data_avail_crit: 1,
    osd_pool_default_pg_autoscale_mode: 'off',
  };
  const osd = {
    osd_data: `${base}/osd.$id`,
    osd_objectstore: 'bluestore',
    bluestore_block_path: '',
    bluestore_block_create: 'true',
    bluestore_block_size: OSD_BYTES,
    bluestore_block_preallocate_file: 'true',
    // The least the option takes.
    osd_memory_target: 939_524_096,
    osd_op_num_shards: SHARDS,
    osd_op_num_threads_per_shard: 1,
    debug_osd: '0/0',
    debug_ms: '0/0',
    debug_bluestore: '0/0',
    debug_rocksdb: '0/0',
  };
  const section = (name: string, values: object) =>
    `[${name}]\n${Object.entries(values)
      .map(([key, value]) => `${key} = ${value}\n`)
      .join('')}`;
  return [
    section('global', global),
    section('mon', { mon_data: `${base}/mon` }),
    section('mgr', { mgr_data: `${base}/mgr`, mgr_initial_modules: '' }),
    section('osd', osd),
    section('client', { rbd_cache: 'false' }),
  ].join('');
}

export class CephSystem implements BenchSystem {
  readonly name = 'ceph-rbd';
  readonly title = 'Ceph RBD, 3 OSDs';
  readonly copies = 3;
  readonly flush = 'yes: every acknowledged write is durable on 3';
  readonly features = 'BlueStore on files, CRC-32C; no encryption or compression; rbd_cache and cephx off';
  readonly #options: CephOptions;
  readonly #base: string;
  readonly #env: { readonly CEPH_CONF: string };
  #daemons: Started[] = [];
  #images = 0;

  constructor(options: CephOptions) {
    this.#options = options;
    this.#base = join(options.directory, 'ceph');
    this.#env = { CEPH_CONF: join(this.#base, 'ceph.conf') };
  }

  /** Brings the cluster up: half a minute. */
  async start(): Promise<void> {
    const fsid = this.#options.random.uuid();
    for (const name of ['mon', 'mgr', 'osd.0', 'osd.1', 'osd.2', 'run', 'log', 'crash'])
      mkdirSync(join(this.#base, name), { recursive: true });
    writeFileSync(this.#env.CEPH_CONF, configuration(this.#base, fsid));
    const map = join(this.#base, 'monmap');
    await this.#command('monmaptool', '--create', '--clobber', '--fsid', fsid, '--addv', 'a', `[${MON}]`, map);
    await this.#command('ceph-mon', '-i', 'a', '--mkfs', '--monmap', map);
    this.#daemon('ceph-mon', 'a');
    await this.#until('the monitor answers', ['-s'], () => true);
    await this.#command('ceph', 'config', 'set', 'mon', 'auth_allow_insecure_global_id_reclaim', 'false');
    this.#daemon('ceph-mgr', 'x');
    for (let id = 0; id < OSDS; id++) await this.#startOsd(String(id));
    await this.#until('three OSDs are up', ['osd', 'stat'], (text) => text.includes(`${OSDS} up`));
    await this.#command('ceph', 'osd', 'pool', 'create', 'rbd', '32', '32');
    await this.#command('ceph', 'osd', 'pool', 'set', 'rbd', 'size', '3');
    await this.#command('ceph', 'osd', 'pool', 'set', 'rbd', 'min_size', '2');
    await this.#command('ceph', 'osd', 'pool', 'application', 'enable', 'rbd', 'rbd');
    await this.#until('the cluster is healthy', ['health'], (text) => text.includes('HEALTH_OK'));
  }

  async #startOsd(id: string): Promise<void> {
    const uuid = this.#options.random.uuid();
    await this.#command('ceph', 'osd', 'new', uuid, id);
    await this.#command('ceph-osd', '-i', id, '--mkfs', '--osd-uuid', uuid);
    await this.#command('ceph', 'osd', 'crush', 'add', `osd.${id}`, '1.0', 'root=default', `host=h${id}`);
    this.#daemon('ceph-osd', id);
  }

  async open(): Promise<void> {
    const size = String(this.#options.sizeBytes / MiB);
    const features = 'layering,exclusive-lock,object-map,fast-diff,deep-flatten';
    await this.#command('rbd', 'create', '--size', size, '--image-feature', features, `rbd/v${++this.#images}`);
  }
  target(): FioTarget {
    const settings = { ioengine: 'rbd', pool: 'rbd', rbdname: `v${this.#images}`, clientname: 'admin' };
    return { settings, env: this.#env };
  }
  pids(): number[] {
    return this.#daemons.map(({ pid }) => pid);
  }
  async close(): Promise<void> {
    await this.#command('rbd', 'rm', '--no-progress', `rbd/v${this.#images}`);
  }

  async stop(): Promise<void> {
    for (const daemon of this.#daemons.reverse()) await daemon.stop();
    this.#daemons = [];
  }

  #daemon(program: string, id: string): void {
    this.#daemons.push(this.#options.processes.start(program, ['-f', '-i', id], this.#env));
  }

  async #command(program: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.#options.processes.run(program, args, COMMAND_MS, this.#env);
    if (code !== 0) throw precondition(`${program} ${args.join(' ')} failed: ${lastLine(stderr)}`);
    return stdout;
  }

  async #until(what: string, args: readonly string[], test: (text: string) => boolean): Promise<void> {
    const { processes, clock } = this.#options;
    const deadline = clock.monotonicMs() + READY_MS;
    for (;;) {
      const bound = ['--connect-timeout', '5', ...args];
      const { code, stdout } = await processes.run('ceph', bound, COMMAND_MS, this.#env);
      if (code === 0 && test(stdout)) return;
      if (clock.monotonicMs() > deadline) throw precondition(`Ceph: not within ${READY_MS / 1000} s: ${what}`);
      await clock.sleep(POLL_MS);
    }
  }
}
