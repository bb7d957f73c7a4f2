import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/{unit,conformance,golden,tidy,fuzz}/**/*.test.ts'],
    pool: 'forks',
    testTimeout: 20_000,
    reporters: ['default'],
  },
});
