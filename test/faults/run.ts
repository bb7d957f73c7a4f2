// One run: a cluster, loads on it, faults, the verdict, and the end of all of it, however it went.

import { GiB, messageOf, realClock } from '../../src/base/index.js';
import { leftovers } from '../lib/dev-cluster.js';
import { FaultCluster } from './cluster.js';
import type { Load } from './loads/load.js';
import { namespacesMissing } from './namespaces.js';
import { allFaults, Nemesis } from './nemesis.js';
import type { Options } from './options.js';
import { Report } from './report.js';
import { Rig } from './rig.js';
import { startLoads } from './setup.js';
import { checkAtTheEnd } from './verdict.js';

const poolBytes = 3 * GiB;

export interface RunResult {
  readonly violations: readonly string[];
  readonly faults: number;
  readonly acknowledged: number;
}

/** Resolves with what was found, after everything was cleaned up; `signal` ends the run early. */
export async function runFaults(
  options: Options,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<RunResult> {
  const { nodes, seed } = options;
  const network = options.network || chooseNetwork(say);
  const report = new Report(options.slack);
  const loads: Load[] = [];
  const startMs = realClock.monotonicMs();
  let cluster: FaultCluster | undefined;
  let acknowledged = 0;
  try {
    cluster = await FaultCluster.start({ nodes, network, poolBytes });
    say(`faults: ${nodes} nodes in ${cluster.network.kind}, --seed ${seed}`);
    const rig = new Rig(cluster, loads, say);
    const work = async () => {
      await startLoads(cluster!, seed, options.light, loads, say);
      await rig.whole();
      await strikeAll(rig, options, report, signal);
      if (!signal.aborted) await checkAtTheEnd(rig);
    };
    await Promise.race([work(), aborted(signal)]);
  } catch (error) {
    report.violations.push(messageOf(error));
    if (options.verbose && cluster) say(cluster.logs(40));
  } finally {
    acknowledged = loads.reduce((sum, load) => sum + load.acknowledged, 0);
    for (const load of loads) await load.kill().catch((error) => say(messageOf(error)));
    await cluster?.stop();
  }
  const left = cluster ? leftovers(cluster.dir) : [];
  if (left.length > 0) report.violations.push(`left behind: ${left.join('\n')}`);
  say(`\n${report.table()}\n`);
  const seconds = Math.round((realClock.monotonicMs() - startMs) / 1000);
  say(
    `${report.count} faults, ${acknowledged} acknowledged writes and transactions checked, ${report.violations.length} violations, ${seconds} s, seed ${seed}`,
  );
  for (const one of report.violations) say(`VIOLATION ${one}`);
  return { violations: report.violations, faults: report.count, acknowledged };
}

function chooseNetwork(say: (text: string) => void): 'namespaces' | 'proxy' {
  const missing = namespacesMissing();
  if (missing === '') return 'namespaces';
  say(
    `network namespaces can't be had (${missing}): TCP proxies stand between the processes instead; they lose no packets`,
  );
  return 'proxy';
}

async function strikeAll(rig: Rig, options: Options, report: Report, signal: AbortSignal): Promise<void> {
  const endMs = realClock.monotonicMs() + options.minutes * 60_000;
  const wanted = allFaults.filter(
    ({ kind }) => options.only.length === 0 || options.only.some((text) => kind.includes(text)),
  );
  if (wanted.length === 0) throw new Error(`no kind of fault is called ${options.only.join(' or ')}`);
  const possible = wanted.filter((fault) => {
    const missing = fault.missing?.(rig) ?? '';
    if (missing !== '') rig.say(`NOT RUN: ${fault.kind}: ${missing}`);
    return missing === '';
  });
  const nemesis = new Nemesis(rig, possible, options.seed, report);
  for (let number = 0; number < options.faults && !signal.aborted; number++) {
    if (realClock.monotonicMs() > endMs) return;
    try {
      await nemesis.strike(number);
    } catch (error) {
      throw new Error(`fault ${number + 1}, ${nemesis.draw(number).kind}: ${messageOf(error)}`, { cause: error });
    }
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = () => reject(new Error('ended by a signal'));
    if (signal.aborted) fail();
    signal.addEventListener('abort', fail, { once: true });
  });
}
