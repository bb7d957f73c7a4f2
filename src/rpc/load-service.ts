// Reads proto/ once a process and turns a service in it into what server and client need: paths and (de)serialisers.

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';
import { asHoldfastError, assert, type HoldfastError } from '../base/index.js';
import { decodeMessage, encodeMessage } from './codec.js';

/** Stands for a message that could not be decoded, so that the call is answered with the reason and not a bare INTERNAL. */
export class Undecodable {
  readonly error: HoldfastError;
  constructor(error: unknown) {
    this.error = asHoldfastError(error);
  }
}

export interface LoadedMethod {
  readonly name: string;
  /** "/package.Service/Method" */
  readonly path: string;
  readonly responseStream: boolean;
  readonly requestType: protobuf.Type;
  readonly responseType: protobuf.Type;
  readonly serializeRequest: (message: object) => Buffer;
  readonly serializeResponse: (message: object) => Buffer;
  readonly deserializeRequest: (bytes: Buffer) => object;
  readonly deserializeResponse: (bytes: Buffer) => object;
}

/** A service of a .proto file; `D` and `H` are its generated types (service-types.ts). */
export interface LoadedService<D, H> {
  /** With its package, e.g. "csi.v1.Controller". */
  readonly name: string;
  readonly methods: readonly LoadedMethod[];
  /** Types only; never set. */
  readonly types?: { readonly definition: D; readonly handlers: H };
}

const roots = new Map<string, protobuf.Root>();
const require = createRequire(import.meta.url);

/** The package's proto folder, from src/ as well as from dist/src/. */
function protoFolder(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  for (const up of ['../..', '../../..']) {
    const folder = join(here, up, 'proto');
    if (existsSync(join(folder, 'csi/v1/csi.proto'))) return folder;
  }
  throw new Error(`the proto folder of this installation is missing (looked above ${here}); install Holdfast again`);
}

function rootOf(file: string): protobuf.Root {
  const known = roots.get(file);
  if (known !== undefined) return known;
  const folder = protoFolder();
  const root = new protobuf.Root();
  root.resolvePath = (_origin, target) =>
    target.startsWith('google/') ? require.resolve(`protobufjs/${target}`) : join(folder, target);
  root.loadSync(file, { keepCase: true });
  root.resolveAll();
  roots.set(file, root);
  return root;
}

function orUndecodable(type: protobuf.Type): (bytes: Buffer) => object {
  return (bytes) => {
    try {
      return decodeMessage(type, bytes);
    } catch (error) {
      return new Undecodable(error);
    }
  };
}

/** Loads service `name` ("csi.v1.Controller") from `file` ("csi/v1/csi.proto", below proto/). */
export function loadService<D, H>(file: string, name: string): LoadedService<D, H> {
  const service = rootOf(file).lookupService(name);
  const methods = service.methodsArray.map((method): LoadedMethod => {
    method.resolve();
    const { resolvedRequestType: requestType, resolvedResponseType: responseType } = method;
    assert(requestType && responseType && !method.requestStream, `${name}.${method.name} is a call we can't serve`);
    return {
      name: method.name,
      path: `/${name}/${method.name}`,
      responseStream: method.responseStream === true,
      requestType,
      responseType,
      serializeRequest: (message) => encodeMessage(requestType, message),
      serializeResponse: (message) => encodeMessage(responseType, message),
      deserializeRequest: orUndecodable(requestType),
      deserializeResponse: orUndecodable(responseType),
    };
  });
  return { name, methods };
}
