//! Compression of single records. LZ4: block format, without frame or size prefix. Zstandard: one whole frame at level 1.

use std::cell::RefCell;
use std::os::raw::{c_char, c_int};
use zstd_safe::{CCtx, CParameter, DCtx};

use crate::lz4;
use crate::record::PAYLOAD_MAX;

pub const COMPRESSION_NONE: u8 = 0;
pub const COMPRESSION_LZ4: u8 = 1;
pub const COMPRESSION_ZSTD: u8 = 2;

/// Higher levels cost several times the CPU for a few percent of a 16 KiB run.
const ZSTD_LEVEL: i32 = 1;

extern "C" {
    // Of the LZ4 library that lz4-sys brings; it declares only a part of its interface.
    fn LZ4_decompress_safe_partial(source: *const c_char, target: *mut c_char, length: c_int, wanted: c_int, room: c_int) -> c_int;
}

pub struct Scratch {
    /// A record's payload, being decrypted.
    pub packed: Vec<u8>,
    /// A whole run of which only a part is wanted.
    pub plain: Vec<u8>,
    table: lz4::Table,
    zstd_seal: Option<CCtx<'static>>,
    zstd_open: Option<DCtx<'static>>,
}

thread_local! {
    pub static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        packed: vec![0; PAYLOAD_MAX],
        plain: vec![0; PAYLOAD_MAX],
        table: lz4::Table::new(),
        zstd_seal: None,
        zstd_open: None,
    });
}

impl Scratch {
    /// Compresses into `out`; the length, or 0 when that would not save one sixteenth (`out` then holds anything).
    pub fn compress(&mut self, compression: u8, source: &[u8], out: &mut [u8]) -> usize {
        if compression == COMPRESSION_NONE || looks_random(source) {
            return 0;
        }
        let out = &mut out[..source.len() - source.len() / 16];
        match compression {
            COMPRESSION_LZ4 => lz4::compress(source, out, &mut self.table),
            COMPRESSION_ZSTD => self.compress_zstd(source, out),
            _ => 0,
        }
    }

    fn compress_zstd(&mut self, source: &[u8], out: &mut [u8]) -> usize {
        if self.zstd_seal.is_none() {
            self.zstd_seal = CCtx::try_create().and_then(|mut context| {
                context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)).ok()?;
                // The record says how long the content is and has a checksum of its own.
                context.set_parameter(CParameter::ContentSizeFlag(false)).ok()?;
                Some(context)
            });
        }
        match &mut self.zstd_seal {
            // What does not fit is an error, and kept uncompressed.
            Some(context) => context.compress2(out, source).unwrap_or(0),
            None => 0,
        }
    }

    /// Decompresses all of `payload` into exactly `into`. False when it is malformed or of another length.
    pub fn decompress_zstd(&mut self, payload: usize, into: &mut [u8]) -> bool {
        if self.zstd_open.is_none() {
            self.zstd_open = DCtx::try_create();
        }
        match &mut self.zstd_open {
            Some(context) => context.decompress(into, &self.packed[..payload]) == Ok(into.len()),
            None => false,
        }
    }
}

/// Decompresses from `payload` the first `wanted` bytes, at most `into.len()`, which is the length of the whole. True when they are
/// there; when all is wanted, the whole must have exactly that length.
pub fn decompress_lz4(payload: &[u8], into: &mut [u8], wanted: usize) -> bool {
    let room = into.len();
    if wanted > room || room > PAYLOAD_MAX || payload.is_empty() || payload.len() > PAYLOAD_MAX {
        return false;
    }
    // SAFETY: both slices are valid for the lengths given, which fit c_int; the library writes at most `room` bytes and reads at
    // most `length`, whatever the input.
    let done = unsafe {
        let (source, target) = (payload.as_ptr().cast(), into.as_mut_ptr().cast());
        if wanted == room {
            lz4_sys::LZ4_decompress_safe(source, target, payload.len() as c_int, room as c_int)
        } else {
            LZ4_decompress_safe_partial(source, target, payload.len() as c_int, wanted as c_int, room as c_int)
        }
    };
    if wanted == room { done == room as c_int } else { done >= wanted as c_int }
}

const SAMPLES: usize = 128;
/// Of 128 random bytes 101 are distinct, within 5 either way; text has about 40, a block that is random for seven eighths 91.
const DISTINCT_MAX: u32 = 92;

/// Whether it is not worth while to try: bytes taken evenly from all over are as good as random. Of data that LZ4 can shrink, only
/// long repeats of random bytes look like that.
pub fn looks_random(source: &[u8]) -> bool {
    let step = source.len() / SAMPLES;
    let mut seen = [0u8; 256];
    for i in 0..SAMPLES {
        seen[source[i * step] as usize] = 1;
    }
    let distinct: u32 = seen.chunks_exact(16).map(|part| part.iter().sum::<u8>() as u32).sum();
    distinct > DISTINCT_MAX
}
