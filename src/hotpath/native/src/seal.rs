//! Sealing a frame and opening a batch of records, each in one call. Twin: `kernel-twin.ts`. What to do is described in two blocks of
//! numbers, a plan and columns, whose places `kernel-native.ts` knows, too.

use napi::bindgen_prelude::Unknown;
use napi::{Env, Error, Result, Status};
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::buffers::{read_u32, read_whole, write_u32, Memory};
use crate::compress::SCRATCH;
use crate::frame;
use crate::keys::{CIPHER_AES, CIPHER_CHACHA, RINGS};
use crate::record::{self, Fault, Sealing, BLOCK, RUN_MAX};

const PLAN: usize = 120;
const SEAL_COLUMN: usize = 32;
const OPEN_COLUMN: usize = 40;

thread_local! {
    static LIST: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

fn bad(what: &str) -> Error {
    Error::new(Status::InvalidArg, what)
}

/// A panic would end the process; as an error it ends the request.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::new(Status::GenericFailure, "the native kernel met a state it should not know")))
}

/// The memory of the `count` buffers of `array`, in a list that is used again.
fn with_list<T>(env: &Env, array: &Unknown, count: usize, work: impl FnOnce(&[Memory]) -> Result<T>) -> Result<T> {
    LIST.with_borrow_mut(|list| {
        list.clear();
        Memory::list(env, array, count, list)?;
        let done = work(list);
        list.clear();
        done
    })
}

/// Seals the records of `columns` behind the control entries that stand in `out` already, and completes the frame. Returns the end of
/// the frame in `out`; the plan's digest is then this frame's.
#[napi_derive::napi]
pub fn seal_frame(env: Env, plan: Unknown, columns: Unknown, sources: Unknown, out: Unknown) -> Result<u32> {
    guarded(|| {
        let plan_memory = Memory::of(&env, &plan)?;
        let columns = Memory::of(&env, &columns)?;
        let out = Memory::of(&env, &out)?;
        // SAFETY: the three are different buffers of the caller (checked below), and each is borrowed once.
        let plan = unsafe { plan_memory.slice_mut(0, PLAN) }.ok_or_else(|| bad("a plan is 120 bytes"))?;
        let (count, buffers) = (read_u32(plan, 76) as usize, read_u32(plan, 80) as usize);
        with_list(&env, &sources, buffers, |sources| {
            let inputs = || sources.iter().chain([&plan_memory, &columns]);
            if inputs().any(|input| input.overlaps(&out)) || sources.iter().any(|input| input.overlaps(&columns)) {
                return Err(bad("a frame is sealed into memory of its own"));
            }
            let rows = count.checked_mul(SEAL_COLUMN).and_then(|length| unsafe { columns.slice_mut(0, length) });
            let rows = rows.ok_or_else(|| bad("fewer columns than records"))?;
            let out = unsafe { out.slice_mut(0, out.length()) }.ok_or_else(|| bad("no frame buffer"))?;
            seal_planned(plan, rows, sources, out)
        })
    })
}

fn seal_planned(plan: &mut [u8], rows: &mut [u8], sources: &[Memory], out: &mut [u8]) -> Result<u32> {
    let whole = |at: usize| read_whole(plan, at).ok_or_else(|| bad("a plan's number is out of range"));
    let (seq, committed_through, flushed_through) = (whole(0)?, whole(8)?, whole(16)?);
    let (epoch, first_number) = (whole(24)?, whole(32)?);
    let at = read_u32(plan, 48) as usize;
    let control = read_u32(plan, 52) as usize;
    let (cipher, compression, ring) = (read_u32(plan, 64), read_u32(plan, 68), read_u32(plan, 72));
    let flags = read_u32(plan, 60) as u16;
    let keyed = flags & frame::FLAG_MAC != 0;
    if cipher > CIPHER_CHACHA as u32 || compression > 2 || control % 64 != 0 {
        return Err(bad("a plan's cipher, compression or length is unknown"));
    }
    let count = rows.len() / SEAL_COLUMN;
    let mut position = at
        .checked_add(frame::HEADER + control)
        .filter(|end| *end <= out.len())
        .ok_or_else(|| bad("no room for the frame's header"))?;
    RINGS.with_borrow_mut(|rings| {
        SCRATCH.with_borrow_mut(|scratch| {
            let (cipher, compression) = (cipher as u8, compression as u8);
            let mut sealing = Sealing { rings, scratch, ring, epoch, cipher, compression };
            for (i, row) in rows.chunks_exact_mut(SEAL_COLUMN).enumerate() {
                let block = read_whole(row, 0).ok_or_else(|| bad("a block's address is out of range"))?;
                let run = read_u32(row, 8) as usize;
                let source = sources.get(read_u32(row, 12) as usize).ok_or_else(|| bad("no such source"))?;
                if !(1..=RUN_MAX).contains(&run) {
                    return Err(bad("a record has 1 to 8 blocks"));
                }
                // SAFETY: sources do not overlap `out` or `rows`, the only memory written to.
                let source = unsafe { source.slice(read_u32(row, 16) as usize, run * BLOCK) }
                    .ok_or_else(|| bad("a record is sealed from whole blocks"))?;
                let room = out.get_mut(position..position + record::size_max(run));
                let room = room.ok_or_else(|| bad("no room for the frame's records"))?;
                let length = record::seal(&mut sealing, block, first_number + i as u64, source, room)
                    .ok_or_else(|| bad("sealing an encrypted volume needs its key"))?;
                write_u32(row, 20, position as u32);
                write_u32(row, 24, record::padded(length) as u32);
                position += record::padded(length);
            }
            let header = frame::Header {
                flags,
                entries: read_u32(plan, 56) + count as u32,
                epoch,
                seq,
                committed_through,
                flushed_through,
                ordinal: read_u32(plan, 40),
                offset: read_u32(plan, 44),
                volume: &plan[88..104],
                previous: &plan[104..120],
            };
            let keys = if keyed { sealing.rings.find(ring, epoch, cipher) } else { None };
            if keyed && keys.is_none() {
                return Err(bad("a frame is authenticated with its reign key"));
            }
            let digest = frame::finish(&mut out[at..position], &header, keys.map(|(_, keys)| &keys.frame))
                .ok_or_else(|| bad("the frame's entries contradict themselves"))?;
            plan[104..120].copy_from_slice(&digest);
            Ok(position as u32)
        })
    })
}

