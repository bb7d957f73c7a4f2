// Simulated crashes and damage: the real engine and replicas on recording disks and virtual time. HOLDFAST_SEED and HOLDFAST_CUTS
// choose which and how many. `npx vitest run -c test/vitest.crash.config.ts`.

import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/crash/**/*.test.ts'],
    pool: 'forks',
    testTimeout: 600_000,
    reporters: ['default'],
  },
});
