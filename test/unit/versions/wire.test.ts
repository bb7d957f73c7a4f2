// This release and the next on one connection: both speak the highest version that both know, and where there is none, or where what
// one writes could not be kept by the other, it is said with both numbers.

import { beforeAll, describe, expect, it } from 'vitest';
import { crc32c, type HoldfastError, realRandom, silentLogger } from '../../../src/base/index.js';
import * as wire from '../../../src/wire/index.js';
import { encodeHeader, MESSAGE_HEADER_SIZE, messageType, noReign } from '../../../src/wire/message.js';
import { TappedNet } from '../../fuzz/wire-peers.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { type NextRelease, nextRelease } from '../../lib/next-version.js';
import { PipeNet } from '../../lib/pipe-net.js';
import * as setup from '../../lib/replica-setup.js';
import { ManualClock } from '../nbd/manual-clock.js';

type Release = Pick<NextRelease, 'wire' | 'setup' | 'frames'>;
const today = { wire, setup, frames: { FrameMaker, reignOf, volumeA } } as unknown as Release;
let next: Release;
let later: Release;
let writer: Release;
beforeAll(async () => {
  next = await nextRelease({});
  later = await nextRelease({ protocol: { min: 2, max: 3 } });
  writer = await nextRelease({ writes: 2 });
});

async function pair(net: PipeNet, client: Release, server: Release) {
  const clock = new ManualClock();
  const { host } = await server.setup.freshHost();
  const listening = await server.wire.WireServer.listen(net, 'any', {
    source: host,
    nodeId: setup.nodeA,
    clock,
    logger: silentLogger,
  });
  const options = {
    volumeId: volumeA,
    replicaId: setup.replicaA,
    nodeId: setup.nodeA,
    clock,
    random: realRandom,
    logger: silentLogger,
  };
  const port = client.wire.connectReplica(net, listening.address, options, 1000);
  return { port, close: async () => void (await listening.close()) };
}

/** What a port is for: a frame goes in, is durable, and is read back. */
async function works(port: wire.ReplicaPort): Promise<void> {
  setup.hear(port);
  await port.fence(reignOf(1));
  const { segment, offset, bytes, lastSeq } = new FrameMaker(reignOf(1)).next(300);
  port.append(segment, offset, bytes, lastSeq);
  await setup.synced(port);
  expect((await setup.readBytes(port, segment, 0, bytes.length)).equals(bytes)).toBe(true);
  await port.describe({ setVersion: 9 });
  port.close();
}

describe('two releases on a replica connection', () => {
  it.each([
    ['today', 'today', 1],
    ['today', 'next', 1],
    ['next', 'today', 1],
    ['next', 'next', 2],
    ['next', 'later', 2],
    ['later', 'next', 2],
  ] as const)('%s as engine, %s as replica speak version %i', async (client, server, version) => {
    const releases = { today, next, later };
    const net = new TappedNet();
    const { port, close } = await pair(net, releases[client], releases[server]);
    await works(await port);
    // What is said first is of version 1 for ever; everything after the answer is of the version agreed on.
    const heads = (parts: typeof net.sent) =>
      parts
        .filter(({ bytes }) => bytes.length >= 72 && bytes.toString('latin1', 0, 4) === 'HFW1')
        .map(({ bytes }) => [bytes[6], bytes.readUInt16LE(4)]);
    const sent = heads(net.sent);
    expect(sent.filter(([type]) => type === 1).map(([, spoken]) => spoken)).toEqual([1, 1, 1]);
    expect(new Set(sent.filter(([type]) => type !== 1).map(([, spoken]) => spoken))).toEqual(new Set([version]));
    const answered = heads(net.answered).map(([, spoken]) => spoken);
    expect(answered.slice(0, 1)).toEqual([1]);
    expect(answered.at(-1)).toBe(version);
    await close();
  });

  const refusal = async (client: Release, server: Release): Promise<HoldfastError> => {
    const { port, close } = await pair(new PipeNet(), client, server);
    const error = await port.then(
      () => expect.fail('it was accepted'),
      (thrown: HoldfastError) => thrown,
    );
    await close();
    return error;
  };

  it('that are too far apart say so, whoever asks', async () => {
    for (const [client, server] of [
      [today, later],
      [later, today],
    ] as const) {
      const { code, reason, message } = await refusal(client, server);
      expect([code, reason]).toEqual(['FAILED_PRECONDITION', 'UnknownVersion']);
      expect(message).toMatch(/version 1\b.*versions 2 to 3|versions 2 to 3.*version 1\b/);
      expect(message).toMatch(/upgrade .* one release at a time/);
    }
  });

  it('do not begin where a replica could not check what the engine writes', async () => {
    const { code, reason, message } = await refusal(writer, today);
    expect([code, reason]).toEqual(['FAILED_PRECONDITION', 'UnknownVersion']);
    expect(message).toMatch(/node-a speaks version 1 of the disk format, this process version 2/);
    const { port, close } = await pair(new PipeNet(), writer, next);
    (await port).close();
    await close();
  });

  it('do not speak a version that was not offered', async () => {
    const net = new PipeNet();
    const listener = await net.listen('any', (stream) => {
      const received = (slab: { bytes: Buffer }, from: number, to: number) => {
        const body = Buffer.from(JSON.stringify({ version: 7, nodeId: setup.nodeA, formats: { min: 1, max: 1 } }));
        const head = Buffer.alloc(MESSAGE_HEADER_SIZE);
        const fields = { type: messageType.reply, requestId: slab.bytes.readUInt32LE(from + 8) };
        encodeHeader(head, 0, fields, noReign, body.length, crc32c(body), 1);
        stream.write(Buffer.concat([head, body]));
        return to - from;
      };
      stream.start({
        wanted: 1,
        received,
        drained: () => {},
        ended: () => stream.destroy(),
        closed: () => {},
      } as never);
    });
    const options = {
      ...{ volumeId: volumeA, replicaId: setup.replicaA, nodeId: setup.nodeA, clock: new ManualClock() },
      ...{ random: realRandom, logger: silentLogger },
    };
    await expect(wire.connectReplica(net, listener.address, options, 1000)).rejects.toMatchObject({
      ...{ code: 'FAILED_PRECONDITION', reason: 'Protocol' },
      message: expect.stringContaining('answers in version 7, which was not offered'),
    });
  });
});
