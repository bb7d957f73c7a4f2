// `holdfast rescue` in this process, with what it says.

import { vi } from 'vitest';
import { runRescue } from '../../src/main/rescue.js';

export interface RescueOutcome {
  readonly code: number;
  readonly events: { event: string; [key: string]: unknown }[];
  readonly warnings: string;
}

/** Rejects as the command does. */
export function rescue(...argv: string[]): Promise<RescueOutcome> {
  return rescueUntil(new AbortController().signal, ...argv);
}

export async function rescueUntil(signal: AbortSignal, ...argv: string[]): Promise<RescueOutcome> {
  let out = '';
  let warnings = '';
  const stdout = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += text;
    return true;
  });
  const stderr = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    warnings += text;
    return true;
  });
  try {
    const code = await runRescue([...argv, '--json'], signal);
    const lines = out.split('\n').filter((line) => line !== '');
    return { code, warnings, events: lines.map((line) => JSON.parse(line)) };
  } finally {
    stdout.mockRestore();
    stderr.mockRestore();
  }
}
