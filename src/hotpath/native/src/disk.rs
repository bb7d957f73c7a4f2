//! What a replica needs: checking frames before they are appended (twin: `src/segment/log-tail.ts`), and an early start of write-back
//! (twin: none, the kernel starts it later). Reads are in reads.rs; writes gain nothing here over node:fs (decision 023).

use napi::bindgen_prelude::Unknown;
use napi::{Env, Error, Result, Status};
use ring::digest;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use crate::busy_poll;
use crate::buffers::{read_u32, read_u64, write_u32, write_u64, Memory};
use crate::frame::{DIGEST, HEADER};
use crate::record::{crc32c, SAFE};

const FRAME_MAGIC: u32 = 0x3146_4648;
/// FORMATS_READ of src/format/constants.ts.
const VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
const FRAME_MAX: usize = 4 * 1024 * 1024;
const FLAG_SEALS: u16 = 2;

/// Size and places of a tail, as in log-tail.ts.
const TAIL: usize = 72;
const SEQ: usize = 0;
const FLUSHED: usize = 8;
const PREVIOUS: usize = 16;
const VOLUME: usize = 32;
const EPOCH: usize = 48;
const ORDINAL: usize = 56;
const OFFSET: usize = 60;
const FLAGS: usize = 64;
const ANY_VOLUME: u8 = 1;
const SEALED: u8 = 2;

/// Places in the list of faults in log-tail.ts.
#[derive(Clone, Copy)]
enum Fault {
    Blank = 1,
    Short,
    Magic,
    Version,
    HeaderChecksum,
    Length,
    BodyChecksum,
    Volume,
    Place,
    Epoch,
    Seq,
    Digest,
    Claims,
    AfterSeal,
}

fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::new(Status::GenericFailure, "the native disk port met a state it should not know")))
}

fn bad(what: &str) -> Error {
    Error::new(Status::InvalidArg, what)
}

/// Checks that the frames that fill `bytes` from `from` on continue the log that `tail` describes, each with both checksums, and
/// moves `tail` behind them. Returns 0, or the fault of the first that does not; `tail` then stands before it.
#[napi_derive::napi]
pub fn verify_frames(env: Env, bytes: Unknown, from: u32, tail: Unknown) -> Result<u32> {
    guarded(|| {
        let bytes = Memory::of(&env, &bytes)?;
        let tail = Memory::of(&env, &tail)?;
        if bytes.overlaps(&tail) {
            return Err(bad("a tail is memory of its own"));
        }
        // SAFETY: the two don't overlap, and each is borrowed once.
        let tail = unsafe { tail.slice_mut(0, TAIL) }.ok_or_else(|| bad("a tail is 72 bytes"))?;
        let bytes = unsafe { bytes.slice(0, bytes.length()) }.ok_or_else(|| bad("expected bytes"))?;
        let mut at = from as usize;
        while at < bytes.len() {
            match next_frame(&bytes[at..], tail) {
                Ok(length) => at += length,
                Err(fault) => return Ok(fault as u32),
            }
        }
        Ok(0)
    })
}

fn next_frame(bytes: &[u8], tail: &mut [u8]) -> std::result::Result<usize, Fault> {
    if tail[FLAGS] & SEALED != 0 {
        return Err(Fault::AfterSeal);
    }
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Fault::Short)?;
    if read_u32(header, 0) != FRAME_MAGIC {
        return Err(if header.iter().all(|byte| *byte == 0) { Fault::Blank } else { Fault::Magic });
    }
    let mut unsummed = *header;
    unsummed[8..12].fill(0);
    if crc32c(&unsummed) != read_u32(header, 8) {
        return Err(Fault::HeaderChecksum);
    }
    if !VERSIONS.contains(&u16::from_le_bytes([header[4], header[5]])) {
        return Err(Fault::Version);
    }
    let body = read_u32(header, 16) as usize;
    if body % 64 != 0 || body > FRAME_MAX - HEADER {
        return Err(Fault::Length);
    }
    if (24..56).step_by(8).any(|field| read_u64(header, field) > SAFE) {
        return Err(Fault::Length);
    }
    let body_bytes = bytes.get(HEADER..HEADER + body).ok_or(Fault::Short)?;
    if crc32c(body_bytes) != read_u32(header, 12) {
        return Err(Fault::BodyChecksum);
    }
    follows(header, tail)?;
    let length = HEADER + body;
    let digest = digest::digest(&digest::SHA256, header);
    tail[PREVIOUS..PREVIOUS + DIGEST].copy_from_slice(&digest.as_ref()[..DIGEST]);
    write_u64(tail, SEQ, read_u64(header, 32));
    let flushed = read_u64(header, 48);
    if flushed > read_u64(tail, FLUSHED) {
        write_u64(tail, FLUSHED, flushed);
    }
    if u16::from_le_bytes([header[6], header[7]]) & FLAG_SEALS != 0 {
        tail[FLAGS] |= SEALED;
    }
    let offset = read_u32(tail, OFFSET).wrapping_add(length as u32);
    write_u32(tail, OFFSET, offset);
    Ok(length)
}

