// The peers that run here.

import { nbdkitFile } from './nbdkit-file.js';
import { qemuLuks, qemuQcow2, qemuRaw } from './qemu-nbd.js';
import { type PeerKind, type PeerOptions, SocketServer } from './socket-server.js';
import type { Absent, BenchSystem } from './system.js';

const kinds: readonly PeerKind[] = [nbdkitFile, qemuRaw, qemuLuks, qemuQcow2];

/** One with which the others are compared. */
export const baselines = kinds.map(({ name }) => name);

/** Each peer, or why it is left out. */
export async function findPeers(options: PeerOptions): Promise<{ systems: BenchSystem[]; absent: Absent[] }> {
  const systems: BenchSystem[] = [];
  const absent: Absent[] = [];
  for (const kind of kinds) {
    const version = await options.processes.version(kind.program);
    if (version !== undefined) systems.push(new SocketServer(kind, options));
    else absent.push({ name: kind.name, title: kind.title, reason: `install the Debian package ${kind.package}` });
  }
  return { systems, absent };
}
