import type { Clock } from '../base/index.js';
import { nativeBinding } from '../hotpath/index.js';
import type { StreamNet } from './byte-stream.js';
import { NativeNet } from './native-net.js';
import { NodeNet } from './node-net.js';

export { parseStreamAddress } from './address.js';
export type { ByteStream, ReceiveSlab, StreamHandler, StreamListener, StreamNet } from './byte-stream.js';
export { NativeNet } from './native-net.js';
export { NodeNet } from './node-net.js';

/** The thread's way to streams: native where it was built. */
export function openNet(clock: Clock): StreamNet {
  const native = nativeBinding();
  return native === null ? new NodeNet(clock) : new NativeNet(native, clock);
}
