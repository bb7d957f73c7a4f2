// The keys of a StorageClass as data: one entry a key, each a parser of its value. parameters.ts walks them.

import { invalid, parseQuantity, printable } from '../base/index.js';
import type { Qos, VolumeParameters } from '../meta/index.js';
import { REPLICAS_MAX, TEXT_BYTES_MAX } from './limits.js';

/** What a class says, key by key; what it leaves out stays undefined. */
export interface ClassDraft {
  parameters: { -readonly [K in keyof VolumeParameters]?: VolumeParameters[K] };
  qos: { -readonly [K in keyof Qos]: Qos[K] };
  nodeSelector: readonly string[];
  diskSelector: readonly string[];
}

export type KeyParser = (value: string, draft: ClassDraft, key: string) => void;

export const ZONE_LABEL = 'topology.kubernetes.io/zone';
export const fsTypes = ['ext4', 'xfs', 'btrfs'] as const;

const labelPattern = /^([a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;
const tagPattern = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const controlCharacters = /[\u0000-\u001f\u007f]/;

function bad(key: string, value: string, allowed: string): never {
  throw invalid(`${key} must be ${allowed}, not ${printable(value)}`);
}

function copies(key: string, value: string): number {
  const number = /^[0-9]{1,4}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= 1 && number <= REPLICAS_MAX)) bad(key, value, `a whole number from 1 to ${REPLICAS_MAX}`);
  return number;
}

/** Sets a field; two spellings of it that disagree are refused. */
function put<K extends keyof VolumeParameters>(draft: ClassDraft, field: K, value: VolumeParameters[K], key: string) {
  const before = draft.parameters[field];
  if (before !== undefined && before !== value) {
    throw invalid(`${key} asks for ${field} ${String(value)}, but another key of the class asks for ${String(before)}`);
  }
  draft.parameters[field] = value;
}

function oneOf<K extends keyof VolumeParameters>(field: K, words: readonly VolumeParameters[K][]): KeyParser {
  return (value, draft, key) => {
    const word = words.find((known) => known === value);
    if (word === undefined) bad(key, value, `one of ${words.join(', ')}`);
    put(draft, field, word, key);
  };
}

const freeText = (field: 'mkfsOptions' | 'mountOptions'): KeyParser => {
  return (value, draft, key) => {
    if (Buffer.byteLength(value) > TEXT_BYTES_MAX) throw invalid(`${key} is longer than ${TEXT_BYTES_MAX} bytes`);
    if (controlCharacters.test(value)) bad(key, value, 'text without control characters');
    put(draft, field, value, key);
  };
};

const tagList = (field: 'nodeSelector' | 'diskSelector'): KeyParser => {
  return (value, draft, key) => {
    const tags = value.split(',').map((tag) => tag.trim());
    for (const tag of tags) {
      if (!tagPattern.test(tag)) bad(key, value, 'a list of tags separated by commas');
    }
    draft[field] = [...new Set(tags)];
  };
};

/** Old switches of other drivers: true means the default cipher. */
const encryptionSwitch: KeyParser = (value, draft, key) => {
  if (value !== 'true' && value !== 'false') bad(key, value, 'true or false');
  put(draft, 'encryption', value === 'true' ? 'aes-256-gcm' : 'none', key);
};

const planned =
  (what: string): KeyParser =>
  (_value, _draft, key) => {
    throw invalid(`${key} is planned but not in this release: ${what}; leave the key out`);
  };

const quantity = (field: keyof Qos): KeyParser => {
  return (value, draft, key) => {
    const number = parseQuantity(value);
    if (number === undefined) bad(key, value, 'a quantity such as 500, 10k or 100Mi (0 means unlimited)');
    draft.qos[field] = number;
  };
};

/** Can be given at creation and changed later. */
export const qosKeys: Readonly<Record<string, KeyParser>> = {
  maxReadIops: quantity('maxReadIops'),
  maxWriteIops: quantity('maxWriteIops'),
  maxReadBps: quantity('maxReadBps'),
  maxWriteBps: quantity('maxWriteBps'),
};

const failureDomain: KeyParser = (value, draft, key) => {
  const label = value === 'zone' ? ZONE_LABEL : value;
  if (label !== 'node' && !labelPattern.test(label)) bad(key, value, 'node, zone or the key of a topology label');
  put(draft, 'failureDomain', label, key);
};

const keyProvider: KeyParser = (value, draft, key) => {
  if (value !== 'secret' && value !== 'file') {
    throw invalid(
      `${key} ${printable(value)} names a key service, which is planned but not in this release; choose secret or file`,
    );
  }
  put(draft, 'keyProvider', value, key);
};

/** Can be given at creation and changed later: the replicas follow. */
export const copiesKeys: Readonly<Record<string, KeyParser>> = {
  replicas: (value, draft, key) => put(draft, 'replicas', copies(key, value), key),
  minReplicas: (value, draft, key) => put(draft, 'minReplicas', copies(key, value), key),
};

/** Fixed when the volume is made, or not to be changed in this release. */
export const fixedKeys: Readonly<Record<string, KeyParser>> = {
  failureDomain,
  dataLocality: oneOf('dataLocality', ['disabled', 'preferred', 'required']),
  nodeSelector: tagList('nodeSelector'),
  diskSelector: tagList('diskSelector'),
  compression: oneOf('compression', ['none', 'lz4', 'zstd']),
  encryption: oneOf('encryption', ['none', 'aes-256-gcm', 'chacha20-poly1305']),
  keyProvider,
  fsType: oneOf('fsType', fsTypes),
  mkfsOptions: freeText('mkfsOptions'),
  mountOptions: freeText('mountOptions'),
  consistencyGroup: planned('groups are named in the group snapshot call'),
  snapshotSchedule: planned('take snapshots by VolumeSnapshot objects'),
  snapshotRetain: planned('it belongs to snapshotSchedule'),
  quiesce: planned('snapshots are crash-consistent'),
  rebuildMaxBps: planned('a rebuild gives way to clients by itself'),
};

/** Keys of other drivers, understood so that their classes carry over. */
export const aliasKeys: Readonly<Record<string, KeyParser>> = {
  numberOfReplicas: copiesKeys.replicas!,
  repl: copiesKeys.replicas!,
  // There it counts the copies beside the first one.
  'storageos.com/replicas': (value, draft, key) => {
    if (!/^[0-4]$/.test(value)) bad(key, value, `a whole number from 0 to ${REPLICAS_MAX - 1} (extra copies)`);
    put(draft, 'replicas', Number(value) + 1, key);
  },
  encrypted: encryptionSwitch,
  secure: encryptionSwitch,
};

/** Each alias with the key it stands for, for the notice. */
export const aliasOf: Readonly<Record<string, string>> = {
  numberOfReplicas: 'replicas',
  repl: 'replicas',
  'storageos.com/replicas': 'replicas',
  encrypted: 'encryption',
  secure: 'encryption',
};
