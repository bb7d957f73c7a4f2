// From the text of a StorageClass and a VolumeAttributesClass to typed parameters. Every key is known or refused; whatever
// a class leaves out is decided once, when the volume is made, and stands in its record from then on.

import { HoldfastError, invalid, printable, SECRET_FIELD } from '../base/index.js';
import type { Qos, VolumeParameters } from '../meta/index.js';
import {
  aliasKeys,
  aliasOf,
  type ClassDraft,
  copiesKeys,
  fixedKeys,
  fsTypes,
  type KeyParser,
  qosKeys,
  ZONE_LABEL,
} from './class-keys.js';
import { nearestKey } from './nearest-key.js';

/** What a class says; undefined where it leaves the choice to us. */
export interface VolumeClass {
  readonly explicit: Partial<VolumeParameters>;
  readonly qos: Qos;
  readonly nodeSelector: readonly string[];
  readonly diskSelector: readonly string[];
  /** Sentences for the log: aliases that were understood. */
  readonly notices: readonly string[];
}

const RESERVED_PREFIX = 'csi.storage.k8s.io/';
const FSTYPE_KEY = `${RESERVED_PREFIX}fstype`;
const FIELD_BYTES_MAX = 64 * 1024;

const classKeys: Readonly<Record<string, KeyParser>> = { ...fixedKeys, ...copiesKeys, ...qosKeys, ...aliasKeys };
const aliasesOfCopies = Object.entries(aliasKeys).filter(([key]) => aliasOf[key] === 'replicas');
const mutableKeys: Readonly<Record<string, KeyParser>> = {
  ...qosKeys,
  ...copiesKeys,
  ...Object.fromEntries(aliasesOfCopies),
};

function unknownKey(key: string, known: readonly string[], where: string): HoldfastError {
  const nearest = nearestKey(key, known);
  return new HoldfastError('INVALID_ARGUMENT', `unknown ${where} ${printable(key)}; did you mean ${nearest}?`, {
    reason: 'UnknownParameter',
  });
}

function checkAmount(parameters: Readonly<Record<string, string>>, what: string): void {
  let bytes = 0;
  for (const [key, value] of Object.entries(parameters)) bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  if (bytes > FIELD_BYTES_MAX) throw invalid(`the ${what} hold ${bytes} bytes, at most ${FIELD_BYTES_MAX} are allowed`);
}

const emptyDraft = (): ClassDraft => ({ parameters: {}, qos: {}, nodeSelector: [], diskSelector: [] });

/** What may change on a living volume; undefined where nothing was said. */
export interface MutableChange {
  readonly qos: Qos;
  readonly copies: Partial<Pick<VolumeParameters, 'replicas' | 'minReplicas'>>;
}

/** Mutable parameters: only what may change on a living volume. Throws INVALID_ARGUMENT for everything else. */
export function parseMutable(parameters: Readonly<Record<string, string>>): MutableChange {
  checkAmount(parameters, 'mutable parameters');
  const draft = emptyDraft();
  for (const [key, value] of Object.entries(parameters)) {
    const parse = Object.hasOwn(mutableKeys, key) ? mutableKeys[key] : undefined;
    if (parse !== undefined) parse(value, draft, key);
    else if (Object.hasOwn(classKeys, key)) {
      throw invalid(
        `${key} is fixed when a volume is made and can't be changed; changeable are ${Object.keys(mutableKeys).join(', ')}`,
      );
    } else throw unknownKey(key, Object.keys(mutableKeys), 'mutable parameter');
  }
  return { qos: draft.qos, copies: draft.parameters };
}

/** Throws INVALID_ARGUMENT when writes would need more copies than there are to be. */
export function checkCopies({ replicas, minReplicas }: Pick<VolumeParameters, 'replicas' | 'minReplicas'>): void {
  if (minReplicas > replicas) throw invalid(`minReplicas (${minReplicas}) is above replicas (${replicas})`);
}

export interface ClassRequest {
  readonly parameters: Readonly<Record<string, string>>;
  readonly mutableParameters: Readonly<Record<string, string>>;
  /** Filesystem of the requested capability; empty where the caller leaves it open. It wins over the class. */
  readonly fsType: string;
}

