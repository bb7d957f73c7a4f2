// CPU time of processes and all their descendants, from /proc/PID/stat (proc(5)): utime + stime of every living process,
// plus what ended children of theirs were charged (cutime + cstime); and of the machine, from /proc/stat.

import { readdirSync, readFileSync } from 'node:fs';
import { errnoOf } from '../src/base/index.js';

/** USER_HZ: the unit of these fields is 1/100 s on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

export interface ProcessStat {
  readonly pid: number;
  readonly parent: number;
  /** utime + stime + cutime + cstime, in ticks. */
  readonly ticks: number;
}

/** Parses one line of /proc/PID/stat. The name in parentheses may hold spaces and parentheses. Undefined when it is none. */
export function parseStat(text: string): ProcessStat | undefined {
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  if (open < 1 || close < open) return undefined;
  const fields = text
    .slice(close + 2)
    .trim()
    .split(' ')
    .map(Number);
  const pid = Number(text.slice(0, open));
  // Behind the name: state(3) ppid(4) ... utime(14) stime(15) cutime(16) cstime(17).
  const parent = fields[1];
  const times = fields.slice(11, 15);
  if (parent === undefined || times.length !== 4 || ![pid, parent, ...times].every(Number.isFinite)) return undefined;
  return { pid, parent, ticks: times.reduce((sum, ticks) => sum + ticks, 0) };
}

/** Ticks of `roots` and their descendants among `processes`. */
export function ticksOfTree(processes: readonly ProcessStat[], roots: readonly number[]): number {
  const children = new Map<number, ProcessStat[]>();
  for (const process of processes) {
    const siblings = children.get(process.parent);
    if (siblings) siblings.push(process);
    else children.set(process.parent, [process]);
  }
  const waiting = processes.filter((process) => roots.includes(process.pid));
  const seen = new Set<number>();
  let ticks = 0;
  for (let process = waiting.pop(); process !== undefined; process = waiting.pop()) {
    if (seen.has(process.pid)) continue;
    seen.add(process.pid);
    ticks += process.ticks;
    waiting.push(...(children.get(process.pid) ?? []));
  }
  return ticks;
}

function allProcesses(): ProcessStat[] {
  const found: ProcessStat[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = parseStat(readFileSync(`/proc/${name}/stat`, 'latin1'));
      if (stat) found.push(stat);
    } catch (error) {
      // Processes end while the list is walked.
      if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ESRCH') throw error;
    }
  }
  return found;
}

/** Seconds of CPU that `roots` and their descendants have used so far. */
export function cpuSecondsOf(roots: readonly number[]): number {
  return cpuSecondsOfEach([roots])[0]!;
}

/** The same of several sets of processes, at one moment. */
export function cpuSecondsOfEach(sets: readonly (readonly number[])[]): number[] {
  const processes = allProcesses();
  return sets.map((roots) => ticksOfTree(processes, roots) / TICKS_PER_SECOND);
}

export interface MachineTicks {
  readonly all: number;
  /** Waiting for a disk, too. */
  readonly idle: number;
  /** Taken by the host for other guests. */
  readonly stolen: number;
}

/** The first line of /proc/stat: user nice system idle iowait irq softirq steal. */
export function parseMachine(text: string): MachineTicks {
  const fields = (/^cpu\s+([\d ]+)/.exec(text)?.[1] ?? '').split(' ').slice(0, 8).map(Number);
  const [, , , idle = 0, wait = 0, , , stolen = 0] = fields;
  return { all: fields.reduce((sum, ticks) => sum + ticks, 0), idle: idle + wait, stolen };
}

export function machineTicks(): MachineTicks {
  return parseMachine(readFileSync('/proc/stat', 'latin1'));
}
