//! One record: sealing and opening. Layout: src/format/FORMAT.md, "Record".

use crc_fast::{checksum, CrcAlgorithm::Crc32Iscsi};
use ring::aead::{Aad, Nonce, Tag};

use crate::buffers::{read_u32, read_u64, write_u32, write_u64};
use crate::compress::{decompress_lz4, Scratch, COMPRESSION_LZ4, COMPRESSION_NONE, COMPRESSION_ZSTD};
use crate::keys::{Rings, CIPHER_NONE};

pub const BLOCK: usize = 4096;
pub const RUN_MAX: usize = 8;
pub const PAYLOAD_MAX: usize = RUN_MAX * BLOCK;
pub const HEADER: usize = 48;
pub const TAG: usize = 16;
pub const MAGIC: u32 = 0x3145_4648;
pub const KIND_RECORD: u8 = 1;
/// No number of the format is larger.
pub const SAFE: u64 = (1 << 53) - 1;

/// Most bytes a record of `run` blocks takes, padding included.
pub fn size_max(run: usize) -> usize {
    padded(HEADER + run * BLOCK + TAG)
}

pub fn padded(length: usize) -> usize {
    (length + 63) & !63
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum(Crc32Iscsi, bytes) as u32
}

fn nonce(record_number: u64) -> Nonce {
    let mut bytes = [0u8; 12];
    bytes[4..].copy_from_slice(&record_number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Lineage, then the record's own bytes 8 to 47.
fn associated(lineage: &[u8; 16], record: &[u8]) -> Aad<[u8; 16 + HEADER - 8]> {
    let mut bytes = [0u8; 16 + HEADER - 8];
    bytes[..16].copy_from_slice(lineage);
    bytes[16..].copy_from_slice(&record[8..HEADER]);
    Aad::from(bytes)
}

pub struct Sealing<'a> {
    pub rings: &'a mut Rings,
    pub scratch: &'a mut Scratch,
    pub ring: u32,
    pub epoch: u64,
    pub cipher: u8,
    pub compression: u8,
}

/// Seals `source`, 1 to 8 whole blocks, at the start of `out`, which has room for size_max(). The length without padding (which is
/// zeroed), or None without a key.
pub fn seal(sealing: &mut Sealing, block: u64, record_number: u64, source: &[u8], out: &mut [u8]) -> Option<usize> {
    let packed = sealing.scratch.compress(sealing.compression, source, &mut out[HEADER..]);
    let (payload, compression) =
        if packed == 0 { (source.len(), COMPRESSION_NONE) } else { (packed, sealing.compression) };
    let end = HEADER + payload;
    if packed == 0 {
        out[HEADER..end].copy_from_slice(source);
    }
    let length = if sealing.cipher == CIPHER_NONE { end } else { end + TAG };
    write_u32(out, 0, MAGIC);
    write_u32(out, 8, length as u32);
    out[12] = KIND_RECORD;
    out[13] = (source.len() / BLOCK) as u8;
    out[14] = compression | sealing.cipher << 4;
    out[15] = 0;
    write_u64(out, 16, block);
    write_u64(out, 24, sealing.epoch);
    write_u64(out, 32, record_number);
    write_u32(out, 40, payload as u32);
    write_u32(out, 44, 0);
    if sealing.cipher != CIPHER_NONE {
        let (lineage, keys) = sealing.rings.find(sealing.ring, sealing.epoch, sealing.cipher)?;
        let aad = associated(&lineage, out);
        let tag = keys.record.seal_in_place_separate_tag(nonce(record_number), aad, &mut out[HEADER..end]).ok()?;
        out[end..length].copy_from_slice(tag.as_ref());
    }
    let checksum = crc32c(&out[8..length]);
    write_u32(out, 4, checksum);
    out[length..padded(length)].fill(0);
    Some(length)
}

/// Why a record can't be opened, as numbers of `openFaults` in kernel.ts.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None = 0,
    Checksum = 1,
    Header = 2,
    Address = 3,
    NoKey = 4,
    Tag = 5,
    Content = 6,
}

