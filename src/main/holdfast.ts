#!/usr/bin/env node
// `holdfast COMMAND`: the one program, by the part it plays. Exit code 0 after a clean end, 1 with one line on standard error
// otherwise. SIGTERM and SIGINT end a command cleanly, a second one at once.

import { messageOf } from '../base/index.js';

interface Command {
  readonly summary: string;
  /** It has its own rules for SIGTERM and SIGINT. */
  readonly ownSignals?: boolean;
  run(argv: string[], signal: AbortSignal): Promise<number | undefined>;
  usage(): Promise<string>;
}

// Loaded when asked for: a holder must not carry the memory of a controller.
const commands: Readonly<Record<string, Command>> = {
  controller: {
    summary: 'decides where volumes live and serves CSI Controller',
    async run(argv, signal) {
      await (await import('./controller.js')).runController(argv, signal);
      return 0;
    },
    usage: async () => (await import('./controller.js')).controllerUsage,
  },
  storage: {
    summary: 'keeps replicas and runs the engines of the volumes of a node',
    async run(argv, signal) {
      await (await import('./storage.js')).runStorage(argv, signal);
      return 0;
    },
    usage: async () => (await import('./storage-config.js')).storageUsage,
  },
  node: {
    summary: 'serves CSI Node: stages and publishes volumes',
    async run(argv, signal) {
      await (await import('./node.js')).runNode(argv, signal);
      return 0;
    },
    usage: async () => (await import('./node.js')).nodeUsage,
  },
  attach: {
    summary: 'holds one attached volume; started by "holdfast node"',
    // Nothing but detach ends a holder.
    ownSignals: true,
    run: async (argv) => (await import('./attach.js')).attachCommand(argv),
    usage: async () => 'holdfast attach --volume ID --run-dir DIR --daemon unix:///path\n',
  },
  status: {
    summary: 'shows nodes and volumes, and why they are not as they should be',
    run: async (argv, signal) => (await import('./operator.js')).runStatus(argv, signal),
    usage: async () => (await import('./operator.js')).statusUsage,
  },
  drain: {
    summary: 'moves all replicas off a node or a pool, or takes that order back',
    run: async (argv, signal) => (await import('./operator.js')).runDrain(argv, signal),
    usage: async () => (await import('./operator.js')).drainUsage,
  },
  replace: {
    summary: 'gives one replica of a volume up, and has another one made',
    run: async (argv, signal) => (await import('./operator.js')).runReplace(argv, signal),
    usage: async () => (await import('./operator.js')).replaceUsage,
  },
  forget: {
    summary: 'gives up a node that never returns',
    run: async (argv, signal) => (await import('./operator.js')).runForget(argv, signal),
    usage: async () => (await import('./operator.js')).forgetUsage,
  },
  'accept-loss': {
    summary: 'lets a volume go on without replicas that are missing for good',
    run: async (argv, signal) => (await import('./operator.js')).runAcceptLoss(argv, signal),
    usage: async () => (await import('./operator.js')).acceptLossUsage,
  },
  rescue: {
    summary: 'reads volumes, and rebuilds the metadata, out of pools alone',
    run: async (argv, signal) => (await import('./rescue.js')).runRescue(argv, signal),
    usage: async () => (await import('./rescue.js')).rescueUsage,
  },
  certs: {
    summary: 'makes certificates, where there is no other issuer',
    async run(argv) {
      await (await import('./certs.js')).runCerts(argv);
      return 0;
    },
    usage: async () => (await import('./certs.js')).certsUsage,
  },
  dev: {
    summary: 'a whole cluster on this machine, as child processes',
    async run(argv, signal) {
      await (await import('./dev.js')).runDev(argv, signal);
      return 0;
    },
    usage: async () => (await import('./dev.js')).devUsage,
  },
  demo: {
    summary: 'shows the life of a replicated volume on this machine',
    ownSignals: true,
    run: async (argv) => (await import('./demo.js')).runDemo(argv),
    usage: async () => (await import('./demo.js')).demoUsage,
  },
};

function overview(): string {
  const lines = Object.entries(commands).map(([name, command]) => `  ${name.padEnd(12)} ${command.summary}`);
  return `usage: holdfast COMMAND [flags]\n\n${lines.join('\n')}\n\n"holdfast COMMAND --help" shows the flags of one.\n`;
}

/** A parent that keeps our standard input open wants us gone when it is gone, however it ended. */
function endWithParent(stop: AbortController): void {
  process.stdin.on('end', () => stop.abort());
  process.stdin.on('error', () => stop.abort());
  process.stdin.resume();
}

async function main(argv: string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === '--help' || name === 'help') {
    (name === undefined ? process.stderr : process.stdout).write(overview());
    return name === undefined ? 1 : 0;
  }
  if (name === '--version') {
    process.stdout.write(`${(await import('./version.js')).productVersion()}\n`);
    return 0;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command) {
    process.stderr.write(`holdfast: there is no command ${JSON.stringify(name.slice(0, 60))}\n${overview()}`);
    return 1;
  }
  if (rest.includes('--help')) {
    process.stdout.write(await command.usage());
    return 0;
  }
  const stop = new AbortController();
  if (command.ownSignals !== true) {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        if (stop.signal.aborted) process.exit(1);
        stop.abort();
      });
    }
    if (process.env.HOLDFAST_END_WITH_STDIN === '1') endWithParent(stop);
  }
  try {
    return (await command.run(rest, stop.signal)) ?? 0;
  } catch (error) {
    process.stderr.write(`holdfast ${name}: ${messageOf(error)}\n`);
    return 1;
  }
}

// Whatever is still pending after a command has ended (a connection attempt, a timer) must not keep the process.
process.exit(await main(process.argv.slice(2)));
