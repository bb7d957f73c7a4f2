// One after the other, in the order of asking. The controller runs every step that reads several records and then writes an
// intent through one such queue, so that no two of them decide on what the other is about to change: a volume is not deleted
// between a snapshot's look at it and the snapshot's record, a pool's room is not promised twice, a node's last place is not
// given away twice. The steps touch the store alone. The server bounds how many calls there are, and with them this queue.

export class SerialQueue {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work, work);
    this.#last = mine.catch(() => {});
    return mine;
  }
}
