import type { csi } from '../../rpc/index.js';

/** `ready` may throw FAILED_PRECONDITION where the plugin can't work at all. */
export async function probe(ready: () => Promise<boolean>): Promise<csi.ProbeResponse> {
  return { ready: { value: await ready() } };
}
