//! Sockets without the stream layers in between (`src/transport/native-net.ts`; twin: node:net): non-blocking descriptors, of
//! whose readiness the thread's own event loop tells through one `uv_poll_t` each.
//!
//! Owner: the hub that `open_net` makes for one thread; every function works on its sockets, named by small numbers. Memory to
//! send from or receive into is borrowed for the call only. Errors are negative errno. A number is given out again only when
//! libuv has let go of its handle. When the thread ends with sockets open, the cleanup hook closes them and holds the end up
//! until libuv has let go of all of them; the hub itself is left behind, so that nothing can point at freed memory.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::io;
use std::mem::{replace, size_of, zeroed};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::ptr::{addr_of, addr_of_mut, null_mut};

use napi::bindgen_prelude::{FnArgs, Function, Object};
use napi::{sys, Env, Error, JsValue, Result};

use crate::tls::{self, Security};
use crate::tls_session::Session;
use crate::uv::{
    poll_layout, uv_close, uv_handle_get_data, uv_handle_set_data, uv_poll_init, uv_poll_start, uv_poll_stop, UvHandle, READABLE,
};

const WRITABLE: c_int = 2;
/// The system reported an error; the socket is not watched any more. libuv tells no more than that.
const BROKEN: c_int = 4;

/// Pieces of one vectored send.
pub const PIECES_MAX: usize = 64;
/// Connections that wait to be accepted; the system has its own bound.
const BACKLOG: c_int = 511;
/// A peer that lost power answers nothing: probes end the connection after a minute.
const KEEP_IDLE_S: c_int = 15;
const KEEP_INTERVAL_S: c_int = 5;
const KEEP_PROBES: c_int = 9;

pub struct Socket {
    hub: *mut Hub,
    id: u32,
    pub fd: c_int,
    handle: *mut UvHandle,
    layout: Layout,
    /// Of tls.rs alone: nothing here looks at it.
    pub session: Option<Box<Session>>,
}

pub struct Hub {
    env: sys::napi_env,
    uv: *mut sys::uv_loop_s,
    ready: sys::napi_ref,
    sockets: Vec<*mut Socket>,
    free: Vec<u32>,
    /// Handles that libuv has not let go of.
    handles: usize,
    cleanup: sys::napi_async_cleanup_hook_handle,
    ending: bool,
    /// Of tls.rs alone.
    pub security: Option<Box<Security>>,
}

impl Hub {
    /// Takes over `fd`; returns the socket's number, or a negative errno with `fd` closed.
    unsafe fn add(&mut self, fd: c_int) -> c_int {
        let (Some(layout), false) = (poll_layout(), self.ending) else {
            libc::close(fd);
            return -libc::ENOMEM;
        };
        let handle = alloc_zeroed(layout) as *mut UvHandle;
        let status = if handle.is_null() {
            -libc::ENOMEM
        } else {
            uv_poll_init(self.uv, handle, fd)
        };
        if status < 0 {
            if !handle.is_null() {
                dealloc(handle as *mut u8, layout);
            }
            libc::close(fd);
            return status;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(null_mut());
            self.sockets.len() as u32 - 1
        });
        let socket = Box::into_raw(Box::new(Socket {
            hub: self,
            id,
            fd,
            handle,
            layout,
            session: None,
        }));
        uv_handle_set_data(handle, socket as *mut c_void);
        self.sockets[id as usize] = socket;
        self.handles += 1;
        id as c_int
    }

    unsafe fn find(&self, id: u32) -> Option<&Socket> {
        self.sockets
            .get(id as usize)
            .and_then(|socket| socket.as_ref())
    }

    /// The socket and the hub's part in TLS: what tls.rs works on.
    pub unsafe fn secured(&mut self, id: u32) -> Option<(&mut Socket, &mut Security)> {
        let socket = self.sockets.get(id as usize)?.as_mut()?;
        Some((socket, self.security.as_mut()?))
    }

    pub unsafe fn close(&mut self, id: u32) {
        let Some(slot) = self.sockets.get_mut(id as usize) else {
            return;
        };
        let Some(socket) = replace(slot, null_mut()).as_ref() else {
            return;
        };
        // First the loop stops watching, then the descriptor's number can be given out again.
        uv_close(socket.handle, let_go);
        libc::close(socket.fd);
    }

    unsafe fn finish(&mut self) {
        if self.handles == 0 {
            sys::napi_remove_async_cleanup_hook(self.cleanup);
        }
    }
}