function checkFsType(value: string): string {
  if (!(fsTypes as readonly string[]).includes(value)) {
    throw invalid(`filesystem ${printable(value)} is not supported; choose one of ${fsTypes.join(', ')}`);
  }
  return value;
}

/** Throws INVALID_ARGUMENT with the key, what is wrong with it and, for an unknown key, the nearest known one. */
export function parseClass(request: ClassRequest): VolumeClass {
  checkAmount(request.parameters, 'parameters');
  const draft = emptyDraft();
  const notices: string[] = [];
  for (const [key, value] of Object.entries(request.parameters)) {
    if (key.startsWith(RESERVED_PREFIX)) continue;
    const parse = Object.hasOwn(classKeys, key) ? classKeys[key] : undefined;
    if (parse === undefined) throw unknownKey(key, Object.keys(classKeys), 'parameter');
    parse(value, draft, key);
    const alias = aliasOf[key];
    if (alias !== undefined) notices.push(`parameter ${key} was understood as ${alias}`);
  }
  const reserved = request.parameters[FSTYPE_KEY] ?? '';
  const fsType = request.fsType !== '' ? request.fsType : reserved;
  if (fsType !== '') draft.parameters.fsType = checkFsType(fsType);
  const mutable = parseMutable(request.mutableParameters);
  const explicit = { ...draft.parameters, ...mutable.copies };
  const { replicas, minReplicas } = explicit;
  if (replicas !== undefined && minReplicas !== undefined) checkCopies({ replicas, minReplicas });
  return {
    explicit,
    qos: { ...draft.qos, ...mutable.qos },
    nodeSelector: draft.nodeSelector,
    diskSelector: draft.diskSelector,
    notices,
  };
}

export interface ClusterFacts {
  /** Nodes that could hold a replica now. */
  readonly usableNodes: number;
  /** Different values of the zone label among them; 0 when one of them has none. */
  readonly zones: number;
}

/** The class with every default filled in (src/decisions/010 and 011 say why these). */
export function resolveClass(volumeClass: VolumeClass, facts: ClusterFacts, hasKey: boolean): VolumeParameters {
  const { explicit } = volumeClass;
  const replicas = explicit.replicas ?? Math.max(explicit.minReplicas ?? 1, Math.min(3, facts.usableNodes), 1);
  checkCopies({ replicas, minReplicas: explicit.minReplicas ?? 1 });
  return {
    replicas,
    minReplicas: explicit.minReplicas ?? 1,
    failureDomain: explicit.failureDomain ?? (facts.zones >= replicas && facts.zones > 1 ? ZONE_LABEL : 'node'),
    dataLocality: explicit.dataLocality ?? 'preferred',
    compression: explicit.compression ?? 'lz4',
    encryption: explicit.encryption ?? (hasKey ? 'aes-256-gcm' : 'none'),
    keyProvider: explicit.keyProvider ?? 'secret',
    fsType: explicit.fsType ?? 'ext4',
    mkfsOptions: explicit.mkfsOptions ?? '',
    mountOptions: explicit.mountOptions ?? '',
  };
}

/** Whether the secrets of a call carry a wrapping key. */
export function hasWrappingKey(secrets: Readonly<Record<string, string>>): boolean {
  return (secrets[SECRET_FIELD] ?? '').trim() !== '';
}

/** The first field in which a volume differs from what a repeated request says, or undefined. */
export function differingParameter(volumeClass: VolumeClass, have: VolumeParameters, qos: Qos): string | undefined {
  for (const [field, value] of Object.entries(volumeClass.explicit)) {
    const present = have[field as keyof VolumeParameters];
    if (present !== value) return `${field} (has ${String(present)}, asked for ${String(value)})`;
  }
  for (const [field, value] of Object.entries(volumeClass.qos)) {
    const present = qos[field as keyof Qos] ?? 0;
    if (present !== value) return `${field} (has ${present}, asked for ${value})`;
  }
  return undefined;
}
