export { BareReplica } from './bare-replica.js';
export { LocalReplica } from './local-replica.js';
export {
  type CreateReplica,
  ReplicaHost,
  type ReplicaHostOptions,
  type RetireReplica,
  type UnopenedPool,
} from './replica-host.js';
export type { PoolReport, ReplicaReport, UnreadPool } from './replica-report.js';
export type { StopEngine } from './stop-engine.js';
