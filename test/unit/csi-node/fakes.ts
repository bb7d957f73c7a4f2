// A node without a kernel: a mount table in memory, devices that remember what mkfs did, and the real service over gRPC.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { volumeRecords } from '../../../src/agent/index.js';
import { HoldfastError, realClock, silentLogger, type VolumeId } from '../../../src/base/index.js';
import { nodeService } from '../../../src/csi/node/index.js';
import { keyOf, openMemoryStore, type VolumeRecord } from '../../../src/meta/index.js';
import type { Attach, AttachStatus, Filesystems, MountEntry, Mounter } from '../../../src/platform/index.js';
import { createClient, createServer, csiServices, KeyedLocks, type ServiceBinding } from '../../../src/rpc/index.js';
import { nodeA } from '../agent/fakes.js';

export interface FakeDevice {
  status: AttachStatus;
  key: string | null;
  contents: string;
}

export class FakeNode {
  readonly mounts: MountEntry[] = [];
  readonly devices = new Map<VolumeId, FakeDevice>();
  readonly log: string[] = [];
  readonly store = openMemoryStore();
  readonly dir = mkdtempSync(join(tmpdir(), 'hf-csi-node-'));
  /** Contents that a volume keeps while it is not attached. */
  readonly disks = new Map<VolumeId, string>();
  fail = new Map<string, HoldfastError>();
  sizes = new Map<VolumeId, number>();
  gate: Promise<void> | null = null;
  filesystemBytes: number | undefined;
  #nextLoop = 0;
  #stop: (() => Promise<unknown>)[] = [];

  path(name: string): string {
    const path = join(this.dir, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  async put(record: VolumeRecord): Promise<void> {
    const entry = await this.store.get(keyOf.volume(record.id));
    await this.store.compareAndSwap(keyOf.volume(record.id), entry?.version ?? 0, record as object);
  }
  async record(volumeId: VolumeId): Promise<VolumeRecord> {
    return (await this.store.get<VolumeRecord>(keyOf.volume(volumeId)))!.value;
  }

  #step(what: string): void {
    this.log.push(what);
    const error = this.fail.get(what.split(' ')[0]!);
    if (error) throw error;
  }
  #deviceAt(path: string): FakeDevice {
    return [...this.devices.values()].find((device) => device.status.devicePath === path)!;
  }

  readonly attach: Attach = {
    attach: async ({ volumeId, key, readOnly }) => {
      await this.gate;
      this.#step(`attach ${volumeId}`);
      const present = this.devices.get(volumeId);
      if (present) return present.status;
      const status: AttachStatus = {
        kind: 'fuse-loop',
        volumeId,
        state: 'attached',
        devicePath: `/dev/loop${900 + this.#nextLoop++}`,
        sizeBytes: this.sizes.get(volumeId) ?? (await this.record(volumeId)).sizeBytes,
        readOnly,
        pid: 1,
        bridgePid: 2,
        reconnects: 0,
        respawns: 0,
        lastError: '',
        counters: {},
      };
      this.devices.set(volumeId, {
        status,
        key: key?.toString('hex') ?? null,
        contents: this.disks.get(volumeId) ?? '',
      });
      return status;
    },
    detach: async (volumeId, options) => {
      this.#step(`detach ${volumeId}${options?.force ? ' force' : ''}`);
      const device = this.devices.get(volumeId);
      if (!device) return;
      if (this.mounts.some((entry) => entry.source === device.status.devicePath)) {
        throw new HoldfastError('FAILED_PRECONDITION', 'mounted', { reason: 'Busy' });
      }
      this.disks.set(volumeId, device.contents);
      this.devices.delete(volumeId);
    },
    grow: async (volumeId, sizeBytes) => {
      this.#step(`grow ${sizeBytes}`);
      const device = this.devices.get(volumeId)!;
      device.status = { ...device.status, sizeBytes };
      return device.status;
    },
    list: async () => [...this.devices.values()].map((device) => device.status),
    status: async (volumeId) => this.devices.get(volumeId)?.status,
  };