extern "C" fn let_go(handle: *mut UvHandle) {
    unsafe {
        let socket = Box::from_raw(uv_handle_get_data(handle) as *mut Socket);
        dealloc(handle as *mut u8, socket.layout);
        let hub = &mut *socket.hub;
        hub.handles -= 1;
        hub.free.push(socket.id);
        if hub.ending {
            hub.finish();
        }
    }
}

unsafe extern "C" fn end_of_thread(
    _handle: sys::napi_async_cleanup_hook_handle,
    data: *mut c_void,
) {
    let hub = &mut *(data as *mut Hub);
    hub.ending = true;
    for id in 0..hub.sockets.len() as u32 {
        hub.close(id);
    }
    hub.finish();
}

/// Something happened on a socket. Ticks and microtasks of the call run before this returns.
extern "C" fn ready(handle: *mut UvHandle, status: c_int, events: c_int) {
    unsafe {
        let socket = &*(uv_handle_get_data(handle) as *const Socket);
        let hub = &*socket.hub;
        if !hub.ending {
            call_ready(
                hub.env,
                hub.ready,
                socket.id,
                if status < 0 { BROKEN } else { events },
            );
        }
    }
}

unsafe fn call_ready(env: sys::napi_env, ready: sys::napi_ref, id: u32, events: c_int) {
    let mut scope = null_mut();
    if sys::napi_open_handle_scope(env, &mut scope) != sys::Status::napi_ok {
        return;
    }
    let mut function = null_mut();
    let mut global = null_mut();
    let mut arguments = [null_mut(); 2];
    sys::napi_get_reference_value(env, ready, &mut function);
    sys::napi_get_global(env, &mut global);
    sys::napi_create_uint32(env, id, &mut arguments[0]);
    sys::napi_create_int32(env, events, &mut arguments[1]);
    let called = sys::napi_make_callback(
        env,
        null_mut(),
        global,
        function,
        2,
        arguments.as_ptr(),
        null_mut(),
    );
    if called == sys::Status::napi_pending_exception {
        // As for any callback of the loop: it ends the process or the thread unless somebody catches it there.
        let mut exception = null_mut();
        if sys::napi_get_and_clear_last_exception(env, &mut exception) == sys::Status::napi_ok {
            sys::napi_fatal_exception(env, exception);
        }
    }
    sys::napi_close_handle_scope(env, scope);
}

/// The arguments of one call; those that are missing are undefined.
pub struct Call<const N: usize> {
    pub env: sys::napi_env,
    pub hub: *mut Hub,
    arguments: [sys::napi_value; N],
}

impl<const N: usize> Call<N> {
    pub unsafe fn new(env: sys::napi_env, info: sys::napi_callback_info) -> Self {
        let mut arguments = [null_mut(); N];
        let mut count = N;
        let mut hub = null_mut();
        sys::napi_get_cb_info(
            env,
            info,
            &mut count,
            arguments.as_mut_ptr(),
            null_mut(),
            &mut hub,
        );
        Call {
            env,
            hub: hub as *mut Hub,
            arguments,
        }
    }

    /// u32::MAX, which names no socket and ends no buffer, when it is no number.
    pub unsafe fn number(&self, index: usize) -> u32 {
        let mut value = u32::MAX;
        sys::napi_get_value_uint32(self.env, self.arguments[index], &mut value);
        value
    }

    unsafe fn socket(&self) -> Option<&Socket> {
        (*self.hub).find(self.number(0))
    }

    /// The descriptor of the socket that argument 0 names, -1 for none.
    unsafe fn fd(&self) -> c_int {
        self.socket().map_or(-1, |socket| socket.fd)
    }

    /// bytes[from..to) of three arguments; None when that is not within the bytes.
    pub unsafe fn span(&self, first: usize) -> Option<(*mut c_void, usize)> {
        let (bytes, length) = bytes_of(self.env, self.arguments[first])?;
        within(
            bytes,
            length,
            self.number(first + 1),
            self.number(first + 2),
        )
    }

    unsafe fn text(&self, index: usize) -> Option<String> {
        let mut bytes = [0u8; 256];
        let mut length = 0;
        let at = bytes.as_mut_ptr() as *mut c_char;
        let status = sys::napi_get_value_string_utf8(
            self.env,
            self.arguments[index],
            at,
            bytes.len(),
            &mut length,
        );
        // What fills the buffer may have been cut.
        if status != sys::Status::napi_ok || length >= bytes.len() - 4 {
            return None;
        }
        String::from_utf8(bytes[..length].to_vec()).ok()
    }