/// Whether the frame belongs right behind the tail; the rows are those of chainFault() in frame-walk.ts.
fn follows(header: &[u8; HEADER], tail: &[u8]) -> std::result::Result<(), Fault> {
    let seq = read_u64(header, 32);
    if tail[FLAGS] & ANY_VOLUME == 0 && header[64..80] != tail[VOLUME..VOLUME + 16] {
        return Err(Fault::Volume);
    }
    if read_u64(header, 24) != read_u64(tail, EPOCH) {
        return Err(Fault::Epoch);
    }
    let place = u64::from(read_u32(header, 60)) * 64;
    if read_u32(header, 56) != read_u32(tail, ORDINAL) || place != u64::from(read_u32(tail, OFFSET)) {
        return Err(Fault::Place);
    }
    if Some(seq) != read_u64(tail, SEQ).checked_add(1) {
        return Err(Fault::Seq);
    }
    if header[80..96] != tail[PREVIOUS..PREVIOUS + DIGEST] {
        return Err(Fault::Digest);
    }
    if read_u64(header, 40) >= seq || read_u64(header, 48) >= seq {
        return Err(Fault::Claims);
    }
    Ok(())
}

/// Tasks that wait for their turn; what comes beyond them is left to the kernel.
const TASKS_MAX: usize = 256;

enum Task {
    WriteBack { file: OwnedFd, from: i64, length: i64 },
    Drop { file: OwnedFd },
}

impl Task {
    fn run(self) {
        // SAFETY: the descriptors are owned. The results say nothing that the next fdatasync would not say: without a flag to wait no
        // error of the file is taken away, and only pages that are clean are dropped.
        unsafe {
            match self {
                Task::WriteBack { file, from, length } => {
                    libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE);
                }
                Task::Drop { file } => {
                    libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
                }
            }
        }
    }
}

/// One thread for the process: starting a write-back may wait for a disk that is behind, and then nothing else may wait with it.
fn tasks() -> Option<&'static SyncSender<Task>> {
    static SENDER: OnceLock<Option<SyncSender<Task>>> = OnceLock::new();
    SENDER
        .get_or_init(|| {
            let (sender, receiver) = sync_channel::<Task>(TASKS_MAX);
            let start = move || receiver.into_iter().for_each(Task::run);
            thread::Builder::new().name("write-back".into()).spawn(start).ok().map(|_| sender)
        })
        .as_ref()
}

/// `task` with a descriptor of its own: the file may be closed before its turn comes.
fn send(fd: i32, task: impl FnOnce(OwnedFd) -> Task) -> bool {
    let Some(sender) = tasks() else { return false };
    // SAFETY: dup of any number is sound.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return false;
    }
    // SAFETY: nobody else owns it.
    sender.try_send(task(unsafe { OwnedFd::from_raw_fd(copy) })).is_ok()
}

/// Has the kernel begin to write the dirty pages of a stretch of the file. Never waits, and promises nothing.
#[napi_derive::napi]
pub fn start_write_back(fd: i32, from: i64, length: i64) -> bool {
    send(fd, |file| Task::WriteBack { file, from, length })
}

/// Takes the file's clean pages out of the page cache, so that their memory is used again while it is young. Never waits.
#[napi_derive::napi]
pub fn drop_cached(fd: i32) -> bool {
    send(fd, |file| Task::Drop { file })
}

/// fdatasync on this thread: how many microseconds it took, or a negative errno. Nothing else of the thread goes on meanwhile.
#[napi_derive::napi]
pub fn sync_in_place(fd: i32) -> f64 {
    let began = Instant::now();
    let failed = loop {
        // SAFETY: any number is sound.
        if unsafe { libc::fdatasync(fd) } == 0 {
            break None;
        }
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        if error != libc::EINTR {
            break Some(error);
        }
    };
    let taken = began.elapsed();
    busy_poll::waited(taken);
    failed.map_or(taken.as_nanos() as f64 / 1000.0, |error| -f64::from(error))
}
