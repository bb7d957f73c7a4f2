// Memory that O_DIRECT accepts. Node's buffers lie wherever malloc put them; WebAssembly memory is reserved from the
// system in whole pages, so its start is page-aligned by construction, with no native code of ours.

interface WasmMemory {
  readonly buffer: ArrayBuffer;
}

// Part of every JavaScript engine, but named in the type library of browsers only.
const wasm = (
  globalThis as unknown as { WebAssembly: { Memory: new (size: { initial: number; maximum: number }) => WasmMemory } }
).WebAssembly;

const wasmPageBytes = 65_536;

/** A zeroed buffer of `length` bytes that starts at a page boundary (64 KiB granularity of allocation). */
export function alignedBuffer(length: number): Buffer {
  const pages = Math.ceil(length / wasmPageBytes);
  return Buffer.from(new wasm.Memory({ initial: pages, maximum: pages }).buffer, 0, length);
}