    /// The bytes of an argument, as they are during this call; None when it has none.
    pub unsafe fn bytes<'call>(&self, index: usize) -> Option<&'call [u8]> {
        let (bytes, length) = bytes_of(self.env, self.arguments[index])?;
        Some(if length == 0 { &[] } else { std::slice::from_raw_parts(bytes, length) })
    }

    /// Pieces of arguments (id, pieces, spans, first, count), see send_all; None when they are not within their bytes.
    #[inline(always)]
    pub unsafe fn pieces(&self, pieces: &mut [libc::iovec; PIECES_MAX]) -> Option<usize> {
        let mut kind = 0;
        let mut length = 0;
        let mut data = null_mut();
        let (first, count) = (self.number(3), self.number(4) as usize);
        let status = sys::napi_get_typedarray_info(
            self.env,
            self.arguments[2],
            &mut kind,
            &mut length,
            &mut data,
            null_mut(),
            null_mut(),
        );
        let spans = data as *const u32;
        if status != sys::Status::napi_ok
            || kind != sys::TypedarrayType::uint32_array
            || count > PIECES_MAX
            || length < 2 * count
        {
            return None;
        }
        for (i, piece) in pieces.iter_mut().enumerate().take(count) {
            let mut value = null_mut();
            if sys::napi_get_element(
                self.env,
                self.arguments[1],
                first.wrapping_add(i as u32),
                &mut value,
            ) != sys::Status::napi_ok
            {
                return None;
            }
            let (bytes, length) = bytes_of(self.env, value)?;
            let (base, length) = within(bytes, length, *spans.add(2 * i), *spans.add(2 * i + 1))?;
            *piece = libc::iovec {
                iov_base: base,
                iov_len: length,
            };
        }
        Some(count)
    }

    pub unsafe fn answer(&self, value: c_int) -> sys::napi_value {
        let mut result = null_mut();
        sys::napi_create_int32(self.env, value, &mut result);
        result
    }
}

unsafe fn bytes_of(env: sys::napi_env, value: sys::napi_value) -> Option<(*mut u8, usize)> {
    let mut kind = 0;
    let mut length = 0;
    let mut data = null_mut();
    let status = sys::napi_get_typedarray_info(
        env,
        value,
        &mut kind,
        &mut length,
        &mut data,
        null_mut(),
        null_mut(),
    );
    let ok = status == sys::Status::napi_ok
        && kind == sys::TypedarrayType::uint8_array
        && (length == 0 || !data.is_null());
    ok.then_some((data as *mut u8, length))
}

unsafe fn within(
    bytes: *mut u8,
    length: usize,
    from: u32,
    to: u32,
) -> Option<(*mut c_void, usize)> {
    let (from, to) = (from as usize, to as usize);
    (from <= to && to <= length).then(|| (bytes.add(from) as *mut c_void, to - from))
}

