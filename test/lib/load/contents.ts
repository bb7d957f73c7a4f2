// Bytes that name themselves: what a writer put into each unit of a file, so that a reader can tell the newest
// acknowledged content from any other, and say of wrong bytes whose and how old they are.

/** A unit as it was last written: by which writer, as its how manyth write. 0: never. */
export interface Written {
  readonly writer: number;
  readonly serial: number;
}

const magic = 0x48_46_56_31;
const poolBytes = 1 << 20;

/** mulberry32 over 0..1. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The contents of one load. Half of the units compress well, half do not. */
export class Contents {
  readonly unitBytes: number;
  readonly #pool: Buffer;
  readonly #expected: Buffer;

  constructor(unitBytes: number, seed: number) {
    this.unitBytes = unitBytes;
    this.#pool = Buffer.alloc(poolBytes + unitBytes);
    const random = seededRandom(seed);
    for (let at = 0; at < this.#pool.length; at += 4) this.#pool.writeUInt32LE((random() * 4_294_967_296) >>> 0, at);
    this.#expected = Buffer.alloc(unitBytes);
  }

  /** Fills one unit of `into` at `at`. */
  fill(into: Buffer, at: number, unit: number, written: Written): void {
    if (written.serial === 0) {
      into.fill(0, at, at + this.unitBytes);
      return;
    }
    const mixed = Math.imul(unit * 31 + written.serial, 0x9e3779b1) >>> 0;
    if (mixed & 1) this.#pool.copy(into, at, (mixed >>> 1) % poolBytes, ((mixed >>> 1) % poolBytes) + this.unitBytes);
    else into.fill(mixed & 0xff, at, at + this.unitBytes);
    into.writeUInt32LE(magic, at);
    into.writeUInt32LE(unit, at + 4);
    into.writeUInt32LE(written.writer, at + 8);
    into.writeUInt32LE(written.serial, at + 12);
  }

  /** Null when the unit holds what was written, else what it holds instead. */
  check(bytes: Buffer, at: number, unit: number, written: Written): string | null {
    this.fill(this.#expected, 0, unit, written);
    if (this.#expected.compare(bytes, at, at + this.unitBytes) === 0) return null;
    return `unit ${unit} (byte ${unit * this.unitBytes}) should hold ${name(written)}, it holds ${this.#describe(bytes.subarray(at, at + this.unitBytes))}`;
  }

  #describe(found: Buffer): string {
    if (found.every((byte) => byte === 0)) return 'zeroes';
    if (found.readUInt32LE(0) !== magic) return `foreign bytes ${found.subarray(0, 24).toString('hex')}...`;
    const unit = found.readUInt32LE(4);
    const written = { writer: found.readUInt32LE(8), serial: found.readUInt32LE(12) };
    const whole = Buffer.alloc(this.unitBytes);
    this.fill(whole, 0, unit, written);
    return `${name(written)} of unit ${unit}${whole.equals(found) ? '' : ', torn or damaged'}`;
  }
}

function name({ writer, serial }: Written): string {
  return serial === 0 ? 'zeroes (never written)' : `write ${serial} of writer ${writer}`;
}
