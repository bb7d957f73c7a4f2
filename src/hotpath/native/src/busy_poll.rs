//! Waits for events awake for a short time before it lets the thread sleep (`src/transport/busy-poll.ts`; twin: none, the thread just
//! sleeps). A thread that sleeps has to be woken: its CPU leaves the idle state, and in a virtual machine both that and the other
//! CPU's interrupt for it are exits to the host, tens of microseconds for either side. When the next request comes sooner than that,
//! looking for it costs less.
//!
//! Owner: the thread, one for each; it lives as long as the thread. How long is looked adapts as the kernel's haltpoll governor does:
//! from zero up to the given bound when the event came soon after the thread had gone to sleep, and down again when none came in that
//! bound. So a thread with nothing to do sleeps at once. Between two looks the CPU is given to any other thread that wants it.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::zeroed;
use std::ptr::{addr_of_mut, null_mut};
use std::time::Duration;

use napi::{sys, Env, Error, Result};

use crate::uv::{
    layout_of, uv_close, uv_handle_get_data, uv_handle_set_data, uv_unref, Kind, UvHandle, CHECK, IDLE, PREPARE,
};

#[repr(C)]
struct UvMetrics {
    loops: u64,
    events: u64,
    waiting: u64,
    reserved: [u64; 13],
}

type Turn = extern "C" fn(*mut UvHandle);

extern "C" {
    fn uv_metrics_idle_time(uv: *mut sys::uv_loop_s) -> u64;
    fn uv_metrics_info(uv: *mut sys::uv_loop_s, metrics: *mut UvMetrics) -> c_int;
    fn uv_check_init(uv: *mut sys::uv_loop_s, handle: *mut UvHandle) -> c_int;
    fn uv_check_start(handle: *mut UvHandle, turn: Turn) -> c_int;
    fn uv_idle_init(uv: *mut sys::uv_loop_s, handle: *mut UvHandle) -> c_int;
    fn uv_idle_start(handle: *mut UvHandle, turn: Turn) -> c_int;
    fn uv_idle_stop(handle: *mut UvHandle) -> c_int;
    fn uv_prepare_init(uv: *mut sys::uv_loop_s, handle: *mut UvHandle) -> c_int;
    fn uv_prepare_start(handle: *mut UvHandle, turn: Turn) -> c_int;
}

/// The first time that is worth a try, and below which none is.
const LEAST_NS: u64 = 10_000;

/// What comes after so much work comes in bulk: then being woken costs little in proportion, and other threads can do with the CPU.
const LONG_NS: u64 = 50_000;

thread_local! {
    /// Nanoseconds that this thread has waited for a disk, in calls, since its loop asked for events last.
    static WAITED: Cell<u64> = const { Cell::new(0) };
}

/// The thread has waited for a disk, in a call: that was no work.
pub fn waited(time: Duration) {
    WAITED.set(WAITED.get() + time.as_nanos() as u64);
}

struct BusyPoll {
    uv: *mut sys::uv_loop_s,
    /// Prepare, check and idle, each with its layout.
    handles: [(*mut UvHandle, Layout); 3],
    open: usize,
    cleanup: sys::napi_async_cleanup_hook_handle,
    most: u64,
    /// How long is looked now. 0: not at all.
    window: u64,
    /// When the loop asked for events last.
    asked: u64,
    /// When this look began; 0: it has not.
    since: u64,
    /// Events that the loop has handled, and nanoseconds that it has slept, when it was last looked at.
    events: u64,
    slept: u64,
    looking: bool,
}

impl BusyPoll {
    fn idle(&self) -> *mut UvHandle {
        self.handles[2].0
    }

    unsafe fn look(&mut self, on: bool) {
        if on == self.looking {
            return;
        }
        self.looking = on;
        // An idle handle that is started has the loop ask for events without waiting for them.
        if on {
            uv_idle_start(self.idle(), looked);
        } else {
            uv_idle_stop(self.idle());
        }
    }

    /// An event came after the thread had slept for so long; 0: it came while it looked.
    fn adapt(&mut self, slept: u64) {
        if slept == 0 {
            return;
        }
        if self.window + slept > self.most {
            self.window /= 2;
            if self.window < LEAST_NS {
                self.window = 0;
            }
        } else {
            self.window = (self.window * 2).max(2 * LEAST_NS).min(self.most);
        }
    }
}