pub fn errno() -> c_int {
    -io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// Repeats what a signal interrupted; the result, or a negative errno.
pub unsafe fn attempt(call: impl Fn() -> isize) -> c_int {
    loop {
        let result = call();
        if result >= 0 {
            return result as c_int;
        }
        let failed = errno();
        if failed != -libc::EINTR {
            return failed;
        }
    }
}

// --- What the hub's functions do. Each is called with the socket's number first, where it is about one.

pub type Native = unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value;

/// watch(id, events): calls ready(id, events) whenever one of the events holds; 0 stops.
unsafe extern "C" fn watch(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<2>::new(env, info);
    let events = call.number(1) as c_int & (READABLE | WRITABLE);
    let status = match call.socket() {
        None => -libc::EBADF,
        Some(socket) if events == 0 => uv_poll_stop(socket.handle),
        Some(socket) => uv_poll_start(socket.handle, events, ready),
    };
    call.answer(status)
}

/// receive(id, bytes, from, to): how many came; 0 when the peer has ended.
unsafe extern "C" fn receive(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<4>::new(env, info);
    let Some((data, length)) = call.span(1) else {
        return call.answer(-libc::EINVAL);
    };
    let fd = call.fd();
    call.answer(attempt(|| libc::recv(fd, data, length, libc::MSG_DONTWAIT)))
}

/// send(id, bytes, from, to): how many were taken.
unsafe extern "C" fn send(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<4>::new(env, info);
    let Some((data, length)) = call.span(1) else {
        return call.answer(-libc::EINVAL);
    };
    let fd = call.fd();
    call.answer(attempt(|| {
        libc::send(fd, data, length, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }))
}

/// sendAll(id, pieces, spans, first, count): pieces[first + i] from spans[2i] to spans[2i + 1] (a Uint32Array); how many bytes
/// were taken.
unsafe extern "C" fn send_all(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<5>::new(env, info);
    let mut pieces: [libc::iovec; PIECES_MAX] = zeroed();
    let Some(count) = call.pieces(&mut pieces) else {
        return call.answer(-libc::EINVAL);
    };
    let mut message: libc::msghdr = zeroed();
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = count as _;
    let fd = call.fd();
    call.answer(attempt(|| {
        libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }))
}

/// shutdown(id): ends the sending side.
unsafe extern "C" fn shutdown(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let fd = call.fd();
    call.answer(attempt(|| libc::shutdown(fd, libc::SHUT_WR) as isize))
}

unsafe extern "C" fn close(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    (*call.hub).close(call.number(0));
    call.answer(0)
}

/// failure(id): 0, or the error that broke it; asking clears it.
unsafe extern "C" fn failure(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let mut error: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    let at = addr_of_mut!(error) as *mut c_void;
    let status = libc::getsockopt(call.fd(), libc::SOL_SOCKET, libc::SO_ERROR, at, &mut length);
    call.answer(if status < 0 { errno() } else { -error })
}

/// connectTcp(ip, port): a socket that is writable once connected, or broken.
unsafe extern "C" fn connect_tcp(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<2>::new(env, info);
    let Some(address) = call
        .text(0)
        .and_then(|text| Address::tcp(&text, call.number(1)))
    else {
        return call.answer(-libc::EINVAL);
    };
    call.answer(connect(call.hub, &address))
}

unsafe extern "C" fn connect_unix(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let Some(address) = call.text(0).and_then(|path| Address::unix(&path)) else {
        return call.answer(-libc::EINVAL);
    };
    call.answer(connect(call.hub, &address))
}

unsafe fn connect(hub: *mut Hub, address: &Address) -> c_int {
    let fd = address.socket();
    if fd < 0 {
        return fd;
    }
    set_options(fd, address.family());
    let status = attempt(|| libc::connect(fd, address.as_ptr(), address.length) as isize);
    if status < 0 && status != -libc::EINPROGRESS {
        libc::close(fd);
        return status;
    }
    (*hub).add(fd)
}

/// openNetlink(protocol): a datagram socket to the kernel, bound to a port that the kernel chooses.
unsafe extern "C" fn open_netlink(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = libc::socket(libc::AF_NETLINK, flags, call.number(0) as c_int);
    if fd < 0 {
        return call.answer(errno());
    }
    let mut address: libc::sockaddr_nl = zeroed();
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    if libc::bind(fd, addr_of!(address) as *const libc::sockaddr, length) < 0 {
        let failed = errno();
        libc::close(fd);
        return call.answer(failed);
    }
    call.answer((*call.hub).add(fd))
}

/// joinGroup(id, group): a netlink socket is sent what the kernel tells this group.
unsafe extern "C" fn join_group(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<2>::new(env, info);
    let group = call.number(1);
    let at = addr_of!(group) as *const c_void;
    let length = size_of::<u32>() as libc::socklen_t;
    let name = libc::NETLINK_ADD_MEMBERSHIP;
    let status = libc::setsockopt(call.fd(), libc::SOL_NETLINK, name, at, length);
    call.answer(if status < 0 { errno() } else { 0 })
}

/// descriptor(id): what the kernel knows the socket by, for as long as it is open.
unsafe extern "C" fn descriptor(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    call.answer(call.socket().map_or(-libc::EBADF, |socket| socket.fd))
}

/// listenTcp(ip, port): readable when somebody waits to be accepted.
unsafe extern "C" fn listen_tcp(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<2>::new(env, info);
    let Some(address) = call
        .text(0)
        .and_then(|text| Address::tcp(&text, call.number(1)))
    else {
        return call.answer(-libc::EINVAL);
    };
    call.answer(listen(call.hub, &address, None))
}

/// listenUnix(path): the socket has mode 0600 before anybody can connect.
unsafe extern "C" fn listen_unix(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let Some(path) = call.text(0) else {
        return call.answer(-libc::EINVAL);
    };
    let (Some(address), Ok(file)) = (Address::unix(&path), CString::new(path)) else {
        return call.answer(-libc::EINVAL);
    };
    call.answer(listen(call.hub, &address, Some(&file)))
}

unsafe fn listen(hub: *mut Hub, address: &Address, file: Option<&CStr>) -> c_int {
    let fd = address.socket();
    if fd < 0 {
        return fd;
    }
    if address.family() != libc::AF_UNIX {
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    }
    if address.family() == libc::AF_INET6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0);
    }
    let bound = libc::bind(fd, address.as_ptr(), address.length) == 0;
    let ready = bound
        && file.is_none_or(|file| libc::chmod(file.as_ptr(), 0o600) == 0)
        && libc::listen(fd, BACKLOG) == 0;
    if ready {
        return (*hub).add(fd);
    }
    let failed = errno();
    if let (true, Some(file)) = (bound, file) {
        libc::unlink(file.as_ptr());
    }
    libc::close(fd);
    failed
}

