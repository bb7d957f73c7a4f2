// A caller that is not ours: plain grpc-js with proto-loader, so that it can send what our own client refuses to.

import { spawnSync } from 'node:child_process';
import { Client, credentials, type ServiceError, status } from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const protoFolder = new URL('../../../proto', import.meta.url).pathname;

/** Calls `service`.`method` with an object (64-bit integers as text) or with raw bytes. */
export function makeRaw(
  address: string,
  service: string,
  method: string,
  request: object,
): Promise<{ code: string; message: string }> {
  const file = service.startsWith('csi.') ? 'csi/v1/csi.proto' : 'holdfast/v1/metadata.proto';
  const loaded = protoLoader.loadSync(file, { includeDirs: [protoFolder], keepCase: true });
  const definition = (loaded[service] as protoLoader.ServiceDefinition)[method]!;
  const client = new Client(address.replace('unix://', 'unix:'), credentials.createInsecure());
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      definition.path,
      (message: object) => (Buffer.isBuffer(message) ? message : definition.requestSerialize(message)),
      (bytes: Buffer) => bytes,
      request,
      (error: ServiceError | null) => {
        client.close();
        resolve({ code: status[error?.code ?? 0]!, message: error?.details ?? '' });
      },
    );
  });
}

/** A socket file whose process is gone. */
export function leaveStaleSocket(path: string): void {
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', script]);
}
