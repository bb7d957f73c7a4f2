// What the native crate (native/) exports, one interface a part. Every part has a twin in TypeScript or Node.

/** native/src/seal.rs. Twin: kernel-twin.ts. */
export interface NativeKernel {
  /** Version of this interface; the loader takes no other. */
  nativeVersion(): number;
}

/** native/src/net.rs. Twin: node:net. */
// biome-ignore lint/suspicious/noEmptyInterface: filled by the transport
export interface NativeNet {}

/** native/src/disk.rs. Twin: node:fs. */
// biome-ignore lint/suspicious/noEmptyInterface: filled by the disk port
export interface NativeDisk {}

export interface NativeBinding extends NativeKernel, NativeNet, NativeDisk {}
