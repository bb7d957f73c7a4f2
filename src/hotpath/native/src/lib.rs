//! The native parts of Holdfast, loaded by `src/hotpath/native.ts`. Every function here has a TypeScript twin that is used
//! where this crate could not be built. Rules: no input may make it panic across the boundary, read or write outside the
//! buffers it was given, or keep a buffer beyond the call it was given in.

mod buffers;
mod busy_poll;
mod compress;
mod disk;
mod frame;
mod keys;
mod lz4;
mod net;
mod reads;
mod record;
mod seal;
mod tls;
mod tls_session;
mod uv;

/// To be raised with every change of `native-binding.ts`, there and here.
#[napi_derive::napi]
pub fn native_version() -> u32 {
    11
}
