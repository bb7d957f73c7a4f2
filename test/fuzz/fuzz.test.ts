// Every target: what is in its corpus, and a few hundred changed inputs by a fixed seed. The long form is `npm run fuzz`.

import { expect, it } from 'vitest';
import { fuzz, SHORT_CASES } from './driver.js';
import { fuzzTargets } from './targets/index.js';

it.each(fuzzTargets.map((target) => [target.name, target] as const))('%s', async (_name, target) => {
  const { failure } = await fuzz(target, { seed: 1, cases: target.shortCases ?? SHORT_CASES });
  if (failure === null) return;
  const input = failure.input.toString('base64').slice(0, 4000);
  expect.fail(`case ${failure.index ?? 'of the corpus'}: ${failure.error.stack}\ninput: ${input}`);
});
