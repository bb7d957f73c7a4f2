// nbdkit's file plugin with its defaults (16 threads, page cache): the fastest plain NBD server at hand. A flush is an fdatasync.

import { type PeerKind, preallocate } from './socket-server.js';

export const nbdkitFile: PeerKind = {
  name: 'nbdkit-file',
  title: 'nbdkit file',
  flush: 'yes',
  features: 'page cache; no encryption, checksum or compression',
  program: 'nbdkit',
  package: 'nbdkit',
  prepare: (files) => [preallocate(files)],
  args: ({ socket, image }) => ['--foreground', '--exit-with-parent', '--unix', socket, 'file', image],
};
