// Calls of every gRPC service with any bytes for their messages: CSI Controller, GroupController, SnapshotMetadata, Identity and
// Node, and Volume, Replica, Node and Metadata of our own. Each is answered: well, or with an error that names what is wrong and is
// nobody's internal one; no secret of a request stands in it; what the store then holds are whole records.
//
// An input: per call service (u8, over all), method (u8), two unused bytes, length (u32), message.

import { EventEmitter } from 'node:events';
import type { ServerUnaryCall, ServerWritableStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { isUuid, realClock, silentLogger } from '../../../src/base/index.js';
import type { VolumeRecord } from '../../../src/meta/index.js';
import { CallDesk, type StreamHandler, type UnaryHandler } from '../../../src/rpc/calls.js';
import type { ServiceBinding } from '../../../src/rpc/index.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { volumeId } from '../../unit/agent/fakes.js';
import { mutateBytes } from '../mutate.js';
import { mutateMessage } from '../protobuf.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';
import { turns } from '../wire-peers.js';
import { controllerSteps, GrpcScene, otherSteps, parts, SECRET, type Step } from './grpc-scene.js';

const HEAD = 8;
const CALLS_MAX = 30;

interface RawCall {
  readonly service: number;
  readonly method: number;
  readonly message: Buffer;
}

function join(calls: readonly RawCall[]): Buffer {
  return Buffer.concat(
    calls.flatMap(({ service, method, message }) => {
      const head = Buffer.from([service, method, 0, 0, 0, 0, 0, 0]);
      head.writeUInt32LE(message.length, 4);
      return [head, message];
    }),
  );
}
function split(input: Buffer): RawCall[] {
  const calls: RawCall[] = [];
  for (let at = 0; at + HEAD <= input.length && calls.length < CALLS_MAX; ) {
    const length = Math.min(input.readUInt32LE(at + 4), input.length - at - HEAD);
    const message = input.subarray(at + HEAD, at + HEAD + length);
    calls.push({ service: input[at]!, method: input[at + 1]!, message });
    at += HEAD + length;
  }
  return calls;
}

interface Answer {
  readonly code: number;
  readonly details: string;
  readonly responses: Buffer[];
}

class GrpcBench implements FuzzBench {
  readonly seeds: Buffer[] = [];
  /** Part and place of each service. */
  readonly #services: { part: (typeof parts)[number]; index: number; name: string; methods: string[] }[] = [];
  #known: string[] = [volumeId, 'n1', 'n9', 'pvc-a', 'snap-a', 'group-a', 'replicas', 'topology.holdfast.io/node'];

  async prepare(): Promise<this> {
    const scene = new GrpcScene();
    for (const part of parts) {
      for (const [index, binding] of (await scene.services(part)).entries())
        this.#services.push({ part, index, name: binding.name, methods: binding.methods.map(({ name }) => name) });
    }
    await scene.close();
    const [volume, snapshot] = await this.#idsOf();
    this.#known.push(volume, snapshot);
    for (const steps of [controllerSteps(volume, snapshot), ...otherSteps('/nowhere')]) {
      const calls = await this.#encode(steps);
      this.seeds.push(join(calls));
      // Each by itself with what made its volume.
      const first = calls[0]!;
      for (const one of calls.slice(1)) this.seeds.push(join([first, one]));
    }
    return this;
  }

  /** The ids that a cluster gives to the first volume and its first snapshot. */
  async #idsOf(): Promise<[string, string]> {
    const scene = new GrpcScene();
    const steps = controllerSteps('', '');
    const ask = async (step: Step) => {
      const [one] = await this.#encode([step]);
      const { binding, method } = await this.#find(scene, one!);
      const { responses, details } = await answerOf(binding, method, one!.message);
      must(responses.length === 1, details);
      return binding.methods[method]!.deserializeResponse(responses[0]!) as Record<string, Record<string, string>>;
    };
    const volume = (await ask(steps[0]!)).volume!.volume_id!;
    const made = await ask(controllerSteps(volume, '').find(({ method }) => method === 'CreateSnapshot')!);
    await scene.close();
    return [volume, made.snapshot!.snapshot_id!];
  }

  async #encode(steps: readonly Step[]): Promise<RawCall[]> {
    const scene = new GrpcScene();
    const calls: RawCall[] = [];
    for (const { service, method, request } of steps) {
      const at = this.#services.findIndex(({ name }) => name === service);
      const { methods, part, index } = this.#services[at]!;
      const binding = (await scene.services(part))[index]!;
      const number = methods.indexOf(method);
      calls.push({ service: at, method: number, message: binding.methods[number]!.serializeRequest(request) });
    }
    await scene.close();
    return calls;
  }

  async #find(scene: GrpcScene, { service, method }: RawCall): Promise<{ binding: ServiceBinding; method: number }> {
    const { part, index, methods } = this.#services[service % this.#services.length]!;
    return { binding: (await scene.services(part))[index]!, method: method % methods.length };
  }

  mutate(input: Buffer, chance: Chance): Buffer {
    const calls = split(input);
    for (let i = chance.between(1, 2); i > 0 && calls.length > 0; i--) {
      const at = chance.below(calls.length);
      const one = calls[at]!;
      const dice = chance.next();
      if (dice < 0.05) calls.splice(at, 1);
      else if (dice < 0.1) calls.splice(at, 0, one);
      else if (dice < 0.13)
        calls[at] = { ...one, service: chance.below(this.#services.length), method: chance.below(20) };
      else if (dice < 0.2) calls[at] = { ...one, message: mutateBytes(one.message, chance) };
      else calls[at] = { ...one, message: mutateMessage(one.message, chance, this.#known) };
    }
    return join(calls);
  }

  async run(input: Buffer): Promise<string> {
    const scene = new GrpcScene();
    const met: string[] = [];
    try {
      for (const one of split(input)) {
        const { binding, method } = await this.#find(scene, one);
        const answer = await answerOf(binding, method, one.message);
        this.#judge(binding, method, answer, isSecretIn(binding, method, one.message));
        met.push(`${binding.methods[method]!.name} ${status[answer.code]}`);
      }
      await judgeStore(scene);
    } finally {
      await scene.close();
    }
    return [...new Set(met)].sort().join(', ').slice(0, 200);
  }

  #judge(binding: ServiceBinding, method: number, { code, details, responses }: Answer, secret: boolean): void {
    const name = `${binding.name}/${binding.methods[method]!.name}`;
    must(code !== status.INTERNAL && code !== status.UNKNOWN, () => `${name} answers ${status[code]}: ${details}`);
    must(code === status.OK || details.length > 0, () => `${name} answers ${status[code]} and does not say why`);
    must(!secret || !details.includes(SECRET), () => `${name} tells a secret: ${details}`);
    for (const bytes of responses) binding.methods[method]!.deserializeResponse(bytes);
  }

  async close(): Promise<void> {}
}

/** Whether only fields for secrets hold it: a change may have moved it to where anything may be told. */
function isSecretIn(binding: ServiceBinding, at: number, message: Buffer): boolean {
  const request = binding.methods[at]!.deserializeRequest(Buffer.from(message));
  return !JSON.stringify(request, (key, value) => (key === 'secrets' ? undefined : value)).includes(SECRET);
}

/** As the server answers it, without the network. */
async function answerOf(binding: ServiceBinding, at: number, message: Buffer): Promise<Answer> {
  const method = binding.methods[at]!;
  const unexpected: unknown[] = [];
  const desk = new CallDesk({
    ...{ clock: realClock, logger: silentLogger, maxCalls: 100, trust: null },
    onUnexpected: (error) => unexpected.push(error),
  });
  const call = Object.assign(new EventEmitter(), {
    request: method.deserializeRequest(Buffer.from(message)),
    cancelled: false,
    getDeadline: () => Number.POSITIVE_INFINITY,
    getAuthContext: () => ({}),
    write: (bytes: Buffer) => responses.push(bytes) > 0,
    end: () => {},
  });
  const responses: Buffer[] = [];
  let failure: { code: number; details: string } | null = null;
  const failed = (error: { code?: number; details?: string }) => {
    failure = { code: error.code ?? status.UNKNOWN, details: error.details ?? '' };
  };
  call.on('error', failed);
  const handler = binding.handlers[method.name]!.bind(binding.handlers);
  if (method.responseStream) {
    const done = desk.stream(
      binding,
      method,
      handler as StreamHandler,
    )(call as unknown as ServerWritableStream<object, Buffer>);
    // A watch has no end of its own.
    if (method.name === 'Watch') await turns(4).then(() => call.emit('cancelled'));
    await done;
  } else {
    await desk.unary(
      binding,
      method,
      handler as UnaryHandler,
    )(call as unknown as ServerUnaryCall<object, Buffer>, (error, bytes) => {
      if (error !== null && error !== undefined) failed(error as { code?: number; details?: string });
      else responses.push(bytes as Buffer);
    });
  }
  if (unexpected.length > 0) throw unexpected[0];
  return { ...(failure ?? { code: status.OK, details: '' }), responses };
}

async function judgeStore(scene: GrpcScene): Promise<void> {
  const { store } = await scene.cluster();
  const { entries } = await store.list<VolumeRecord>('volume/', { limit: 1000 });
  for (const { key, value } of entries) {
    // What was put there through Metadata.CompareAndSwap is not ours to judge.
    if (!isUuid(key.slice(7)) || value.parameters === undefined) continue;
    const { sizeBytes, replicas, inSync, state, parameters } = value;
    must(
      Number.isSafeInteger(sizeBytes) && sizeBytes > 0 && sizeBytes % 4096 === 0,
      () => `${key} has ${sizeBytes} bytes`,
    );
    must(replicas.length <= 5 && parameters.replicas <= 5, () => `${key} has ${replicas.length} replicas`);
    must(state !== 'ready' || inSync.length > 0, () => `${key} is ready with nothing in sync`);
  }
}

export const grpc: FuzzTarget = {
  name: 'grpc',
  sources: [
    'csi/',
    'control/',
    'rpc/codec',
    'rpc/calls',
    'meta/metadata-service',
    'agent/volume-service',
    'agent/replica-service',
  ],
  shortCases: 200,
  open: () => new GrpcBench().prepare(),
};
