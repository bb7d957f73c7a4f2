//! What this crate uses of libuv, which Node exports but Node-API does not describe, and the way of its callbacks into JavaScript.

use std::alloc::Layout;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::null_mut;

use napi::sys;

/// Opaque: its size is asked of libuv.
#[repr(C)]
pub struct UvHandle {
    _private: [u8; 0],
}

extern "C" {
    fn uv_handle_size(kind: c_int) -> usize;
    fn uv_handle_type_name(kind: c_int) -> *const c_char;
    pub fn uv_handle_set_data(handle: *mut UvHandle, data: *mut c_void);
    pub fn uv_handle_get_data(handle: *const UvHandle) -> *mut c_void;
    pub fn uv_poll_init(uv: *mut sys::uv_loop_s, handle: *mut UvHandle, fd: c_int) -> c_int;
    pub fn uv_poll_start(handle: *mut UvHandle, events: c_int, ready: extern "C" fn(*mut UvHandle, c_int, c_int)) -> c_int;
    pub fn uv_poll_stop(handle: *mut UvHandle) -> c_int;
    pub fn uv_ref(handle: *mut UvHandle);
    pub fn uv_unref(handle: *mut UvHandle);
    pub fn uv_close(handle: *mut UvHandle, closed: extern "C" fn(*mut UvHandle));
}

/// A kind of handle: its number and its name.
pub type Kind = (c_int, &'static CStr);
pub const CHECK: Kind = (2, c"check");
pub const IDLE: Kind = (6, c"idle");
pub const POLL: Kind = (8, c"poll");
pub const PREPARE: Kind = (9, c"prepare");

const HANDLE_ALIGN: usize = 16;
pub const READABLE: c_int = 1;

/// The memory of such a handle; None when this libuv numbers its kinds of handles in another way.
pub fn layout_of((number, name): Kind) -> Option<Layout> {
    // SAFETY: asks libuv for a constant name and a number.
    unsafe {
        let found = uv_handle_type_name(number);
        if found.is_null() || CStr::from_ptr(found) != name {
            return None;
        }
        Layout::from_size_align(uv_handle_size(number), HANDLE_ALIGN).ok()
    }
}

/// The memory of a `uv_poll_t`.
pub fn poll_layout() -> Option<Layout> {
    layout_of(POLL)
}

/// Calls a function from the event loop. Ticks and microtasks of the call run before this returns.
///
/// # Safety
/// On the thread of `env`, outside of any call from JavaScript; `function` refers to a function.
pub unsafe fn call(env: sys::napi_env, function: sys::napi_ref, argument: u32) {
    let mut scope = null_mut();
    if sys::napi_open_handle_scope(env, &mut scope) != sys::Status::napi_ok {
        return;
    }
    let (mut callee, mut global, mut value) = (null_mut(), null_mut(), null_mut());
    sys::napi_get_reference_value(env, function, &mut callee);
    sys::napi_get_global(env, &mut global);
    sys::napi_create_uint32(env, argument, &mut value);
    let called = sys::napi_make_callback(env, null_mut(), global, callee, 1, &value, null_mut());
    if called == sys::Status::napi_pending_exception {
        // As for any callback of the loop: it ends the process or the thread unless somebody catches it there.
        let mut exception = null_mut();
        if sys::napi_get_and_clear_last_exception(env, &mut exception) == sys::Status::napi_ok {
            sys::napi_fatal_exception(env, exception);
        }
    }
    sys::napi_close_handle_scope(env, scope);
}
