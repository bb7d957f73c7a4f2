// Where an attached volume's files are. Everything about one volume is found from its id, so that a successor finds and
// clears what a killed holder left.

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { invalid, isUuid, type VolumeId } from '../../base/index.js';

export interface AttachPaths {
  readonly directory: string;
  /** Control socket of the holder, 0600. */
  readonly socket: string;
  /** The FUSE file: an empty file under the mount. */
  readonly file: string;
  readonly log: string;
  /** Name in the kernel's abstract socket space: bound by the one process that may touch the above. Dies with it. */
  readonly lock: string;
  /**
   * What a kernel nbd device of this volume is known by. It names the run directory, too: several nodes on one machine (holdfast
   * dev) share a kernel, and one's device must never be taken for another's.
   */
  readonly identifier: string;
}

/** sun_path has 108 bytes with its terminator. */
const socketPathBytesMax = 107;

export function attachDirectory(runDir: string): string {
  return join(runDir, 'attach');
}

/** Throws INVALID_ARGUMENT when the run directory's name is too long for a socket. */
export function attachPaths(runDir: string, volumeId: VolumeId): AttachPaths {
  const directory = attachDirectory(runDir);
  const base = join(directory, volumeId);
  const socket = `${base}.sock`;
  if (Buffer.byteLength(socket) > socketPathBytesMax) {
    throw invalid(`the run directory ${runDir} is too long: ${socket} exceeds ${socketPathBytesMax} bytes`);
  }
  const scope = createHash('sha256').update(directory).digest('hex').slice(0, 16);
  const identifier = `holdfast/${scope}/${volumeId}`;
  return { directory, socket, file: `${base}.disk`, log: `${base}.log`, lock: `\0${identifier}`, identifier };
}

/** The volume that a file of the attach directory belongs to, or undefined. */
export function volumeOfFile(name: string): VolumeId | undefined {
  const match = /^(.{36})\.(sock|disk)$/.exec(name);
  return match && isUuid(match[1]!) ? (match[1] as VolumeId) : undefined;
}
