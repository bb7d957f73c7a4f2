// Sizes of the block store's vocabulary (see ARCHITECTURE.md). All are format constants: changing one changes the disk format.

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
export const TiB = 1024 * GiB;

/** A block: the unit of a volume's address space and of the map. */
export const BLOCK_SIZE = 4 * KiB;
/** Records, frames and entries start at multiples of this. */
export const ALIGN = 64;
/** Adjacent blocks that one record may hold. */
export const RUN_MAX = 8;

export function alignUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

const suffixes: Record<string, number> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: KiB,
  Mi: MiB,
  Gi: GiB,
  Ti: TiB,
  Pi: 1024 * TiB,
};

/** A Kubernetes resource quantity ("500", "10k", "1Gi", "1.5M") as a safe integer, or undefined when it is none. */
export function parseQuantity(text: string): number | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?)([kMGTP]i?|Ki)?$/.exec(text.trim());
  if (!match) return undefined;
  const factor = suffixes[match[2] ?? ''];
  if (factor === undefined) return undefined;
  const value = Number(match[1]) * factor;
  return Number.isSafeInteger(value) ? value : undefined;
}

/** "1.5 GiB", for people. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < units.length - 1) {
    value /= 1024;
    index++;
  }
  return `${index === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[index]}`;
}