fn now() -> u64 {
    // SAFETY: the out pointer is valid.
    unsafe {
        let mut time: libc::timespec = zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

unsafe fn of<'a>(handle: *mut UvHandle) -> &'a mut BusyPoll {
    &mut *(uv_handle_get_data(handle) as *mut BusyPoll)
}

/// Before the loop asks for events.
extern "C" fn prepared(handle: *mut UvHandle) {
    unsafe {
        let this = of(handle);
        this.asked = now();
        WAITED.set(0);
        if this.looking && this.since == 0 {
            this.since = this.asked;
        }
    }
}

/// After it has, and what came was handled.
extern "C" fn checked(handle: *mut UvHandle) {
    unsafe {
        let this = of(handle);
        let mut metrics: UvMetrics = zeroed();
        uv_metrics_info(this.uv, addr_of_mut!(metrics));
        if metrics.events != this.events {
            this.events = metrics.events;
            let total = uv_metrics_idle_time(this.uv);
            let slept = total.wrapping_sub(this.slept);
            this.adapt(slept);
            this.slept = total;
            this.since = 0;
            let worked = now().saturating_sub(this.asked + slept + WAITED.get());
            this.look(this.window > 0 && worked < LONG_NS);
        }
    }
}

/// In each turn of the loop while it looks.
extern "C" fn looked(handle: *mut UvHandle) {
    unsafe {
        let this = of(handle);
        if this.since != 0 && now() - this.since > this.window {
            this.look(false);
        } else {
            libc::sched_yield();
        }
    }
}

extern "C" fn let_go(handle: *mut UvHandle) {
    unsafe {
        let this = of(handle);
        if let Some((at, layout)) = this.handles.iter().find(|(at, _)| *at == handle) {
            dealloc(*at as *mut u8, *layout);
        }
        this.open -= 1;
        if this.open == 0 {
            sys::napi_remove_async_cleanup_hook(this.cleanup);
            drop(Box::from_raw(this));
        }
    }
}

unsafe extern "C" fn end_of_thread(_handle: sys::napi_async_cleanup_hook_handle, data: *mut c_void) {
    let this = &mut *(data as *mut BusyPoll);
    for (handle, _) in this.handles {
        uv_close(handle, let_go);
    }
}

/// A zeroed handle that nothing knows of yet.
unsafe fn new_handle(kind: Kind) -> Result<(*mut UvHandle, Layout)> {
    let layout = layout_of(kind)
        .ok_or_else(|| Error::from_reason("this libuv numbers its kinds of handles in another way"))?;
    let handle = alloc_zeroed(layout) as *mut UvHandle;
    if handle.is_null() {
        return Err(Error::from_reason("no memory for a handle of libuv"));
    }
    Ok((handle, layout))
}

/// The calling thread looks for events for up to `most_us` microseconds before it sleeps, from now to its end. To be called once.
#[napi_derive::napi]
pub fn start_busy_poll(env: Env, most_us: u32) -> Result<()> {
    unsafe {
        let raw = env.raw();
        let mut uv = null_mut();
        if sys::napi_get_uv_event_loop(raw, &mut uv) != sys::Status::napi_ok {
            return Err(Error::from_reason("this thread has no event loop"));
        }
        let handles = [new_handle(PREPARE)?, new_handle(CHECK)?, new_handle(IDLE)?];
        let this = Box::into_raw(Box::new(BusyPoll {
            uv,
            handles,
            open: handles.len(),
            cleanup: null_mut(),
            most: u64::from(most_us) * 1000,
            window: 0,
            asked: 0,
            since: 0,
            events: 0,
            slept: uv_metrics_idle_time(uv),
            looking: false,
        }));
        let hook = addr_of_mut!((*this).cleanup);
        if sys::napi_add_async_cleanup_hook(raw, Some(end_of_thread), this as *mut c_void, hook) != sys::Status::napi_ok {
            for (handle, layout) in handles {
                dealloc(handle as *mut u8, layout);
            }
            drop(Box::from_raw(this));
            return Err(Error::from_reason("the end of this thread can not be watched"));
        }
        let [(prepare, _), (check, _), (idle, _)] = handles;
        // None of these can fail: they only link the handles into the loop, which they don't keep alive.
        uv_prepare_init(uv, prepare);
        uv_check_init(uv, check);
        uv_idle_init(uv, idle);
        for (handle, _) in handles {
            uv_handle_set_data(handle, this as *mut c_void);
            uv_unref(handle);
        }
        uv_prepare_start(prepare, prepared);
        uv_check_start(check, checked);
        Ok(())
    }
}
