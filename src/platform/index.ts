export * from './attach/index.js';
export {
  type Child,
  type ChildOptions,
  createExec,
  type DetachedOptions,
  type Exec,
  ExecError,
  type ExecResult,
  type RunOptions,
} from './exec.js';
export { makeDirectory } from './make-directory.js';
export * from './mount/index.js';
export { type ServiceOptions, type ServiceProcess, spawnService } from './service-process.js';
