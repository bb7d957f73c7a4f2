// Finds and loads the native crate once per thread. Where it was not built, or HOLDFAST_NATIVE is `off`, there is none and every user
// takes its twin; nothing else changes, for the formats are the same.

import { constants } from 'node:os';
import { join } from 'node:path';
import type { NativeBinding } from './native-binding.js';

/** To be raised with every change of native-binding.ts, here and in native/src/lib.rs. */
const NATIVE_VERSION = 11;

/** Beside the compiled loader (the build copies it there), else where cargo leaves it, seen from src/ and from a dist folder. */
const places = [
  'holdfast-native.node',
  'native/target/release/libholdfast_native.so',
  '../../../src/hotpath/native/target/release/libholdfast_native.so',
];

function load(): NativeBinding | null {
  if (process.env.HOLDFAST_NATIVE === 'off') return null;
  for (const place of places) {
    const path = join(import.meta.dirname, place);
    const loaded = { exports: {} as Partial<NativeBinding> };
    try {
      process.dlopen(loaded, path, constants.dlopen.RTLD_NOW);
    } catch (cause) {
      const why = String(cause);
      if (!why.includes(`${path}: cannot open shared object file: No such file`)) {
        process.emitWarning(
          `${path} can't be loaded here; the TypeScript twin is used, at several times the CPU: ${why}`,
        );
      }
      continue;
    }
    if (loaded.exports.nativeVersion?.() === NATIVE_VERSION) return loaded.exports as NativeBinding;
    process.emitWarning(`${path} is of another build and is left alone: run npm run build`);
  }
  return null;
}

let binding: NativeBinding | null | undefined;

/** The native functions, or null: then the twin of each is to be used. */
export function nativeBinding(): NativeBinding | null {
  if (binding === undefined) binding = load();
  return binding;
}