  readonly filesystems: Filesystems = {
    format: async (device, fsType, volumeId, options) => {
      this.#step(`mkfs ${fsType} ${volumeId} ${options.join(' ')}`.trim());
      this.#deviceAt(device).contents = fsType;
    },
    probe: async (device) => {
      this.#step('probe');
      const { contents } = this.#deviceAt(device);
      if (contents === '') return { kind: 'none' };
      return { kind: 'filesystem', fsType: contents, uuid: '', label: '' };
    },
    proveBlank: async (device, expected) => {
      this.#step('proveBlank');
      const found = this.#deviceAt(device);
      if (found.status.sizeBytes !== expected) throw new HoldfastError('FAILED_PRECONDITION', 'size differs');
      if (found.contents !== '') throw new HoldfastError('FAILED_PRECONDITION', 'is not blank');
    },
    check: async () => this.#step('fsck'),
    growMounted: async (_device, fsType) => this.#step(`growMounted ${fsType}`),
    growUnmounted: async () => {
      this.#step('growUnmounted');
      return 'grown';
    },
    stats: async () => ({
      bytes: { total: 100, used: 30, available: 70 },
      inodes: { total: 10, used: 3, available: 7 },
    }),
    deviceSize: async (device) => this.#deviceAt(device).status.sizeBytes,
  };

  #add(entry: Partial<MountEntry> & { target: string; source: string }): void {
    this.mounts.push({ fsType: 'ext4', options: [], readOnly: false, propagation: 'private', fsRoot: '/', ...entry });
  }
  readonly mounter: Mounter = {
    isMountPoint: async (path) => this.mounts.some((entry) => entry.target === path),
    findMounts: async (query) => {
      if ('target' in query) {
        if (query.target === '/dev')
          return [
            {
              target: '/dev',
              source: 'devtmpfs',
              fsType: 'devtmpfs',
              options: [],
              readOnly: false,
              propagation: 'private',
              fsRoot: '/',
            },
          ];
        return this.mounts.filter((entry) => entry.target === query.target);
      }
      return this.mounts.filter((entry) => entry.source === query.device);
    },
    mountFilesystem: async ({ device, target, fsType, options, readOnly }) => {
      this.#step(`mount ${target} ${options.join(',')}`.trim());
      this.#add({ source: device, target, fsType, readOnly });
    },
    bindMount: async ({ source, target, readOnly }) => {
      this.#step(`bind ${target}`);
      if (source.startsWith('/dev/'))
        this.#add({ source: 'devtmpfs', fsType: 'devtmpfs', target, fsRoot: source.slice(4) });
      else {
        const from = this.mounts.findLast((entry) => entry.target === source)!;
        this.#add({ ...from, target, readOnly: readOnly || from.readOnly });
      }
    },
    unmount: async (target) => this.#unmount(target),
    unmountAndRemove: async (target) => this.#unmount(target),
  };
  #unmount(target: string): void {
    for (let i = this.mounts.length - 1; i >= 0; i--) if (this.mounts[i]!.target === target) this.mounts.splice(i, 1);
  }

  service(): ServiceBinding {
    return nodeService({
      locks: new KeyedLocks(realClock),
      maxVolumes: 5,
      topology: { 'topology.holdfast.io/node': nodeA },
      poolProblems: async () => [{ path: '/pool', problem: 'is read-only' }],
      volumes: {
        nodeId: nodeA,
        records: volumeRecords(this.store, realClock),
        attach: this.attach,
        mounter: this.mounter,
        filesystems: this.filesystems,
        filesystemSize: async () => this.filesystemBytes,
        daemon: {
          resize: async (_id, size) => this.#step(`resize ${size}`),
          status: async () => undefined,
          ping: async () => {},
          close: () => {},
        },
        runDir: this.dir,
        clock: realClock,
        logger: silentLogger,
      },
    });
  }

  /** `emptied`: calls that answer an empty success instead of doing their work. */
  async serve(emptied: readonly string[] = []) {
    const address = `unix://${this.dir}/csi.sock`;
    const server = await createServer({
      address,
      clock: realClock,
      logger: silentLogger,
      services: [hollow(this.service(), emptied)],
    });
    const client = createClient(address, csiServices.node(), { clock: realClock });
    this.#stop = [async () => client.close(), () => server.close(0), async () => rmSync(this.dir, { recursive: true })];
    return client;
  }

  /** Without a server. */
  async remove(): Promise<void> {
    rmSync(this.dir, { recursive: true, force: true });
  }

  async stop(): Promise<void> {
    for (const step of this.#stop) await step();
  }
}

function hollow(binding: ServiceBinding, emptied: readonly string[]): ServiceBinding {
  const handlers = Object.entries(binding.handlers).map(([name, work]) => [
    name,
    emptied.includes(name) ? async () => ({}) : work,
  ]);
  return { ...binding, handlers: Object.fromEntries(handlers) };
}
