//! Reads of many ranges of files in one call (`src/segment/node-reads.ts`; twin: one readSync after the other). What the page cache
//! holds is there when the call returns. The rest goes to the disk all at once, through one io_uring of the thread, or, where the
//! system has none to give, through threads that the process shares; the thread's own event loop hears of what has come.
//!
//! Owner: the thread that called `open_reads`. Invariants: memory that is being read into is held by a reference until the read has
//! ended; a descriptor is the caller's and stays open until then; at most `IN_FLIGHT_MAX` reads are under way, more are waited for in
//! the call. When the thread ends with reads under way its cleanup waits for them; what it used is left behind, so that nothing can
//! point at freed memory.

use std::alloc::{alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{addr_of_mut, null_mut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{opcode, types, IoUring, Probe};
use napi::bindgen_prelude::{FnArgs, Function, JsValue, Unknown};
use napi::{sys, Env, Error, Result, Status};

use crate::buffers::{read_u32, read_whole, Memory};
use crate::busy_poll;
use crate::uv::{
    self, poll_layout, uv_close, uv_handle_get_data, uv_handle_set_data, uv_poll_init, uv_poll_start, uv_ref, uv_unref, UvHandle,
    READABLE,
};

/// A row: double position; words descriptor, buffer, byte in it, length, then filled in: bytes read or negative errno; one unused.
const ROW: usize = 32;
/// In place of a result: it will be told of.
const PENDING: i32 = i32::MIN;
/// What is told of a read: its batch, its row, the result.
const TOLD: usize = 3;

/// Above what disks do at once; with more to do they are no faster.
const IN_FLIGHT_MAX: usize = 1024;
const RING_ENTRIES: u32 = 256;
/// As many as a disk needs to be busy; each costs a stack, and nothing while it has nothing to do.
const THREADS_MAX: usize = 32;
const STACK_BYTES: usize = 64 * 1024;
const GETEVENTS: u32 = 1;
/// A disk that answers within this is a fast one: a thread that sleeps is woken in a fifth of it.
const QUICK: Duration = Duration::from_micros(250);
/// After reads that took longer so many at most are not waited for in the call.
const IMPATIENT_MAX: u32 = 1024;
/// How often a ring that takes nothing more is tried again, a millisecond apart.
const SUBMITS_MAX: u32 = 100;

fn bad(what: &str) -> Error {
    Error::new(Status::InvalidArg, what)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A read under way.
#[derive(Clone, Copy)]
struct Read {
    fd: c_int,
    into: *mut u8,
    length: u32,
    /// Bytes that are there.
    done: u32,
    position: u64,
    batch: u32,
    row: u32,
    hold: usize,
}

// SAFETY: the memory is held, and used by one thread at a time: by whoever has the read.
unsafe impl Send for Read {}

impl Read {
    fn rest(&self) -> (*mut u8, u32, u64) {
        // SAFETY: done <= length.
        (unsafe { self.into.add(self.done as usize) }, self.length - self.done, self.position + u64::from(self.done))
    }

    /// One system call; false when there is nothing more to wait for or to come.
    fn step(&mut self, flags: c_int) -> std::result::Result<bool, i32> {
        let (base, length, position) = self.rest();
        let piece = libc::iovec { iov_base: base.cast(), iov_len: length as usize };
        // SAFETY: the memory is held while this read lives.
        let count = unsafe { libc::preadv2(self.fd, &piece, 1, position as i64, flags) };
        if count < 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
        }
        self.done += count as u32;
        Ok(count > 0 && self.done < self.length)
    }

    /// Takes what the page cache holds; false when the rest has to be waited for.
    fn cached(&mut self) -> bool {
        matches!(self.step(libc::RWF_NOWAIT), Ok(_) if self.done == self.length)
    }

    /// Waits for all of it: the bytes read, or a negative errno.
    fn wait(&mut self) -> i32 {
        while self.done < self.length {
            match self.step(0) {
                Ok(true) => {}
                Ok(false) => break,
                Err(libc::EINTR) => {}
                Err(errno) => return -errno,
            }
        }
        self.done as i32
    }
}

// --- Threads, for systems that give no ring, and for what a ring gives back

struct Task {
    read: Read,
    id: u32,
    inbox: Arc<Inbox>,
}

/// What threads have read for one event loop.
struct Inbox {
    ended: Mutex<Vec<(u32, i32)>>,
    some: Condvar,
    event: c_int,
}

impl Inbox {
    fn put(&self, id: u32, result: i32) {
        let mut ended = lock(&self.ended);
        ended.push((id, result));
        if ended.len() == 1 {
            let one = 1u64;
            // SAFETY: eight bytes of our own. It can't fail: nobody lets the counter grow.
            unsafe { libc::write(self.event, (&raw const one).cast(), 8) };
            self.some.notify_one();
        }
    }

    fn take(&self) -> Vec<(u32, i32)> {
        let mut ended = lock(&self.ended);
        if !ended.is_empty() {
            let mut count = 0u64;
            // SAFETY: eight bytes of our own.
            unsafe { libc::read(self.event, (&raw mut count).cast(), 8) };
        }
        std::mem::take(&mut ended)
    }
}

#[derive(Default)]
struct Crew {
    tasks: VecDeque<Task>,
    threads: usize,
    idle: usize,
}

struct Pool {
    crew: Mutex<Crew>,
    work: Condvar,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool { crew: Mutex::default(), work: Condvar::new() })
}

impl Pool {
    /// The task comes back when there is nobody to do it.
    fn add(&'static self, task: Task) -> Option<Task> {
        let mut crew = lock(&self.crew);
        if crew.idle <= crew.tasks.len() && crew.threads < THREADS_MAX {
            let builder = thread::Builder::new().name("disk-read".into()).stack_size(STACK_BYTES);
            if builder.spawn(|| self.serve()).is_ok() {
                crew.threads += 1;
                crew.idle += 1;
            }
        }
        if crew.threads == 0 {
            return Some(task);
        }
        crew.tasks.push_back(task);
        self.work.notify_one();
        None
    }

    fn serve(&self) {
        let mut crew = lock(&self.crew);
        loop {
            if let Some(Task { mut read, id, inbox }) = crew.tasks.pop_front() {
                crew.idle -= 1;
                drop(crew);
                inbox.put(id, read.wait());
                crew = lock(&self.crew);
                crew.idle += 1;
            } else {
                crew = self.work.wait(crew).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

// --- The reads of one thread

/// A buffer of the caller, held while reads into it are under way.
struct Hold {
    reference: sys::napi_ref,
    reads: usize,
}

/// What a ring answers that can't wait, or that has no worker to be had now; a read that truly fails does so again.
const GO_ON_IN_A_THREAD: [i32; 6] =
    [libc::EAGAIN, libc::EINTR, libc::EINVAL, libc::EOPNOTSUPP, libc::ECANCELED, libc::ENOMEM];

struct Hub {
    env: sys::napi_env,
    uv: *mut sys::uv_loop_s,
    ended: sys::napi_ref,
    /// Where JavaScript finds what is told: `IN_FLIGHT_MAX` times three numbers.
    told: *mut i32,
    ring: Option<IoUring>,
    /// The ring refused reads; what it has is waited for, and it gets nothing more.
    refused: bool,
    /// Lone reads that will not be waited for in the call, and how many after the next one that takes long.
    impatient: u32,
    next_impatient: u32,
    inbox: Arc<Inbox>,
    reads: Vec<Read>,
    free: Vec<u32>,
    /// In the ring's queue and not handed over.
    queued: Vec<u32>,
    in_ring: usize,
    in_pool: usize,
    holds: Vec<Hold>,
    free_holds: Vec<usize>,
    /// What tells of the ring and of the inbox.
    watches: [*mut UvHandle; 2],
    handles: usize,
    cleanup: sys::napi_async_cleanup_hook_handle,
    ending: bool,
}

thread_local! {
    static HUBS: RefCell<Vec<*mut Hub>> = const { RefCell::new(Vec::new()) };
}

fn new_ring() -> Option<IoUring> {
    let build = |cooperative: bool| {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(2 * IN_FLIGHT_MAX as u32);
        if cooperative {
            // This thread comes by the kernel often enough; nothing needs to interrupt it.
            builder.setup_coop_taskrun();
        }
        builder.build(RING_ENTRIES)
    };
    let ring = build(true).or_else(|_| build(false)).ok()?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).ok()?;
    probe.is_supported(opcode::Read::CODE).then_some(ring)
}

impl Hub {
    fn in_flight(&self) -> usize {
        self.in_ring + self.in_pool
    }

    /// Watches a descriptor that this hub keeps open.
    unsafe fn watch(&mut self, which: usize, fd: c_int) -> c_int {
        let Some(layout) = poll_layout() else { return -libc::ENOSYS };
        let handle = alloc_zeroed(layout) as *mut UvHandle;
        if handle.is_null() {
            return -libc::ENOMEM;
        }
        let status = uv_poll_init(self.uv, handle, fd);
        if status < 0 {
            dealloc(handle.cast(), layout);
            return status;
        }
        uv_handle_set_data(handle, (self as *mut Hub).cast());
        self.watches[which] = handle;
        self.handles += 1;
        let status = uv_poll_start(handle, READABLE, some_ended);
        uv_unref(handle);
        status
    }

    /// The loop lives while reads are under way, and is not kept alive by none.
    unsafe fn keep_loop(&mut self, keep: bool) {
        for handle in self.watches {
            if !handle.is_null() {
                (if keep { uv_ref } else { uv_unref })(handle);
            }
        }
    }

    fn begin(&mut self, read: Read) {
        self.holds[read.hold].reads += 1;
        let id = self.free.pop().unwrap_or_else(|| {
            self.reads.push(read);
            self.reads.len() as u32 - 1
        });
        self.reads[id as usize] = read;
        if self.refused || self.ring.is_none() || !self.push(id) {
            self.by_thread(id);
        }
    }

    /// Puts a read into the ring's queue, to be submitted.
    fn push(&mut self, id: u32) -> bool {
        let read = &self.reads[id as usize];
        let (base, length, position) = read.rest();
        let entry = opcode::Read::new(types::Fd(read.fd), base, length).offset(position).build().user_data(u64::from(id));
        for _ in 0..2 {
            let Some(ring) = &mut self.ring else { return false };
            // SAFETY: memory and descriptor are the read's until it has ended.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                self.queued.push(id);
                self.in_ring += 1;
                return true;
            }
            self.submit();
            if self.refused {
                return false;
            }
        }
        false
    }

    /// Hands the ring's queue to the kernel. What it does not take goes to threads, and nothing more goes to the ring.
    fn submit(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        for _ in 0..SUBMITS_MAX {
            if self.queued.is_empty() {
                return;
            }
            if let Err(error) = ring.submit() {
                if error.raw_os_error() != Some(libc::EINTR) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            // It takes them in order.
            let left = ring.submission().len();
            self.queued.drain(..self.queued.len() - left);
        }
        self.refused = true;
        for id in std::mem::take(&mut self.queued) {
            self.in_ring -= 1;
            self.by_thread(id);
        }
    }

    fn by_thread(&mut self, id: u32) {
        self.in_pool += 1;
        let task = Task { read: self.reads[id as usize], id, inbox: self.inbox.clone() };
        if let Some(Task { mut read, id, inbox }) = pool().add(task) {
            let result = read.wait();
            inbox.put(id, result);
        }
    }

    /// What has ended; what the ring did not do to the end goes on in a thread.
    fn collect(&mut self, ended: &mut Vec<(u32, i32)>) {
        let mut again = Vec::new();
        if let Some(ring) = &mut self.ring {
            for entry in ring.completion() {
                self.in_ring -= 1;
                let (id, result) = (entry.user_data() as u32, entry.result());
                let read = &mut self.reads[id as usize];
                if result > 0 {
                    read.done += result as u32;
                }
                // Few bytes may mean the end of the file, or not; some errors say nothing of the file.
                match result {
                    _ if read.done == read.length => ended.push((id, read.length as i32)),
                    0 => ended.push((id, read.done as i32)),
                    _ if result > 0 => again.push(id),
                    _ if GO_ON_IN_A_THREAD.contains(&-result) => again.push(id),
                    _ => ended.push((id, result)),
                }
            }
        }
        for id in again {
            self.by_thread(id);
        }
        let by_threads = self.inbox.take();
        self.in_pool -= by_threads.len();
        ended.extend(by_threads);
    }

    /// Waits in the call for a read while nothing else is under way, as long as such reads were quick: to leave the call, fall asleep and
    /// be told costs more than a fast disk takes. After one that was not, some are left to the loop, twice as many each time.
    fn wait_alone(&mut self, read: &mut Read) -> Option<i32> {
        if self.in_flight() > 0 {
            return None;
        }
        if self.impatient > 0 {
            self.impatient -= 1;
            return None;
        }
        let began = Instant::now();
        let result = read.wait();
        let taken = began.elapsed();
        busy_poll::waited(taken);
        if taken < QUICK {
            self.next_impatient = 1;
        } else {
            self.impatient = self.next_impatient;
            self.next_impatient = (2 * self.next_impatient).min(IMPATIENT_MAX);
        }
        Some(result)
    }

    /// Lets go of a read that has ended.
    unsafe fn end(&mut self, id: u32) -> Read {
        let read = self.reads[id as usize];
        self.free.push(id);
        let hold = &mut self.holds[read.hold];
        hold.reads -= 1;
        if hold.reads == 0 {
            sys::napi_delete_reference(self.env, hold.reference);
            self.free_holds.push(read.hold);
        }
        read
    }

    unsafe fn hold(&mut self, array: sys::napi_value, index: u32) -> Result<usize> {
        let (mut value, mut reference) = (null_mut(), null_mut());
        let found = sys::napi_get_element(self.env, array, index, &mut value) == sys::Status::napi_ok
            && sys::napi_create_reference(self.env, value, 1, &mut reference) == sys::Status::napi_ok;
        if !found {
            return Err(bad("a buffer can't be held"));
        }
        let hold = Hold { reference, reads: 0 };
        Ok(match self.free_holds.pop() {
            Some(at) => {
                self.holds[at] = hold;
                at
            }
            None => {
                self.holds.push(hold);
                self.holds.len() - 1
            }
        })
    }

    fn finish(&mut self) {
        if self.handles == 0 {
            self.ring = None;
            // SAFETY: ours, and nobody watches it any more.
            unsafe {
                libc::close(self.inbox.event);
                sys::napi_remove_async_cleanup_hook(self.cleanup);
            }
        }
    }
}

/// Told of by the event loop.
extern "C" fn some_ended(handle: *mut UvHandle, _status: c_int, _events: c_int) {
    unsafe {
        let hub = &mut *(uv_handle_get_data(handle) as *mut Hub);
        let mut ended = Vec::new();
        hub.collect(&mut ended);
        if hub.ending || ended.is_empty() {
            return;
        }
        for (n, (id, result)) in ended.iter().enumerate() {
            let read = hub.end(*id);
            let at = hub.told.add(n * TOLD);
            *at = read.batch as i32;
            *at.add(1) = read.row as i32;
            *at.add(2) = *result;
        }
        if hub.in_flight() == 0 {
            hub.keep_loop(false);
        }
        let (env, function) = (hub.env, hub.ended);
        uv::call(env, function, ended.len() as u32);
    }
}

extern "C" fn let_go(handle: *mut UvHandle) {
    unsafe {
        let hub = &mut *(uv_handle_get_data(handle) as *mut Hub);
        if let Some(layout) = poll_layout() {
            dealloc(handle.cast(), layout);
        }
        hub.handles -= 1;
        hub.finish();
    }
}

unsafe extern "C" fn end_of_thread(_handle: sys::napi_async_cleanup_hook_handle, data: *mut c_void) {
    let hub = &mut *(data as *mut Hub);
    hub.ending = true;
    HUBS.with_borrow_mut(|hubs| hubs.iter_mut().filter(|other| **other == data as *mut Hub).for_each(|other| *other = null_mut()));
    let mut ended = Vec::new();
    // A call that this end broke off may have left reads that were not handed over: nobody would ever end those.
    hub.submit();
    while hub.in_flight() > 0 {
        if hub.in_ring > 0 {
            if let Some(ring) = &hub.ring {
                // Hands nothing over. An interrupted wait is repeated by the loop.
                let _ = ring.submitter().enter::<libc::sigset_t>(0, 1, GETEVENTS, None);
            }
        } else {
            let inbox = hub.inbox.clone();
            let guard = lock(&inbox.ended);
            drop(inbox.some.wait_while(guard, |ended| ended.is_empty()));
        }
        hub.collect(&mut ended);
    }
    for handle in hub.watches {
        if !handle.is_null() {
            uv_close(handle, let_go);
        }
    }
    hub.finish();
}

fn check(status: sys::napi_status) -> Result<()> {
    if status == sys::Status::napi_ok { Ok(()) } else { Err(Error::from_reason(format!("Node-API answered {status} while reads were set up"))) }
}

/// A reader of the calling thread: its number. `ended(count)` is called from the event loop when `told` holds batch, row and result of
/// so many reads. `ring` false: threads, as where there is no io_uring.
#[napi_derive::napi(ts_args_type = "ended: (count: number) => void, told: Int32Array, ring: boolean")]
pub fn open_reads(env: Env, ended: Function<'_, FnArgs<(u32,)>, ()>, told: Unknown, ring: bool) -> Result<u32> {
    unsafe {
        let raw = env.raw();
        let (mut kind, mut length, mut memory) = (0, 0, null_mut());
        let status = sys::napi_get_typedarray_info(raw, told.raw(), &mut kind, &mut length, &mut memory, null_mut(), null_mut());
        if status != sys::Status::napi_ok || kind != sys::TypedarrayType::int32_array || length < IN_FLIGHT_MAX * TOLD {
            return Err(bad("reads are told of in an Int32Array of 3072 numbers"));
        }
        let event = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        if event < 0 {
            return Err(Error::from_reason("no eventfd is to be had"));
        }
        let (mut uv, mut callback, mut array) = (null_mut(), null_mut(), null_mut());
        check(sys::napi_get_uv_event_loop(raw, &mut uv))?;
        check(sys::napi_create_reference(raw, ended.raw(), 1, &mut callback))?;
        check(sys::napi_create_reference(raw, told.raw(), 1, &mut array))?;
        let hub = Box::into_raw(Box::new(Hub {
            env: raw,
            uv,
            ended: callback,
            told: memory.cast(),
            ring: if ring { new_ring() } else { None },
            refused: false,
            impatient: 0,
            next_impatient: 1,
            inbox: Arc::new(Inbox { ended: Mutex::default(), some: Condvar::new(), event }),
            reads: Vec::new(),
            free: Vec::new(),
            queued: Vec::new(),
            in_ring: 0,
            in_pool: 0,
            holds: Vec::new(),
            free_holds: Vec::new(),
            watches: [null_mut(); 2],
            handles: 0,
            cleanup: null_mut(),
            ending: false,
        }));
        check(sys::napi_add_async_cleanup_hook(raw, Some(end_of_thread), hub.cast(), addr_of_mut!((*hub).cleanup)))?;
        let mut watched = (*hub).watch(0, event);
        if let (true, Some(ring)) = (watched >= 0, &(*hub).ring) {
            let fd = ring.as_raw_fd();
            watched = (*hub).watch(1, fd);
        }
        if watched < 0 {
            return Err(Error::from_reason(format!("libuv answered {watched} while reads were set up")));
        }
        Ok(HUBS.with_borrow_mut(|hubs| {
            hubs.push(hub);
            hubs.len() as u32 - 1
        }))
    }
}

fn hub_of(reader: u32) -> Result<*mut Hub> {
    let hub = HUBS.with_borrow(|hubs| hubs.get(reader as usize).copied().unwrap_or(null_mut()));
    if hub.is_null() { Err(bad("no such reader in this thread")) } else { Ok(hub) }
}

/// Whether the reader has a ring.
#[napi_derive::napi]
pub fn reads_by_ring(reader: u32) -> Result<bool> {
    // SAFETY: hubs are never freed, and belong to this thread.
    Ok(unsafe { (*hub_of(reader)?).ring.is_some() })
}

/// Reads the rows. Each gets the bytes that were read, fewer only at the end of a file, or a negative errno, or -2^31: then `ended`
/// tells of it, as row of `batch`. Returns how many rows will be told of.
#[napi_derive::napi]
pub fn read_ranges(env: Env, reader: u32, rows: Unknown, count: u32, buffers: Unknown, buffer_count: u32, batch: u32) -> Result<u32> {
    // SAFETY: hubs are never freed, belong to this thread, and this does not call JavaScript.
    let hub = unsafe { &mut *hub_of(reader)? };
    let columns = Memory::of(&env, &rows)?;
    let bytes = (count as usize).checked_mul(ROW);
    // SAFETY: the only slice of them; no buffer to read into may share them (checked below).
    let rows = bytes.and_then(|length| unsafe { columns.slice_mut(0, length) }).ok_or_else(|| bad("fewer rows than reads"))?;
    let mut list = Vec::with_capacity(buffer_count as usize);
    Memory::list(&env, &buffers, buffer_count as usize, &mut list)?;
    if list.iter().any(|buffer| buffer.overlaps(&columns)) {
        return Err(bad("reads go into memory of their own"));
    }
    // What the cache does not hold is begun only when every row was found right.
    let mut misses: Vec<(usize, Read)> = Vec::new();
    for (i, row) in rows.chunks_exact_mut(ROW).enumerate() {
        let position = read_whole(row, 0).ok_or_else(|| bad("a position is out of range"))?;
        let buffer = read_u32(row, 12) as usize;
        let (at, length) = (read_u32(row, 16) as usize, read_u32(row, 20));
        // SAFETY: only the kernel writes there, until the read has ended.
        let into = list.get(buffer).and_then(|memory| unsafe { memory.slice_mut(at, length as usize) });
        let into = into.filter(|_| length <= i32::MAX as u32).ok_or_else(|| bad("no room for what is to be read"))?;
        let into = into.as_mut_ptr();
        let fd = read_u32(row, 8) as c_int;
        let mut read = Read { fd, into, length, done: 0, position, batch, row: i as u32, hold: 0 };
        let mut result = length as i32;
        if !read.cached() {
            result = PENDING;
            misses.push((buffer, read));
        }
        row[24..28].copy_from_slice(&result.to_le_bytes());
    }
    if misses.is_empty() {
        return Ok(0);
    }
    let mut pending = 0;
    let before = hub.in_flight();
    if let [(_, read)] = &mut misses[..] {
        if let Some(result) = hub.wait_alone(read) {
            let at = read.row as usize * ROW + 24;
            rows[at..at + 4].copy_from_slice(&result.to_le_bytes());
            return Ok(0);
        }
    }
    let mut holds = vec![None; list.len()];
    for (buffer, mut read) in misses {
        if hub.in_flight() >= IN_FLIGHT_MAX {
            let at = read.row as usize * ROW + 24;
            rows[at..at + 4].copy_from_slice(&read.wait().to_le_bytes());
            continue;
        }
        read.hold = match holds[buffer] {
            Some(hold) => hold,
            // SAFETY: the buffer was found in the array above.
            None => unsafe { hub.hold(buffers.raw(), buffer as u32) }?,
        };
        holds[buffer] = Some(read.hold);
        hub.begin(read);
        pending += 1;
    }
    hub.submit();
    if before == 0 {
        // SAFETY: the handles are open until the thread ends.
        unsafe { hub.keep_loop(true) };
    }
    Ok(pending)
}
