// The controller of a simulated cluster: one process at the store's place, with the real control plane. It dies and comes back as
// others do; the store, being a file, outlives it.

import type { Logger, NodeId, Random } from '../../src/base/index.js';
import { type Control, createControl, type Daemons, nodeService } from '../../src/control/index.js';
import { holdfastServices } from '../../src/rpc/index.js';
import type { SimNet } from './net.js';
import { SimProcess } from './process.js';
import { type Served, simClient } from './rpc.js';
import { type SimStore, storeNode } from './store.js';

export interface ControllerParts {
  readonly net: SimNet;
  readonly store: SimStore;
  readonly random: Random;
  readonly logger: Logger;
  /** The daemon that serves on a node now. */
  readonly daemonOf: (nodeId: NodeId) => Served | null;
  readonly failed: (error: unknown) => void;
}

/** Thin pools: what volumes may grow to is not what they hold. */
const OVERCOMMIT = 1_000;

export class Controller implements Served {
  readonly process: SimProcess;
  readonly control: Control;
  readonly services: Served['services'];

  constructor(parts: ControllerParts) {
    const { net, store, random, logger } = parts;
    this.process = new SimProcess(net.time, 'controller');
    const metadata = store.forController(this.process);
    this.control = createControl({
      store: metadata,
      daemons: daemonsFor(parts, this.process),
      clock: this.process,
      random,
      logger,
      maxVolumesPerNode: 0,
      overcommit: OVERCOMMIT,
      goneAfterMs: 0,
    });
    this.services = [nodeService(this.control.nodes, metadata)];
    // It ends with the process: nothing that it waits for comes any more.
    this.control.reconciler.run(new AbortController().signal).catch(parts.failed);
  }
}

function daemonsFor({ net, daemonOf }: ControllerParts, caller: SimProcess): Daemons {
  const partsTo = (nodeId: NodeId) => ({ net, caller, from: storeNode, to: nodeId, served: () => daemonOf(nodeId) });
  return {
    volume: ({ id }) => simClient(holdfastServices.volume(), partsTo(id)),
    replica: ({ id }) => simClient(holdfastServices.replica(), partsTo(id)),
    close: () => {},
  };
}
