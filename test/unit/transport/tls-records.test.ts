// What native streams make of records, from a peer that follows RFC 8446 by the letter, and from one that does not; and both ways with
// OpenSSL's own program.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { type ByteStream, NativeNet, type StreamListener } from '../../../src/transport/index.js';
import { TestAuthority } from '../../lib/authority.js';
import { lcg } from '../../lib/recording-disk.js';
import { kinds, TlsPeer } from '../../lib/tls-peer.js';
import { Probe } from './probe.js';

const native = nativeBinding();
const authority = await TestAuthority.make();
const trust = await authority.trust('storage/node-1');
const { ca, certificate: cert, key } = await authority.credentials('storage/node-2');

describe.skipIf(native === null)('records of a native stream', () => {
  const net = new NativeNet(native!, realClock, { trust, logger: silentLogger });
  let listener: StreamListener;
  let port = 0;
  let accepted: (stream: ByteStream) => void = () => {};
  const closing: (() => void)[] = [];

  beforeAll(async () => {
    listener = await net.listen('127.0.0.1:0', (stream) => accepted(stream));
    port = Number(listener.address.split(':')[1]);
  });
  afterEach(() => {
    for (const close of closing.splice(0)) close();
  });
  afterAll(() => listener.close());

  async function pair(): Promise<{ peer: TlsPeer; far: Probe }> {
    const stream = new Promise<ByteStream>((resolve) => {
      accepted = resolve;
    });
    const peer = await TlsPeer.connect(port, { ca, cert, key });
    const far = new Probe(await stream);
    closing.push(
      () => peer.socket.destroy(),
      () => far.stream.destroy(),
    );
    return { peer, far };
  }

  const text = (words: string) => Buffer.from(words);

  it('may be padded, empty, as large as they get, cut anywhere and joined, and change keys', async () => {
    const { peer, far } = await pair();
    const full = Buffer.alloc(1 << 14, 7);
    peer.send(
      peer.record(kinds.data, text('a'), 1000),
      peer.record(kinds.data, text('')),
      peer.record(kinds.data, text(''), 500),
      peer.record(kinds.data, full),
      peer.keyUpdate(),
      peer.record(kinds.data, text('b')),
      // A warning that means nothing, and one message over two records.
      peer.record(kinds.alert, Buffer.from([1, 90])),
    );
    await far.until(() => far.bytes === full.length + 2);
    const [first, second] = [Buffer.from([24, 0]), Buffer.from([0, 1, 0])];
    peer.send(peer.record(kinds.handshake, first));
    const rest = peer.record(kinds.handshake, second);
    await realClock.sleep(20);
    peer.send(rest);
    await realClock.sleep(20);
    expect(far.closes).toEqual([]);
    expect(far.all.equals(Buffer.concat([text('a'), full, text('b')]))).toBe(true);
  });

  it('come together out of single bytes', async () => {
    const { peer, far } = await pair();
    for (const byte of Buffer.concat([
      peer.record(kinds.data, text('one')),
      peer.keyUpdate(),
      peer.record(kinds.data, text('two')),
    ])) {
      peer.socket.write(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await far.until(() => far.bytes === 6);
    expect(far.all.toString()).toBe('onetwo');
  });

  it('have new keys on the way back when the peer asks for them', async () => {
    const { peer, far } = await pair();
    peer.send(peer.keyUpdate(1), peer.keyUpdate(1), peer.record(kinds.data, text('x')));
    await far.until(() => far.bytes === 1);
    far.stream.write(text('answer'));
    expect(await peer.next()).toEqual({ kind: kinds.handshake, body: Buffer.from([24, 0, 0, 1, 0]) });
    expect(await peer.next()).toEqual({ kind: kinds.data, body: text('answer') });
    // Once was enough for both.
    far.stream.write(text('more'));
    expect((await peer.next())!.body.toString()).toBe('more');
  });

  it('end with a word on both sides, and what follows the word is not heard', async () => {
    const { peer, far } = await pair();
    peer.send(
      peer.record(kinds.data, text('last')),
      peer.record(kinds.alert, Buffer.from([1, 0])),
      peer.record(kinds.data, text('late')),
    );
    await far.until(() => far.ends === 1);
    expect(far.all.toString()).toBe('last');
    far.stream.write(text('goodbye'));
    far.stream.end();
    expect((await peer.next())!.body.toString()).toBe('goodbye');
    expect(await peer.next()).toEqual({ kind: kinds.alert, body: Buffer.from([1, 0]) });
    expect(await peer.next()).toBeUndefined();
    await far.until(() => far.closes.length === 1);
    expect(far.closes).toEqual([null]);
  });

  const header = (kind: number, length: number) => Buffer.from([kind, 3, 3, length >> 8, length & 255]);
  const update = Buffer.from([24, 0, 0, 1, 0]);
  /** With the alerts that say it (RFC 8446, section 6); rustls closes without one where there is none. */
  const bad: Record<string, { make: (peer: TlsPeer) => Buffer[]; alerts: number[] }> = {
    'a record longer than any may be': {
      make: () => [header(23, (1 << 14) + 257), Buffer.alloc(1 << 15)],
      alerts: [20, 22],
    },
    'more plaintext than a record may hold': {
      make: (peer) => [peer.record(kinds.data, Buffer.alloc((1 << 14) + 1))],
      alerts: [22],
    },
    'more padding than a record may hold': {
      make: (peer) => [peer.record(kinds.data, Buffer.alloc(10), 1 << 14)],
      alerts: [22],
    },
    'a record too short for its tag': { make: () => [header(23, 7), Buffer.alloc(7)], alerts: [20, 50] },
    'an empty record': { make: () => [header(23, 0)], alerts: [20, 50] },
    'a record of padding alone': { make: (peer) => [peer.odd(Buffer.alloc(40))], alerts: [] },
    'a record of an unknown kind inside': { make: (peer) => [peer.record(99, Buffer.alloc(8))], alerts: [10, 50] },
    'a change of ciphers': { make: () => [header(20, 1), Buffer.from([1])], alerts: [10, 20] },
    'a handshake in plain text': { make: () => [header(22, 5), update], alerts: [10, 20, 50] },
    'an alert in plain text': { make: () => [header(21, 2), Buffer.from([1, 0])], alerts: [10, 20, 50] },
    'an alert of one byte': { make: (peer) => [peer.record(kinds.alert, Buffer.from([1]))], alerts: [50] },
    'a key update that asks for something else': {
      make: (peer) => [peer.record(kinds.handshake, Buffer.from([24, 0, 0, 1, 2]))],
      alerts: [47, 50],
    },
    'a key update with more behind it': {
      make: (peer) => [peer.record(kinds.handshake, Buffer.concat([update, update]))],
      alerts: [10],
    },
    'old keys after an update': {
      make: (peer) => [peer.record(kinds.handshake, update), peer.record(kinds.data, text('old'))],
      alerts: [20],
    },
    'a ticket, from a client': {
      make: (peer) => [peer.record(kinds.handshake, Buffer.from([4, 0, 0, 4, 0, 0, 0, 0]))],
      alerts: [10, 50],
    },
    'another hello': { make: (peer) => [peer.record(kinds.handshake, Buffer.from([1, 0, 0, 0]))], alerts: [10, 50] },
    'a message larger than any': {
      make: (peer) => [peer.record(kinds.handshake, Buffer.from([24, 255, 255, 255, 0]))],
      alerts: [],
    },
    'data in the middle of a message': {
      make: (peer) => [peer.record(kinds.handshake, update.subarray(0, 3)), peer.record(kinds.data, text('in'))],
      alerts: [],
    },
    'a record twice': {
      make(peer) {
        const record = peer.record(kinds.alert, Buffer.from([1, 90]));
        return [record, record];
      },
      alerts: [20],
    },
    'records out of order': {
      make(peer) {
        const [first, second] = [peer.record(kinds.data, text('1')), peer.record(kinds.data, text('2'))];
        return [second, first];
      },
      alerts: [20],
    },
    // None of these may keep the thread from others for long.
    'hundreds of records that hold nothing': {
      make: (peer) => Array.from({ length: 500 }, () => peer.record(kinds.data, Buffer.alloc(0), 3)),
      alerts: [],
    },
    'many warnings in a row': {
      make: (peer) => Array.from({ length: 40 }, () => peer.record(kinds.alert, Buffer.from([1, 90]))),
      alerts: [],
    },
    'forty key updates in a row': {
      make: (peer) => Array.from({ length: 40 }, () => peer.keyUpdate()),
      alerts: [],
    },
  };
  for (const [what, { make, alerts }] of Object.entries(bad)) {
    it(`end the stream when there is ${what}`, async () => {
      const { peer, far } = await pair();
      peer.send(peer.record(kinds.data, text('good')));
      await far.until(() => far.bytes === 4);
      peer.send(...make(peer));
      await far.until(() => far.closes.length === 1);
      expect(far.bytes).toBe(4);
      expect(far.closes[0]).toMatchObject({ code: 'EPROTO' });
      // For a reason, and not because something here broke on it.
      expect(far.closes[0]!.message).not.toMatch(/broken invariant/);
      if (alerts.length > 0) {
        const alert = await peer.next();
        expect(alert?.kind).toBe(kinds.alert);
        expect(alerts).toContain(alert!.body[1]);
      }
      expect(await peer.next()).toBeUndefined();
    });
  }

  it('give what was said and nothing else, whatever is mixed into them', async () => {
    const random = lcg(31_2026);
    const below = (limit: number) => Math.floor(random() * limit);
    const bytes = (length: number) => Buffer.from(Array.from({ length }, () => below(256)));
    const reached = new Set<string>();
    for (let run = 0; run < 150; run++) {
      const { peer, far } = await pair();
      const said: Buffer[] = [];
      let sound = true;
      let warnings = 0;
      const say = (body: Buffer, padding: number) => {
        if (sound) said.push(body);
        return peer.record(kinds.data, body, padding);
      };
      const acts: Record<string, () => Buffer> = {
        data: () => say(bytes(below(300)), below(40)),
        large: () => say(bytes(16_000), below(300)),
        update: () => peer.keyUpdate(below(2)),
        // rustls takes four of them.
        warning: () => (++warnings > 4 ? say(bytes(1), 0) : peer.record(kinds.alert, Buffer.from([1, 90]), below(9))),
        wrong() {
          sound = false;
          const wrong = [
            () => bytes(5 + below(60)),
            () => peer.record(below(256) | 24, bytes(below(20)), below(20)),
            () => peer.record(kinds.handshake, Buffer.concat([Buffer.from([below(26), 0, below(3)]), bytes(below(9))])),
            () => peer.odd(bytes(below(40)), 24 + below(200)),
            () => header(23, below(65_536)),
            () => {
              const record = peer.record(kinds.data, bytes(30));
              record[below(record.length)]! ^= 1 << below(8);
              return record;
            },
          ];
          return wrong[below(wrong.length)]!();
        },
      };
      const names = Object.keys(acts);
      const records: Buffer[] = [];
      for (let i = 0; i < 12; i++) {
        const name = names[below(10) < 9 ? below(names.length - 1) : names.length - 1]!;
        reached.add(name);
        records.push(acts[name]!());
      }
      const all = Buffer.concat(records);
      for (let at = 0; at < all.length; ) {
        const step = 1 + below(below(2) === 0 ? 40 : 20_000);
        peer.socket.write(all.subarray(at, at + step));
        at += step;
        if (below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      peer.socket.end();
      await far.until(() => far.closes.length === 1);
      // Nobody has said goodbye, so that no stream ends well.
      expect(far.closes[0]).not.toBeNull();
      const expected = Buffer.concat(said);
      const heard = far.all;
      expect(expected.subarray(0, heard.length).equals(heard), `run ${run}`).toBe(true);
      if (sound) expect(heard.length, `run ${run}`).toBe(expected.length);
      far.stream.destroy();
      peer.socket.destroy();
      closing.length = 0;
    }
    expect([...reached].sort()).toEqual(['data', 'large', 'update', 'warning', 'wrong']);
  });

  const openssl = spawnSync('openssl', ['version']).status === 0;
  describe.skipIf(!openssl)("with OpenSSL's program", () => {
    let dir: string;
    beforeAll(() => {
      dir = mkdtempSync(join(tmpdir(), 'holdfast-tls-'));
      for (const [name, pem] of Object.entries({ ca, cert, key })) writeFileSync(join(dir, name), pem);
    });
    afterAll(() => rmSync(dir, { recursive: true }));

    function run(...args: string[]): {
      child: ChildProcess;
      said: () => string;
      until: (what: RegExp) => Promise<RegExpExecArray>;
    } {
      const files = ['-cert', join(dir, 'cert'), '-key', join(dir, 'key'), '-CAfile', join(dir, 'ca')];
      const child = spawn('openssl', [...args, ...files, '-tls1_3'], { stdio: ['pipe', 'pipe', 'pipe'] });
      closing.push(() => void child.kill('SIGKILL'));
      let output = '';
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk));
      const until = async (what: RegExp) => {
        for (let i = 0; i < 500; i++) {
          const found = what.exec(output);
          if (found !== null) return found;
          await realClock.sleep(10);
        }
        throw new Error(`${what} was not said: ${output}`);
      };
      return { child, said: () => output, until };
    }

    it('as client: data both ways, new keys on demand, an end', async () => {
      const stream = new Promise<ByteStream>((resolve) => {
        accepted = resolve;
      });
      const { child, until } = run('s_client', '-connect', `127.0.0.1:${port}`, '-verify_return_error');
      const far = new Probe(await stream);
      closing.push(() => far.stream.destroy());
      await until(/Verify return code: 0/);
      const lines = ['one\n', 'two\n', 'three\n'];
      for (const [i, line] of lines.entries()) {
        child.stdin!.write(line);
        await far.until(() => far.all.toString().endsWith(line));
        far.stream.write(text(`echo ${line}`));
        await until(new RegExp(`echo ${line}`));
        // With and without being asked for ours.
        child.stdin!.write(i === 0 ? 'K\n' : 'k\n');
        await until(i === 0 ? /KEYUPDATE/ : /(KEYUPDATE[\s\S]*){2}/);
      }
      expect(far.all.toString()).toBe(lines.join(''));
      far.stream.end();
      await until(/closed/);
    });

    it('as server, tickets and all', async () => {
      const { child, until } = run('s_server', '-accept', '127.0.0.1:0', '-Verify', '2', '-verify_return_error');
      const [, at] = await until(/ACCEPT 127\.0\.0\.1:(\d+)/);
      const near = new Probe(await net.connect(`127.0.0.1:${at}`, 3000));
      closing.push(() => near.stream.destroy());
      for (const [i, line] of ['one\n', 'two\n', 'three\n'].entries()) {
        near.stream.write(text(`sent ${line}`));
        await until(new RegExp(`sent ${line}`));
        child.stdin!.write(line);
        await near.until(() => near.all.toString().endsWith(line));
        child.stdin!.write(i === 0 ? 'K\n' : 'k\n');
        await realClock.sleep(50);
      }
      expect(near.all.toString()).toBe('one\ntwo\nthree\n');
      // It goes without a word, which is not taken for an end.
      child.stdin!.write('Q\n');
      await near.until(() => near.ends + near.closes.length > 0);
      expect(near.closes[0]).toMatchObject({ code: 'ECONNRESET' });
    });
  });
});
