// The judge of linearizable registers is judged: histories that some order explains pass, others don't.

import { describe, expect, it } from 'vitest';
import { RegisterHistory } from '../../sim/registers.js';

describe('a register', () => {
  it('may be read as either of two writes under way, but not back and forth', () => {
    const fine = new RegisterHistory();
    fine.began(0, 1, 1);
    fine.began(0, 2, 2);
    fine.read(0, 1, 3, 4);
    fine.read(0, 2, 5, 6);
    fine.acknowledged(0, 1, 7);
    fine.acknowledged(0, 2, 8);
    expect(() => fine.check()).not.toThrow();
    fine.read(0, 1, 9, 10);
    expect(() => fine.check()).toThrow('not linearizable');
  });

  it('does not forget what was acknowledged', () => {
    const history = new RegisterHistory();
    history.read(0, 0, 1, 2);
    history.began(0, 1, 3);
    history.acknowledged(0, 1, 4);
    expect(() => history.check()).not.toThrow();
    history.read(0, 0, 5, 6);
    expect(() => history.check()).toThrow('not linearizable');
  });

  it('does not show an older write after a newer one was acknowledged, by whichever engine', () => {
    const history = new RegisterHistory();
    history.began(0, 1, 1);
    history.acknowledged(0, 1, 2);
    history.began(0, 2, 3);
    history.acknowledged(0, 2, 4);
    history.read(0, 1, 5, 6);
    expect(() => history.check()).toThrow('not linearizable');
  });

  it('may show a write that was never answered, at any time after it began, and then stays with it', () => {
    const history = new RegisterHistory();
    history.began(0, 1, 1);
    history.acknowledged(0, 1, 2);
    history.began(0, 2, 3);
    history.read(0, 1, 4, 5);
    history.read(0, 2, 90, 91);
    expect(() => history.check()).not.toThrow();
    history.read(0, 1, 92, 93);
    expect(() => history.check()).toThrow('not linearizable');
  });

  it('begins anew with what a crash has left', () => {
    const history = new RegisterHistory();
    for (const [value, at] of [
      [1, 1],
      [2, 3],
    ] as const) {
      history.began(0, value, at);
      history.acknowledged(0, value, at + 1);
    }
    history.newEra(() => 1);
    history.read(0, 1, 10, 11);
    expect(() => history.check()).not.toThrow();
    history.read(0, 2, 12, 13);
    history.read(0, 1, 14, 15);
    expect(() => history.check()).toThrow('not linearizable');
  });

  it('shows nothing before it was written', () => {
    const history = new RegisterHistory();
    history.began(0, 1, 10);
    history.read(0, 1, 1, 2);
    expect(() => history.check()).toThrow('before it began');
  });
});
