import type { Clock } from '../base/index.js';
import { nativeBinding } from '../hotpath/index.js';
import type { StreamNet } from './byte-stream.js';
import { NativeNet } from './native-net.js';
import { NodeNet } from './node-net.js';
import type { StreamSecurity } from './security.js';

export { parseStreamAddress } from './address.js';
export type { ByteStream, ReceiveSlab, StreamHandler, StreamListener, StreamNet } from './byte-stream.js';
export { NativeNet } from './native-net.js';
export { NodeNet } from './node-net.js';
export type { StreamSecurity } from './security.js';

/**
 * The thread's way to streams: native where it was built. With `security` all of them are TLS. Throws
 * FAILED_PRECONDITION/BadCertificate when the certificates can't be used.
 */
export function openNet(clock: Clock, security: StreamSecurity | null = null): StreamNet {
  const native = nativeBinding();
  return native === null ? new NodeNet(clock, security) : new NativeNet(native, clock, security);
}

/**
 * Has the thread look for the next event for up to so many microseconds before it sleeps, once that has paid (decision 029). 0: it
 * sleeps at once, as it does where there is no native crate. To be called once for a thread.
 */
export function startBusyPoll(mostUs: number): void {
  if (mostUs > 0) nativeBinding()?.startBusyPoll(mostUs);
}
