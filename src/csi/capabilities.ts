// Which uses of a volume Holdfast serves: mounted or as a block device, by one node at a time.

import { invalid, printable } from '../base/index.js';
import type { csi } from '../rpc/index.js';

export const accessModes = [
  'SINGLE_NODE_WRITER',
  'SINGLE_NODE_READER_ONLY',
  'SINGLE_NODE_SINGLE_WRITER',
  'SINGLE_NODE_MULTI_WRITER',
] as const;

export const filesystems = ['ext4', 'xfs', 'btrfs'] as const;

/** A checked capability. */
export interface VolumeUse {
  readonly accessType: 'mount' | 'block';
  readonly accessMode: (typeof accessModes)[number];
  /** Empty: the volume's own. */
  readonly fsType: string;
  readonly readOnly: boolean;
}

/** The use a capability asks for, or a sentence why it is not served. Throws INVALID_ARGUMENT where fields are missing. */
export function useOf(capability: csi.VolumeCapability__Output): VolumeUse | string {
  const asked = capability.access_mode?.mode ?? 'UNKNOWN';
  if (asked === 'UNKNOWN') throw invalid('volume_capability names no access mode');
  const { mount, block } = capability;
  if (!mount && !block) throw invalid('volume_capability names no access type, neither mount nor block');
  const accessMode = accessModes.find((mode) => mode === asked);
  if (accessMode === undefined) {
    return `access mode ${asked} is not served: a volume is used by one node at a time (${accessModes.join(', ')})`;
  }
  const fsType = mount?.fs_type ?? '';
  if (fsType !== '' && !filesystems.some((known) => known === fsType)) {
    return `filesystem ${printable(fsType)} is not served, only ${filesystems.join(', ')}`;
  }
  if (mount && mount.volume_mount_group !== '')
    return 'volume_mount_group is not served: leave the group to the caller';
  return {
    accessType: block ? 'block' : 'mount',
    accessMode,
    fsType,
    readOnly: accessMode === 'SINGLE_NODE_READER_ONLY',
  };
}

/** As useOf, but throws INVALID_ARGUMENT for what is not served. */
export function servedUse(capability: csi.VolumeCapability__Output | null): VolumeUse {
  if (capability === null) throw invalid('volume_capability is missing');
  const use = useOf(capability);
  if (typeof use === 'string') throw invalid(use);
  return use;
}

/** All of a list, which must not be empty. */
export function servedUses(capabilities: readonly csi.VolumeCapability__Output[]): VolumeUse[] {
  if (capabilities.length === 0) throw invalid('volume_capabilities is empty');
  return capabilities.map(servedUse);
}

/** The one filesystem several capabilities ask for; empty when none does. */
export function commonFsType(uses: readonly VolumeUse[]): string {
  const asked = [...new Set(uses.map((use) => use.fsType).filter((fsType) => fsType !== ''))];
  if (asked.length > 1) throw invalid(`volume_capabilities asks for several filesystems at once: ${asked.join(', ')}`);
  return asked[0] ?? '';
}
