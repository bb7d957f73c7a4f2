// How often blocks were overwritten lately, so that the cleaner puts hot survivors and cold ones into different segments: a segment
// whose records die together is emptied cheaply. Owner: one engine; memory only, forgotten at close.
//
// One small counter per group of adjacent blocks, raised by each write. A hand goes round the counters as fast as blocks are written
// and halves what it passes: once the whole volume's worth was written, every counter was halved once. No timer, no sweep.

/** Of memory, whatever the volume's size: 16 Mi counters of four bits. Up to 64 GiB that is one for each block. */
const COUNTERS_MOST = 16 * 1024 * 1024;
const HOTTEST = 15;

export class BlockHeat {
  readonly #blocks: () => number;
  /** Two counters a byte. Made with the first write that counts, made anew when the volume outgrows it. */
  #counters = new Uint8Array(0);
  #count = 0;
  #groupShift = 0;
  #hand = 0;
  /** Blocks written that the hand has not moved for yet. */
  #owed = 0;

  /** `blocks`: of the volume now. */
  constructor(blocks: () => number) {
    this.#blocks = blocks;
  }

  wrote(block: number, run: number): void {
    const first = Math.floor(block / (1 << this.#groupShift));
    if (first >= this.#count) return this.#resize(block, run);
    const value = this.#get(first);
    if (value < HOTTEST) this.#set(first, value + 1);
    this.#owed += run;
    const group = 1 << this.#groupShift;
    while (this.#owed >= group) {
      this.#owed -= group;
      this.#hand = this.#hand + 1 < this.#count ? this.#hand + 1 : 0;
      this.#set(this.#hand, this.#get(this.#hand) >> 1);
    }
  }

  /** 0 (cold, or never heard of) to 15. */
  of(block: number): number {
    const group = Math.floor(block / (1 << this.#groupShift));
    return group < this.#count ? this.#get(group) : 0;
  }

  #resize(block: number, run: number): void {
    const blocks = this.#blocks();
    if (block >= blocks) return;
    this.#groupShift = 0;
    while (blocks / 2 ** this.#groupShift > COUNTERS_MOST) this.#groupShift++;
    this.#count = Math.ceil(blocks / 2 ** this.#groupShift);
    this.#counters = new Uint8Array(Math.ceil(this.#count / 2));
    this.#hand = 0;
    this.wrote(block, run);
  }

  #get(group: number): number {
    const pair = this.#counters[group >> 1]!;
    return group & 1 ? pair >> 4 : pair & 15;
  }
  #set(group: number, value: number): void {
    const at = group >> 1;
    const pair = this.#counters[at]!;
    this.#counters[at] = group & 1 ? (pair & 15) | (value << 4) : (pair & 240) | value;
  }
}
