// Reading request fields: what is missing or too long is refused here, before anything is touched.

import { invalid } from '../base/index.js';
import { checkWish, type SizeRange, type TopologyWish } from '../control/index.js';
import type { csi } from '../rpc/index.js';

/** Of a CSI string field, by the specification. */
const FIELD_BYTES_MAX = 128;
/** Node ids may be longer. */
const NODE_ID_BYTES_MAX = 256;

/** An id: present and not absurd. Whether it names anything is for the lookup to say. */
export function requiredId(value: string, field: string): string {
  if (value === '') throw invalid(`${field} is missing`);
  return optionalId(value, field);
}

export function optionalId(value: string, field: string): string {
  const bytes = Buffer.byteLength(value);
  const limit = field === 'node_id' ? NODE_ID_BYTES_MAX : FIELD_BYTES_MAX;
  if (bytes > limit) throw invalid(`${field} is ${bytes} bytes long, at most ${limit} are allowed`);
  return value;
}

export function sizeRange(range: csi.CapacityRange__Output | null): SizeRange | null {
  return range === null ? null : { requiredBytes: range.required_bytes, limitBytes: range.limit_bytes };
}

/** Throws INVALID_ARGUMENT for a requirement that demands nothing or preferred places it does not allow. */
export function topologyWish(requirement: csi.TopologyRequirement__Output | null): TopologyWish {
  const wish = {
    requisite: (requirement?.requisite ?? []).map((topology) => topology.segments),
    preferred: (requirement?.preferred ?? []).map((topology) => topology.segments),
  };
  checkWish(wish);
  return wish;
}

export function pageRequest(request: { readonly max_entries: number; readonly starting_token: string }) {
  return { maxEntries: request.max_entries, startingToken: request.starting_token };
}

const RESERVED_PREFIX = 'csi.storage.k8s.io/';

/** Snapshot classes have no parameters of ours yet; those that Kubernetes adds are let through. */
export function noParameters(parameters: Readonly<Record<string, string>>, what: string): void {
  const unknown = Object.keys(parameters).find((key) => !key.startsWith(RESERVED_PREFIX));
  if (unknown !== undefined)
    throw invalid(`unknown parameter ${JSON.stringify(unknown.slice(0, 120))}: ${what} take none`, 'UnknownParameter');
}
