// The node's side of the story, in two ways. Kubelet stages and publishes through CSI Node and hands out a mounted directory.
// Where nothing can be mounted, an NBD client takes its place: it asks the node's storage daemon for the volume's export
// just as a holder does, with the key, and does its I/O over the export's socket.

import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createExportSource } from '../../agent/index.js';
import {
  type Clock,
  HoldfastError,
  messageOf,
  SECRET_FIELD,
  type VolumeId,
  wrappingKeyFromSecret,
} from '../../base/index.js';
import { NbdClient } from '../../nbd/index.js';
import type { Exec } from '../../platform/index.js';
import type { Cluster } from './cluster.js';
import type { DemoVolume, Paths, Sidecars } from './sidecars.js';
import { Contents, DeviceView, deviceIo, MountedView, nbdIo, type VolumeView } from './view.js';

export interface Consumer {
  /** Publishes the volume to the node and brings it into use there. `cloneOf`: the volume whose contents it starts with. */
  attach(volume: DemoVolume, node: string, cloneOf?: DemoVolume): Promise<VolumeView>;
  /** Ends the use on its node, then withdraws the volume from it. */
  detach(view: VolumeView): Promise<void>;
  /** The controller has grown the volume to `volume.sizeBytes`; its user follows. */
  expand(view: VolumeView, volume: DemoVolume): Promise<VolumeView>;
  /** Tries to use the volume with another key. Rejects, as it should. */
  attachWith(key: string | null, volume: DemoVolume, node: string): Promise<void>;
  /** Tries to write where the volume has been taken away. Resolves to what it met; rejects when it could write. */
  writeAsDeposed(view: VolumeView): Promise<string>;
  /** Clears up at a node that has lost the volume to another one. */
  abandon(view: VolumeView): Promise<void>;
}

const deposedTimeoutMs = 45_000;
const pollMs = 250;

async function within<T>(work: Promise<T>, clock: Clock, timeoutMs: number, what: string): Promise<T> {
  const timer = new AbortController();
  const late = clock.sleep(timeoutMs, timer.signal).then(() => {
    throw new HoldfastError('DEADLINE_EXCEEDED', `${what} had no answer within ${timeoutMs / 1000} s`);
  });
  late.catch(() => {});
  return Promise.race([work, late]).finally(() => timer.abort());
}

export class Kubelet implements Consumer {
  readonly #sidecars: Sidecars;
  readonly #directory: string;
  readonly #exec: Exec;
  readonly #clock: Clock;

  /** `directory`: stands for /var/lib/kubelet. */
  constructor(sidecars: Sidecars, directory: string, exec: Exec, clock: Clock) {
    this.#sidecars = sidecars;
    this.#directory = directory;
    this.#exec = exec;
    this.#clock = clock;
  }

  #paths(volume: DemoVolume, node: string): Paths {
    const home = join(this.#directory, node);
    return {
      staging: join(home, 'plugins', volume.id, 'globalmount'),
      target: join(home, 'pods', volume.id, volume.use === 'block' ? 'device' : 'mount'),
    };
  }

