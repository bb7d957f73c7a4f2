// Calls of holdfast.v1 between releases: who speaks no common version is told so, whoever names none speaks the first, and CSI does not care.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { realClock, silentLogger } from '../../../src/base/index.js';
import { identityService } from '../../../src/csi/index.js';
import { metadataService, openMemoryStore } from '../../../src/meta/index.js';
import { createClient, createServer, holdfastServices, type Server } from '../../../src/rpc/index.js';

const dir = mkdtempSync(join(tmpdir(), 'hf-versions-'));
const address = `unix://${dir}/s.sock`;
let server: Server;
let raw: Client;
beforeAll(async () => {
  const identity = identityService({ version: '1', ready: async () => true });
  const services = [metadataService(openMemoryStore()), identity];
  server = await createServer({ address, services, clock: realClock, logger: silentLogger });
  raw = new Client(address.replace('unix://', 'unix:'), credentials.createInsecure());
});
afterAll(async () => {
  raw.close();
  await server.close(0);
  rmSync(dir, { recursive: true });
});

/** Of an empty request, with that range named. */
function answer(path: string, versions: string | null): Promise<ServiceError | null> {
  const metadata = new Metadata();
  if (versions !== null) metadata.set('holdfast-versions', versions);
  const bytes = (value: Buffer) => value;
  return new Promise((resolve) => raw.makeUnaryRequest(path, bytes, bytes, Buffer.alloc(0), metadata, resolve));
}

it('a caller of a later release is answered as long as there is a version in common', async () => {
  for (const versions of [null, '1-1', '1-2', '1-900', 'nonsense'])
    expect(await answer('/holdfast.v1.Metadata/List', versions)).toBe(null);
  for (const versions of ['2-3', '0-0']) {
    const error = await answer('/holdfast.v1.Metadata/List', versions);
    expect(error).toMatchObject({ code: status.FAILED_PRECONDITION });
    expect(error!.metadata.get('holdfast-reason')).toEqual(['UnknownVersion']);
    expect(error!.details).toMatch(
      /speaks versions? [\d to]+ of holdfast\.v1\.Metadata, this process version 1: upgrade/,
    );
  }
  expect(await answer('/csi.v1.Identity/GetPluginInfo', '2-3')).toBe(null);
});

it('a method that an older release does not have is unimplemented, and a field that it does not have is left', async () => {
  expect(await answer('/holdfast.v1.Metadata/CompareAndSwapMany', '1-2')).toMatchObject({ code: status.UNIMPLEMENTED });
  const later = Buffer.from([0xfa, 0x3f, 3, 1, 2, 3]); // Field 1023.
  const bytes = (value: Buffer) => value;
  const error = await new Promise((resolve) =>
    raw.makeUnaryRequest('/holdfast.v1.Metadata/List', bytes, bytes, later, new Metadata(), resolve),
  );
  expect(error).toBe(null);
});

it('this release names its versions', async () => {
  const client = createClient(address, holdfastServices.metadata(), { clock: realClock });
  expect((await client.List({})).entries).toEqual([]);
  client.close();
});