/// Opens a record that must hold `block` and the blocks after it that `into` has room for. `stored` may be longer than the record.
/// On a fault nothing of `into` counts.
pub fn open(rings: &mut Rings, scratch: &mut Scratch, ring: u32, stored: &[u8], block: u64, into: &mut [u8]) -> Fault {
    if stored.len() < HEADER || read_u32(stored, 0) != MAGIC || stored[12] != KIND_RECORD {
        return Fault::Header;
    }
    let length = read_u32(stored, 8) as usize;
    if length > stored.len() || length < HEADER {
        return Fault::Header;
    }
    let record = &stored[..length];
    if crc32c(&record[8..]) != read_u32(record, 4) {
        return Fault::Checksum;
    }
    let run = record[13] as usize;
    let (compression, cipher) = (record[14] & 15, record[14] >> 4);
    let payload = read_u32(record, 40) as usize;
    let end = length - if cipher == CIPHER_NONE { 0 } else { TAG };
    if run < 1 || run > RUN_MAX || end < HEADER || payload != end - HEADER || payload > run * BLOCK {
        return Fault::Header;
    }
    if [16, 24, 32].iter().any(|at| read_u64(record, *at) > SAFE) {
        return Fault::Header;
    }
    let count = into.len() / BLOCK;
    let index = match block.checked_sub(read_u64(record, 16)) {
        Some(index) if index < run as u64 && index as usize + count <= run => index as usize,
        _ => return Fault::Address,
    };
    let size = run * BLOCK;
    let (from, to) = (index * BLOCK, (index + count) * BLOCK);
    let whole = count == run;
    // Uncompressed and wanted whole: decrypted where it is wanted. Everything else goes through scratch memory.
    if whole && compression == COMPRESSION_NONE && payload == size {
        into.copy_from_slice(&record[HEADER..end]);
        return decrypt(rings, ring, cipher, record, end, into);
    }
    scratch.packed[..payload].copy_from_slice(&record[HEADER..end]);
    match decrypt(rings, ring, cipher, record, end, &mut scratch.packed[..payload]) {
        Fault::None => {}
        fault => return fault,
    }
    let good = match compression {
        COMPRESSION_NONE if payload == size => {
            into.copy_from_slice(&scratch.packed[from..to]);
            true
        }
        COMPRESSION_LZ4 if whole => decompress_lz4(&scratch.packed[..payload], into, size),
        COMPRESSION_LZ4 => {
            let Scratch { packed, plain, .. } = scratch;
            let good = decompress_lz4(&packed[..payload], &mut plain[..size], to);
            into.copy_from_slice(&plain[from..to]);
            good
        }
        COMPRESSION_ZSTD if whole => scratch.decompress_zstd(payload, into),
        COMPRESSION_ZSTD => {
            let mut plain = std::mem::take(&mut scratch.plain);
            let good = scratch.decompress_zstd(payload, &mut plain[..size]);
            into.copy_from_slice(&plain[from..to]);
            scratch.plain = plain;
            good
        }
        _ => false,
    };
    if good { Fault::None } else { Fault::Content }
}

fn decrypt(rings: &mut Rings, ring: u32, cipher: u8, record: &[u8], end: usize, payload: &mut [u8]) -> Fault {
    if cipher == CIPHER_NONE {
        // A volume with a key has no plain records: who owns a disk must not be able to put one in place of a sealed one.
        return if ring == 0 { Fault::None } else { Fault::Tag };
    }
    let epoch = read_u64(record, 24);
    let number = read_u64(record, 32);
    let (lineage, keys) = match rings.find(ring, epoch, cipher) {
        Some(found) => found,
        None => return Fault::NoKey,
    };
    let tag: [u8; TAG] = record[end..end + TAG].try_into().unwrap();
    let aad = associated(&lineage, record);
    match keys.record.open_in_place_separate_tag(nonce(number), aad, Tag::from(tag), payload, 0..) {
        Ok(_) => Fault::None,
        Err(_) => Fault::Tag,
    }
}