  async attach(volume: DemoVolume, node: string): Promise<VolumeView> {
    const paths = this.#paths(volume, node);
    await this.#sidecars.publish(volume, node);
    await mkdir(paths.staging, { recursive: true });
    await mkdir(dirname(paths.target), { recursive: true });
    await this.#sidecars.nodeStage(volume, node, paths);
    await this.#sidecars.nodePublish(volume, node, paths);
    if (volume.use === 'mount') return new MountedView(volume, node, paths.target, this.#exec);
    return new DeviceView(volume, node, await deviceIo(paths.target, volume.sizeBytes), new Contents());
  }

  async detach(view: VolumeView): Promise<void> {
    await this.abandon(view);
    await this.#sidecars.unpublish(view.volume, view.node);
  }

  async expand(view: VolumeView, volume: DemoVolume): Promise<VolumeView> {
    await this.#sidecars.nodeExpand(volume, view.node, this.#paths(volume, view.node));
    return new MountedView(volume, view.node, this.#paths(volume, view.node).target, this.#exec);
  }

  async attachWith(key: string | null, volume: DemoVolume, node: string): Promise<void> {
    const paths = this.#paths(volume, node);
    await mkdir(paths.staging, { recursive: true });
    await this.#sidecars.nodeStage(volume, node, paths, key);
  }

  async writeAsDeposed(view: VolumeView): Promise<string> {
    const attempt = view.put('late', Buffer.from('written after the volume was taken away'), { durable: true });
    const outcome = attempt.then(
      () => undefined,
      (error: unknown) => messageOf(error).split(',')[0],
    );
    const met = await within(outcome, this.#clock, deposedTimeoutMs, `a write on ${view.node}`);
    if (met !== undefined) return met;
    throw new HoldfastError('INTERNAL', `${view.node} could still write to volume ${view.volume.id}`);
  }

  async abandon(view: VolumeView): Promise<void> {
    const paths = this.#paths(view.volume, view.node);
    await view.close();
    await this.#sidecars.nodeUnpublish(view.volume, view.node, paths);
    await this.#sidecars.nodeUnstage(view.volume, view.node, paths);
  }
}

export class NbdUser implements Consumer {
  readonly #sidecars: Sidecars;
  readonly #cluster: Cluster;
  readonly #clock: Clock;
  readonly #contents = new Map<VolumeId, Contents>();

  constructor(sidecars: Sidecars, cluster: Cluster, clock: Clock) {
    this.#sidecars = sidecars;
    this.#cluster = cluster;
    this.#clock = clock;
  }

  async attach(volume: DemoVolume, node: string, cloneOf?: DemoVolume): Promise<VolumeView> {
    await this.#sidecars.publish(volume, node);
    const contents =
      this.#contents.get(volume.id) ?? (cloneOf && this.#contents.get(cloneOf.id)?.copy()) ?? new Contents();
    this.#contents.set(volume.id, contents);
    return this.#open(volume, node, volume.key, contents);
  }

  async #open(volume: DemoVolume, node: string, secretKey: string | null, contents: Contents): Promise<VolumeView> {
    const key = secretKey === null ? null : wrappingKeyFromSecret({ [SECRET_FIELD]: secretKey });
    const opened = await this.#withDaemon(node, (daemon) => daemon.open(volume.id, key, false));
    const client = await NbdClient.connect({ address: { path: opened.socketPath }, exportName: opened.exportName });
    return new DeviceView(volume, node, nbdIo(client), contents);
  }

  async #withDaemon<T>(node: string, work: (daemon: ReturnType<typeof createExportSource>) => Promise<T>): Promise<T> {
    const daemon = createExportSource(join(this.#cluster.node(node).runDir, 'storage.sock'), this.#clock);
    try {
      return await work(daemon);
    } finally {
      daemon.disconnect();
    }
  }

  async detach(view: VolumeView): Promise<void> {
    await this.abandon(view);
    await this.#sidecars.unpublish(view.volume, view.node);
  }

  async expand(view: VolumeView, volume: DemoVolume): Promise<VolumeView> {
    await view.close();
    return this.#open(volume, view.node, volume.key, this.#contents.get(volume.id) ?? new Contents());
  }

  async attachWith(key: string | null, volume: DemoVolume, node: string): Promise<void> {
    const view = await this.#open(volume, node, key, new Contents());
    await view.close();
  }

  /** Its connection went with the daemon that was killed; what is left to try is to get a new one from the next daemon. */
  async writeAsDeposed(view: VolumeView): Promise<string> {
    const endMs = this.#clock.monotonicMs() + deposedTimeoutMs;
    for (;;) {
      try {
        const regained = await this.#open(view.volume, view.node, view.volume.key, new Contents());
        await regained.close();
      } catch (error) {
        const away = error instanceof HoldfastError && error.code === 'UNAVAILABLE';
        if (!away || this.#clock.monotonicMs() > endMs) return messageOf(error);
        await this.#clock.sleep(pollMs);
        continue;
      }
      throw new HoldfastError('INTERNAL', `${view.node} could still open volume ${view.volume.id}`);
    }
  }

  async abandon(view: VolumeView): Promise<void> {
    await view.close();
    await this.#withDaemon(view.node, (daemon) => daemon.close(view.volume.id));
  }
}
