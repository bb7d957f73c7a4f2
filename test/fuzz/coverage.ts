// How much of some source files was run, by V8's own counters. Characters of code, not branches: a measure of what a target does not
// reach, no more.

import { Session } from 'node:inspector';

interface FunctionCoverage {
  readonly ranges: readonly { readonly startOffset: number; readonly endOffset: number; readonly count: number }[];
}
interface ScriptCoverage {
  readonly url: string;
  readonly functions: readonly FunctionCoverage[];
}

/** Starts counting; the function returned says how many percent of the files below src/ with these beginnings were run. */
export function startCoverage(sources: readonly string[]): () => number {
  const session = new Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: true });
  return () => {
    let [run, all] = [0, 0];
    session.post('Profiler.takePreciseCoverage', (error, taken) => {
      if (error !== null) throw error;
      for (const script of taken.result as ScriptCoverage[]) {
        if (!sources.some((source) => script.url.includes(`/src/${source}`))) continue;
        const text = painted(script.functions);
        all += text.length;
        run += text.reduce((sum, reached) => sum + reached, 0);
      }
    });
    session.disconnect();
    return all === 0 ? 0 : Math.round((100 * run) / all);
  };
}

/** One byte a character: 1 if it was run. Inner ranges come after the outer ones. */
function painted(functions: readonly FunctionCoverage[]): Uint8Array {
  const end = Math.max(...functions.flatMap(({ ranges }) => ranges.map(({ endOffset }) => endOffset)));
  const text = new Uint8Array(end);
  for (const { ranges } of functions)
    for (const { startOffset, endOffset, count } of ranges) text.fill(count > 0 ? 1 : 0, startOffset, endOffset);
  return text;
}
