// What the guest (kernel-nbd-guest.ts) is asked to do, and how it answers.

/** Each row in a machine of its own, at the same time as the others. */
export const kernelNbdRows = [
  [
    'attach, flush, FUA, discard, detach',
    'kill -9 of the storage daemon under fio',
    'a deposed volume fails at once and goes',
    'read-only, and detach by force',
    'ext4 and xfs keep what was written',
    'grows under a mounted filesystem',
    "two volumes never get each other's device",
  ],
  [
    'kill -9 of the holder loses no device',
    'FLUSH and FUA reach the disks of all replicas, and a killed storage daemon is waited for',
  ],
] as const;

export const kernelNbdScenarios = kernelNbdRows.flat();
export type KernelNbdScenario = (typeof kernelNbdScenarios)[number];

export interface ScenarioResult {
  readonly name: KernelNbdScenario;
  readonly ms: number;
  /** Figures worth showing. */
  readonly detail: string;
  /** Empty when all was right. */
  readonly error: string;
}