/// accept(id): the next who waits.
unsafe extern "C" fn accept(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let fd = call.fd();
    let mut address = Address::empty();
    let accepted = loop {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let accepted = libc::accept4(fd, address.as_mut_ptr(), &mut address.length, flags);
        if accepted >= 0 || errno() != -libc::EINTR {
            break accepted;
        }
    };
    if accepted < 0 {
        return call.answer(errno());
    }
    set_options(accepted, address.family());
    call.answer((*call.hub).add(accepted))
}

/// port(id): of this end of a TCP socket.
unsafe extern "C" fn port(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let mut address = Address::empty();
    let status = libc::getsockname(call.fd(), address.as_mut_ptr(), &mut address.length);
    call.answer(if status < 0 { errno() } else { address.port() })
}

/// peer(id): "ip:port" of the other end of a TCP socket, for log lines.
unsafe extern "C" fn peer(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let mut address = Address::empty();
    let known = libc::getpeername(call.fd(), address.as_mut_ptr(), &mut address.length) == 0;
    let text = if known {
        address.text()
    } else {
        String::from("?")
    };
    let mut result = null_mut();
    sys::napi_create_string_utf8(
        env,
        text.as_ptr() as *const c_char,
        text.len() as isize,
        &mut result,
    );
    result
}

const FUNCTIONS: [(&CStr, Native); 17] = [
    (c"watch", watch),
    (c"receive", receive),
    (c"send", send),
    (c"sendAll", send_all),
    (c"shutdown", shutdown),
    (c"close", close),
    (c"failure", failure),
    (c"connectTcp", connect_tcp),
    (c"connectUnix", connect_unix),
    (c"openNetlink", open_netlink),
    (c"joinGroup", join_group),
    (c"descriptor", descriptor),
    (c"listenTcp", listen_tcp),
    (c"listenUnix", listen_unix),
    (c"accept", accept),
    (c"port", port),
    (c"peer", peer),
];

unsafe fn set_option(fd: c_int, level: c_int, name: c_int, value: c_int) {
    libc::setsockopt(
        fd,
        level,
        name,
        addr_of!(value) as *const c_void,
        size_of::<c_int>() as libc::socklen_t,
    );
}

/// A system that refuses one of them is slower to notice or to send, and otherwise right.
unsafe fn set_options(fd: c_int, family: c_int) {
    if family == libc::AF_UNIX {
        return;
    }
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEP_IDLE_S);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEP_INTERVAL_S);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEP_PROBES);
}

struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Address {
    unsafe fn empty() -> Self {
        Address {
            storage: zeroed(),
            length: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    /// An IP address in text, a v6 one with its zone ("fe80::1%eth0") where it has one.
    unsafe fn tcp(text: &str, port: u32) -> Option<Self> {
        let port = u16::try_from(port).ok()?.to_be();
        let (ip, zone) = text.split_once('%').unwrap_or((text, ""));
        let mut address = Self::empty();
        match ip.parse().ok()? {
            IpAddr::V4(ip) => {
                let at = address.as_mut_ptr() as *mut libc::sockaddr_in;
                (*at).sin_family = libc::AF_INET as libc::sa_family_t;
                (*at).sin_port = port;
                (*at).sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
                address.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            IpAddr::V6(ip) => {
                let at = address.as_mut_ptr() as *mut libc::sockaddr_in6;
                (*at).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*at).sin6_port = port;
                (*at).sin6_addr.s6_addr = ip.octets();
                if !zone.is_empty() {
                    (*at).sin6_scope_id = libc::if_nametoindex(CString::new(zone).ok()?.as_ptr());
                }
                address.length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        Some(address)
    }

    /// None when the path is too long for the system.
    unsafe fn unix(path: &str) -> Option<Self> {
        let mut address = Self::empty();
        let at = address.as_mut_ptr() as *mut libc::sockaddr_un;
        let bytes = std::ffi::OsStr::new(path).as_bytes();
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= (*at).sun_path.len() {
            return None;
        }
        (*at).sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in (*at).sun_path.iter_mut().zip(bytes) {
            *to = *from as c_char;
        }
        address.length = (size_of::<libc::sa_family_t>() + bytes.len() + 1) as libc::socklen_t;
        Some(address)
    }

    fn family(&self) -> c_int {
        self.storage.ss_family as c_int
    }

    unsafe fn port(&self) -> c_int {
        // Both kinds have it at the same place.
        u16::from_be((*(addr_of!(self.storage) as *const libc::sockaddr_in)).sin_port) as c_int
    }

    unsafe fn text(&self) -> String {
        match self.family() {
            libc::AF_INET => {
                let at = addr_of!(self.storage) as *const libc::sockaddr_in;
                format!(
                    "{}:{}",
                    IpAddr::from((*at).sin_addr.s_addr.to_ne_bytes()),
                    self.port()
                )
            }
            libc::AF_INET6 => {
                let at = addr_of!(self.storage) as *const libc::sockaddr_in6;
                format!(
                    "[{}]:{}",
                    IpAddr::from((*at).sin6_addr.s6_addr),
                    self.port()
                )
            }
            _ => String::from("?"),
        }
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        addr_of!(self.storage) as *const libc::sockaddr
    }

    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        addr_of_mut!(self.storage) as *mut libc::sockaddr
    }

    /// A descriptor for this family, or a negative errno.
    unsafe fn socket(&self) -> c_int {
        let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = libc::socket(self.family(), flags, 0);
        if fd < 0 {
            errno()
        } else {
            fd
        }
    }
}

fn check(status: sys::napi_status) -> Result<()> {
    if status == sys::Status::napi_ok {
        Ok(())
    } else {
        Err(Error::from_reason(format!(
            "Node-API answered {status} while sockets were set up"
        )))
    }
}

/// The sockets of the calling thread: an object of the functions above. `ready(id, events)` is called from the event loop.
#[napi_derive::napi(ts_args_type = "ready: (id: number, events: number) => void")]
pub fn open_net<'a>(env: Env, ready: Function<'a, FnArgs<(u32, i32)>, ()>) -> Result<Object<'a>> {
    unsafe {
        if poll_layout().is_none() {
            return Err(Error::from_reason(
                "this libuv numbers its kinds of handles in another way",
            ));
        }
        let raw = env.raw();
        let mut uv = null_mut();
        let mut callback = null_mut();
        check(sys::napi_get_uv_event_loop(raw, &mut uv))?;
        check(sys::napi_create_reference(
            raw,
            ready.raw(),
            1,
            &mut callback,
        ))?;
        let hub = Box::into_raw(Box::new(Hub {
            env: raw,
            uv,
            ready: callback,
            sockets: Vec::new(),
            free: Vec::new(),
            handles: 0,
            cleanup: null_mut(),
            ending: false,
            security: None,
        }));
        let data = hub as *mut c_void;
        check(sys::napi_add_async_cleanup_hook(
            raw,
            Some(end_of_thread),
            data,
            addr_of_mut!((*hub).cleanup),
        ))?;
        let functions = Object::new(&env)?;
        for (name, native) in FUNCTIONS.into_iter().chain(tls::FUNCTIONS) {
            let mut value = null_mut();
            check(sys::napi_create_function(
                raw,
                name.as_ptr(),
                name.count_bytes() as isize,
                Some(native),
                data,
                &mut value,
            ))?;
            check(sys::napi_set_named_property(
                raw,
                functions.raw(),
                name.as_ptr(),
                value,
            ))?;
        }
        Ok(functions)
    }
}
