// qemu-nbd with O_DIRECT and native AIO, as its documentation advises for a device of one's own: raw (the fair partner of one
// plain copy), LUKS (AES-256-XTS without integrity) and qcow2 (metadata preallocated). A flush is an fdatasync.

import { writeFileSync } from 'node:fs';
import { type PeerFiles, type PeerKind, preallocate } from './socket-server.js';

const common = { flush: 'yes', program: 'qemu-nbd', package: 'qemu-utils' } as const;

function serve({ socket }: PeerFiles, ...image: string[]): string[] {
  return [
    ...['--persistent', '--shared=0', '--cache=none', '--aio=native', '--discard=unmap'],
    ...['--socket', socket, ...image],
  ];
}

export const qemuRaw: PeerKind = {
  ...common,
  name: 'qemu-nbd-raw',
  title: 'qemu-nbd raw',
  features: 'O_DIRECT, native AIO; no encryption, checksum or compression',
  prepare: (files) => [preallocate(files)],
  args: (files) => serve(files, '--format=raw', files.image),
};

const secret = (key: string) => ['--object', `secret,id=key,file=${key}`];

export const qemuLuks: PeerKind = {
  ...common,
  name: 'qemu-nbd-luks',
  title: 'qemu-nbd LUKS',
  features: 'O_DIRECT, native AIO; AES-256-XTS; no integrity, no compression',
  prepare(files) {
    writeFileSync(files.key, 'a passphrase of the bench', { mode: 0o600 });
    // The time spent on deriving the key matters when unlocking only.
    const options = 'key-secret=key,iter-time=10,preallocation=falloc';
    return [
      ['qemu-img', 'create', ...secret(files.key), '-f', 'luks', '-o', options, files.image, String(files.sizeBytes)],
    ];
  },
  args(files) {
    const image = `driver=luks,key-secret=key,file.driver=file,file.filename=${files.image},file.aio=native`;
    return serve(files, ...secret(files.key), '--image-opts', image);
  },
};

export const qemuQcow2: PeerKind = {
  ...common,
  name: 'qemu-nbd-qcow2',
  title: 'qemu-nbd qcow2',
  features: 'O_DIRECT, native AIO; no encryption, checksum or compression',
  prepare: ({ image, sizeBytes }) => [
    ['qemu-img', 'create', '-f', 'qcow2', '-o', 'preallocation=falloc', image, String(sizeBytes)],
  ],
  args: (files) => serve(files, '--format=qcow2', files.image),
};
