// What every chapter of the demo works with.

import type { Clock } from '../../base/index.js';
import type { Exec } from '../../platform/index.js';
import type { Cluster } from './cluster.js';
import type { Consumer } from './consumer.js';
import type { FileTree, Progress } from './file-tree.js';
import { readTree } from './file-tree.js';
import type { Machine } from './machine.js';
import type { Report } from './report.js';
import type { Sidecars } from './sidecars.js';
import type { VolumeView } from './view.js';
import type { Workplace } from './workplace.js';

/** Before there is a cluster. */
export interface Stage {
  readonly report: Report;
  readonly clock: Clock;
  readonly exec: Exec;
  readonly machine: Machine;
  readonly place: Workplace;
  /** Aborts when the demo is interrupted or its cluster is gone. */
  readonly signal: AbortSignal;
  /** Whether volumes are mounted; else they are driven by an NBD client. */
  readonly mounts: boolean;
}

export interface Scene extends Stage {
  readonly cluster: Cluster;
  readonly sidecars: Sidecars;
  readonly consumer: Consumer;
}

export function seconds(ms: number): string {
  return ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export async function timed<T>(clock: Clock, work: () => Promise<T>): Promise<{ result: T; ms: number }> {
  const sinceMs = clock.monotonicMs();
  const result = await work();
  return { result, ms: clock.monotonicMs() - sinceMs };
}

export function progressOf(scene: Stage, what: string): Progress {
  return (done, total) => {
    const filled = Math.round((24 * done) / Math.max(1, total));
    scene.report.progress(`${'█'.repeat(filled)}${'░'.repeat(24 - filled)}  ${what} ${done} of ${total}`);
  };
}

/** Reads the tree from the volume's device and compares all checksums with those of the source. */
export async function checkTree(scene: Stage, view: VolumeView, tree: FileTree, where: string): Promise<void> {
  const found = await readTree(view, tree, scene.signal, progressOf(scene, 'checking file'));
  const sentence = `${where}: all ${tree.files.length} files read back, checksums equal (${tree.fingerprint})`;
  scene.report.check(found === tree.fingerprint, sentence, `found ${found}`);
}
