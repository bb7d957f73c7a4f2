export { BareReplica } from './bare-replica.js';
export { LocalReplica } from './local-replica.js';
export {
  type CreateReplica,
  type PoolReport,
  ReplicaHost,
  type ReplicaHostOptions,
  type ReplicaReport,
  type RetireReplica,
  type UnopenedPool,
} from './replica-host.js';
export type { StopEngine } from './stop-engine.js';
