//! Frame headers: checksums, MAC and digest. Layout: src/format/FORMAT.md, "Frame".

use ring::{digest, hmac};

use crate::buffers::{read_u32, write_u32, write_u64};
use crate::record::{crc32c, padded, HEADER as RECORD_HEADER, KIND_RECORD, TAG};

pub const HEADER: usize = 128;
pub const FLAG_MAC: u16 = 1;
const MAGIC: u32 = 0x3146_4648;
/// FORMAT_VERSION of src/format/constants.ts.
const VERSION: u16 = 1;
const MAC_AT: usize = 96;
const MAC: usize = 16;
pub const DIGEST: usize = 16;

pub struct Header<'a> {
    pub flags: u16,
    pub entries: u32,
    pub epoch: u64,
    pub seq: u64,
    pub committed_through: u64,
    pub flushed_through: u64,
    pub ordinal: u32,
    /// In 64-byte units.
    pub offset: u32,
    pub volume: &'a [u8],
    pub previous: &'a [u8],
}

/// Completes the frame whose body stands behind its header in `frame`; the mac is set when there is a key. Returns its digest,
/// or None when the body's entries contradict themselves.
pub fn finish(frame: &mut [u8], header: &Header, key: Option<&hmac::Key>) -> Option<[u8; DIGEST]> {
    let body = frame.len() - HEADER;
    let body_crc = crc32c(&frame[HEADER..]);
    write_u32(frame, 0, MAGIC);
    frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
    frame[6..8].copy_from_slice(&header.flags.to_le_bytes());
    write_u32(frame, 8, 0);
    write_u32(frame, 12, body_crc);
    write_u32(frame, 16, body as u32);
    write_u32(frame, 20, header.entries);
    write_u64(frame, 24, header.epoch);
    write_u64(frame, 32, header.seq);
    write_u64(frame, 40, header.committed_through);
    write_u64(frame, 48, header.flushed_through);
    write_u32(frame, 56, header.ordinal);
    write_u32(frame, 60, header.offset);
    frame[64..80].copy_from_slice(header.volume);
    frame[80..96].copy_from_slice(header.previous);
    frame[MAC_AT..HEADER].fill(0);
    if let Some(key) = key {
        let mac = mac(key, frame)?;
        frame[MAC_AT..MAC_AT + MAC].copy_from_slice(&mac);
    }
    let header_crc = crc32c(&frame[..HEADER]);
    write_u32(frame, 8, header_crc);
    let digest = digest::digest(&digest::SHA256, &frame[..HEADER]);
    digest.as_ref()[..DIGEST].try_into().ok()
}

/// The MAC of a frame whose header is complete but for MAC and checksum.
pub fn mac(key: &hmac::Key, frame: &[u8]) -> Option<[u8; MAC]> {
    let mut context = hmac::Context::with_key(key);
    context.update(&frame[12..MAC_AT]);
    let mut entry = HEADER;
    while entry < frame.len() {
        let rest = &frame[entry..];
        if rest.len() < 16 {
            return None;
        }
        let length = read_u32(rest, 8) as usize;
        let tag_only = rest[12] == KIND_RECORD && length >= RECORD_HEADER + TAG;
        let from = if tag_only { length - TAG } else { 0 };
        context.update(rest.get(from..length)?);
        entry += padded(length).max(64);
    }
    context.sign().as_ref()[..MAC].try_into().ok()
}
