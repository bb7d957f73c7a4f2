// proto/csi/v1/csi.proto against the published CSI 1.13.0: the digest below was taken from the csi.proto inside the Go
// module, comments left out, so a changed number, type, option or name fails here.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import { describe, expect, it } from 'vitest';

const file = new URL('../../../proto/csi/v1/csi.proto', import.meta.url).pathname;
const parsed = protobuf.parse(readFileSync(file, 'utf8'), new protobuf.Root(), { keepCase: true }).root;

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}

function messages(namespace: protobuf.NamespaceBase): protobuf.Type[] {
  return namespace.nestedArray.flatMap((nested) => {
    if (nested instanceof protobuf.Type) return [nested, ...messages(nested)];
    return nested instanceof protobuf.Namespace ? messages(nested) : [];
  });
}

const v1 = parsed.lookup('csi.v1') as protobuf.Namespace;
const all = messages(v1);

describe('csi.proto', () => {
  it('means the same as the published file, byte for byte of its descriptor', () => {
    const digest = createHash('sha256')
      .update(JSON.stringify(sorted(parsed.toJSON())))
      .digest('hex');
    expect(digest).toBe('48f0deb3007b70b51b0f07b2628fe47ccb53742148392c4eadfc79c730bfeb66');
  });

  it('has all services, methods, messages and fields', () => {
    const services = v1.nestedArray.filter((nested) => nested instanceof protobuf.Service);
    expect(Object.fromEntries(services.map((service) => [service.name, service.methodsArray.length]))).toEqual({
      Identity: 3,
      Controller: 17,
      GroupController: 4,
      SnapshotMetadata: 2,
      Node: 10,
    });
    expect(all.length).toBe(104);
    expect(all.reduce((sum, type) => sum + type.fieldsArray.length, 0)).toBe(216);
  });

  it('marks exactly the fields named secrets as secret', () => {
    const marked = all.flatMap((type) => type.fieldsArray.filter((field) => field.options?.['(csi_secret)'] === true));
    const named = all.flatMap((type) => type.fieldsArray.filter((field) => field.name === 'secrets'));
    expect(marked.map((field) => field.fullName)).toEqual(named.map((field) => field.fullName));
    expect(marked.length).toBe(22);
    expect(marked.every((field) => field.map)).toBe(true);
  });

  it('loads with the loader that gRPC tools use', () => {
    const definition = protoLoader.loadSync('csi/v1/csi.proto', {
      includeDirs: [new URL('../../../proto', import.meta.url).pathname],
      keepCase: true,
    });
    const metadata = definition['csi.v1.SnapshotMetadata'] as protoLoader.ServiceDefinition;
    expect(metadata.GetMetadataDelta).toMatchObject({
      path: '/csi.v1.SnapshotMetadata/GetMetadataDelta',
      requestStream: false,
      responseStream: true,
    });
  });
});