/// Opens the records of `columns` and writes each one's fault there; returns how many have one.
#[napi_derive::napi]
pub fn open_records(env: Env, ring: u32, columns: Unknown, count: u32, buffers: Unknown, buffer_count: u32) -> Result<u32> {
    guarded(|| {
        let columns = Memory::of(&env, &columns)?;
        with_list(&env, &buffers, buffer_count as usize, |buffers| {
            if buffers.iter().any(|buffer| buffer.overlaps(&columns)) {
                return Err(bad("columns are memory of their own"));
            }
            let length = (count as usize).checked_mul(OPEN_COLUMN);
            let rows = length.and_then(|length| unsafe { columns.slice_mut(0, length) });
            let rows = rows.ok_or_else(|| bad("fewer columns than records"))?;
            let mut faults = 0;
            for row in rows.chunks_exact_mut(OPEN_COLUMN) {
                let fault = open_row(ring, row, buffers)?;
                write_u32(row, 36, fault as u32);
                if fault != Fault::None {
                    faults += 1;
                }
            }
            Ok(faults)
        })
    })
}

fn open_row(ring: u32, row: &[u8], buffers: &[Memory]) -> Result<Fault> {
    let block = read_whole(row, 0).ok_or_else(|| bad("a block's address is out of range"))?;
    let buffer = |at: usize| buffers.get(read_u32(row, at) as usize).ok_or_else(|| bad("no such buffer"));
    let (from, into) = (buffer(8)?, buffer(24)?);
    let (at, length) = (read_u32(row, 12) as usize, read_u32(row, 16) as usize);
    let count = read_u32(row, 20) as usize;
    let into_at = read_u32(row, 28) as usize;
    if !(1..=RUN_MAX).contains(&count) {
        return Err(bad("1 to 8 blocks of a record can be wanted"));
    }
    // SAFETY: the two slices are the only ones, and where they share bytes the call is refused.
    unsafe {
        let into = into.slice_mut(into_at, count * BLOCK).ok_or_else(|| bad("no room for the blocks of a record"))?;
        let stored = match from.slice(at, length) {
            Some(stored) => stored,
            None => return Ok(Fault::Header),
        };
        let (a, b) = (stored.as_ptr() as usize, into.as_ptr() as usize);
        if a < b + into.len() && b < a + stored.len() {
            return Err(bad("a record is opened into other memory"));
        }
        Ok(RINGS.with_borrow_mut(|rings| {
            SCRATCH.with_borrow_mut(|scratch| record::open(rings, scratch, ring, stored, block, into))
        }))
    }
}

fn sixteen(env: &Env, value: &Unknown) -> Result<[u8; 16]> {
    let memory = Memory::of(env, value)?;
    // SAFETY: copied at once.
    let bytes = unsafe { memory.slice(0, memory.length()) };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| bad("an id is 16 bytes"))
}

/// A new ring of keys; 0 is never one.
#[napi_derive::napi]
pub fn ring_create(env: Env, lineage: Unknown, data_key: Unknown) -> Result<u32> {
    let lineage = sixteen(&env, &lineage)?;
    let key = Memory::of(&env, &data_key)?;
    // SAFETY: used within this call only.
    let key = unsafe { key.slice(0, 32) }.and_then(|bytes| <&[u8; 32]>::try_from(bytes).ok());
    let key = key.ok_or_else(|| bad("a data key is 32 bytes"))?;
    RINGS.with_borrow_mut(|rings| rings.create(lineage, key)).ok_or_else(|| bad("no memory for a ring of keys"))
}

#[napi_derive::napi]
pub fn ring_add_reign(env: Env, ring: u32, epoch: f64, reign: Unknown) -> Result<bool> {
    let reign = sixteen(&env, &reign)?;
    Ok(RINGS.with_borrow_mut(|rings| rings.add_reign(ring, epoch as u64, reign)))
}

/// Zeroes and frees; unknown numbers are let pass.
#[napi_derive::napi]
pub fn ring_destroy(ring: u32) {
    RINGS.with_borrow_mut(|rings| rings.destroy(ring));
}

/// Whether the MAC that the frame `frame` (all of it) carries is the one its reign key gives.
#[napi_derive::napi]
pub fn frame_mac_matches(env: Env, ring: u32, epoch: f64, frame: Unknown) -> Result<bool> {
    guarded(|| {
        let memory = Memory::of(&env, &frame)?;
        // SAFETY: read only, within this call only.
        let bytes = unsafe { memory.slice(0, memory.length()) }.filter(|bytes| bytes.len() >= frame::HEADER);
        let bytes = bytes.ok_or_else(|| bad("a frame has a header"))?;
        RINGS.with_borrow_mut(|rings| {
            let found = rings.find(ring, epoch as u64, CIPHER_AES);
            let mac = found.and_then(|(_, keys)| frame::mac(&keys.frame, bytes));
            Ok(mac.is_some_and(|mac| mac[..] == bytes[96..112]))
        })
    })
}
