import { nativeBinding } from '../../../src/hotpath/index.js';
import type { FuzzTarget } from '../target.js';
import { entries } from './entries.js';
import { frames } from './frames.js';
import { grpc } from './grpc.js';
import { nbd } from './nbd.js';
import { parameters } from './parameters.js';
import { records } from './records.js';
import { superblocks } from './superblock.js';
import { tls } from './tls.js';
import { volumeLog } from './volume-log.js';
import { wireClient } from './wire-client.js';
import { wireServer } from './wire-server.js';

export const fuzzTargets: readonly FuzzTarget[] = [
  ...[records, frames, entries, superblocks, volumeLog],
  ...[wireServer, wireClient, nbd, grpc, parameters, ...(nativeBinding() === null ? [] : [tls])],
];
