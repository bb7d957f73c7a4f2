// What the guest (kernel-nbd-guest.ts) is asked to do, and how it answers.

export const kernelNbdScenarios = [
  'attach, flush, FUA, discard, detach',
  'ext4 and xfs keep what was written',
  'kill -9 of the storage daemon under fio',
  'kill -9 of the holder loses no device',
  'grows under a mounted filesystem',
  'a deposed volume fails at once and goes',
  'read-only, and detach by force',
  "two volumes never get each other's device",
] as const;

export type KernelNbdScenario = (typeof kernelNbdScenarios)[number];

export interface ScenarioResult {
  readonly name: KernelNbdScenario;
  readonly ms: number;
  /** Figures worth showing. */
  readonly detail: string;
  /** Empty when all was right. */
  readonly error: string;
}
