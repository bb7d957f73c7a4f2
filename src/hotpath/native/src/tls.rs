//! TLS 1.3 with certificates on both ends, on the sockets of net.rs (`src/transport/native-tls.ts`; twin: node:tls). The handshake is
//! rustls's; the records after it are sealed and opened by tls_records.rs in the memory that is sent from and received into.
//!
//! Owner: the hub; a socket is secured once, before anything was sent or received on it, and what it sends and receives then goes
//! through the functions here alone. Invariants: during the handshake no byte behind the record that is awaited is received, so
//! that none has to be kept; a byte of data counts as taken when the record that holds it has left (the caller offers it again
//! until then, and its memory is not looked at a second time); a session that failed fails for ever. Nothing here lives in a
//! plain socket's way.

use std::ffi::{c_int, c_void, CStr};
use std::mem::{take, zeroed};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null_mut;
use std::slice;
use std::sync::Arc;

use napi::sys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, Resumption, UnbufferedClientConnection};
use rustls::crypto::{ring, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::ConnectionState;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};

use crate::net::{attempt, Call, Native, Socket, PIECES_MAX};
use crate::tls_records::{
    Keys, Records, BAD_RECORD_MAC, HEADER, PLAIN_MAX, RECORD_ROOM, SEALED_MAX, UPDATE_ROOM,
};

/// Records of one send: as much as a socket usually takes, and little enough to stay in the processor's cache.
const RECORDS_MAX: usize = 16;
const SCRATCH_BYTES: usize = RECORDS_MAX * (RECORD_ROOM + UPDATE_ROOM);
/// Of a handshake: a chain of certificates has a few KiB.
const HANDSHAKE_RECORDS_MAX: u32 = 64;

const DONE: c_int = 0;
const WANTS_READ: c_int = 1;
const WANTS_WRITE: c_int = 2;

/// What the sockets of a thread share.
pub struct Security {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    records_per_key: u64,
    scratch: Vec<u8>,
}

enum State {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    Open(Records),
    Failed,
}

pub struct Session {
    state: State,
    /// Received and not yet used: the beginning of a record. During the handshake, before it, records of a message that is not whole.
    incoming: Vec<u8>,
    /// Whole records at the front of `incoming` that the handshake has been given.
    seen: usize,
    /// Sealed, or made by the handshake, and not yet sent from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes of data that count as taken when `outgoing` has left.
    owed: usize,
    handshake_records: u32,
    /// The peer's own certificate, DER.
    certificate: Vec<u8>,
    /// Why it failed.
    problem: String,
}

/// Any certificate of the CA will do: who it names is judged by whoever connects.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(String::from("TLS 1.2 is not spoken here")))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{what} holds no certificate")),
        Err(error) => Err(format!("{what} is no PEM file: {error}")),
    }
}

impl Security {
    fn new(ca: &[u8], chain: &[u8], key: &[u8], records_per_key: u64, scratch: Vec<u8>) -> Result<Self, String> {
        let text = |error: Error| error.to_string();
        let mut provider = ring::default_provider();
        // What is worth keeping from others is sealed with 256 bits before it gets here; 128 cost a quarter less.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        for one in certificates(ca, "the CA's file")? {
            roots.add(one).map_err(text)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(chain, "the certificate's file")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key's file holds no private key: {error}"))?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(text)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(text)?;
        // Every connection is verified anew: a certificate that has expired is not let in by an old session.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        let verifier = Arc::new(ChainVerifier { roots, provider: provider.clone() });
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(text)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(text)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.enable_secret_extraction = true;
        Ok(Security { client: Arc::new(client), server: Arc::new(server), records_per_key, scratch })
    }

    fn session(&self, server: bool) -> Result<Session, Error> {
        let state = if server {
            State::Server(UnbufferedServerConnection::new(self.server.clone())?)
        } else {
            // Nobody is told this name, and none is asked of a certificate.
            let name = ServerName::try_from("holdfast.invalid").map_err(|error| Error::General(error.to_string()))?;
            State::Client(UnbufferedClientConnection::new(self.client.clone(), name)?)
        };
        Ok(Session {
            state,
            incoming: Vec::new(),
            seen: 0,
            outgoing: Vec::new(),
            sent: 0,
            owed: 0,
            handshake_records: 0,
            certificate: Vec::new(),
            problem: String::new(),
        })
    }
}

unsafe fn receive_into(fd: c_int, bytes: *mut u8, length: usize) -> c_int {
    attempt(|| libc::recv(fd, bytes as *mut c_void, length, libc::MSG_DONTWAIT))
}

unsafe fn send_from(fd: c_int, bytes: &[u8]) -> c_int {
    attempt(|| libc::send(fd, bytes.as_ptr() as *const c_void, bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL))
}

/// What the handshake wants next. Generic over the two ends, which share no trait.
enum Step {
    Again,
    Transmit,
    Blocked,
    Open,
    Failed(String),
}

macro_rules! step {
    ($connection:expr, $incoming:expr, $outgoing:expr, $flushed:expr) => {{
        let status = $connection.process_tls_records($incoming);
        let step = match status.state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let at = $outgoing.len();
                $outgoing.resize(at + HEADER + SEALED_MAX + PLAIN_MAX, 0);
                match data.encode(&mut $outgoing[at..]) {
                    Ok(length) => {
                        $outgoing.truncate(at + length);
                        Step::Again
                    }
                    Err(error) => Step::Failed(format!("{error:?}")),
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) if $flushed => {
                data.done();
                Step::Again
            }
            Ok(ConnectionState::TransmitTlsData(_)) => Step::Transmit,
            Ok(ConnectionState::BlockedHandshake) => Step::Blocked,
            Ok(ConnectionState::WriteTraffic(_)) => Step::Open,
            Ok(_) => Step::Failed(String::from("the peer ended the handshake")),
            Err(error) => Step::Failed(error.to_string()),
        };
        (status.discard, step)
    }};
}

impl Session {
    fn fail(&mut self, problem: String) -> c_int {
        self.problem = problem;
        self.state = State::Failed;
        -libc::EPROTO
    }

    /// Sends what waits. 0 when all has left.
    unsafe fn flush(&mut self, fd: c_int) -> c_int {
        while self.sent < self.outgoing.len() {
            let sent = send_from(fd, &self.outgoing[self.sent..]);
            if sent < 0 {
                return sent;
            }
            self.sent += sent as usize;
        }
        self.outgoing = Vec::new();
        self.sent = 0;
        0
    }

    /// Receives the rest of one record, and no more. 0 when it is whole.
    unsafe fn receive_record(&mut self, fd: c_int) -> c_int {
        loop {
            let have = self.incoming.len() - self.seen;
            let need = match self.incoming[self.seen..] {
                // Kinds of records: anything else is another protocol's first byte.
                [kind, ..] if !(20..=23).contains(&kind) => return self.fail(String::from("the peer does not speak TLS")),
                [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([high, low])),
                _ => HEADER,
            };
            if need > HEADER + SEALED_MAX {
                return self.fail(String::from("the peer sent a record that is too large in the handshake"));
            }
            if have >= HEADER && have == need {
                self.seen += need;
                return 0;
            }
            let at = self.incoming.len();
            self.incoming.resize(self.seen + need, 0);
            let received = receive_into(fd, self.incoming.as_mut_ptr().add(at), need - have);
            self.incoming.truncate(at + received.max(0) as usize);
            if received == 0 {
                return self.fail(String::from("the peer closed the connection in the middle of the handshake"));
            }
            if received < 0 {
                return received;
            }
        }
    }

    unsafe fn handshake(&mut self, fd: c_int, records_per_key: u64) -> c_int {
        loop {
            let flushed = self.sent == self.outgoing.len();
            let mut incoming = take(&mut self.incoming);
            let (discard, step) = match &mut self.state {
                State::Client(connection) => step!(connection, &mut incoming, self.outgoing, flushed),
                State::Server(connection) => step!(connection, &mut incoming, self.outgoing, flushed),
                State::Open(_) => return DONE,
                State::Failed => return -libc::EPROTO,
            };
            incoming.drain(..discard);
            self.seen = self.seen.saturating_sub(discard);
            self.incoming = incoming;
            match step {
                Step::Again => {}
                Step::Transmit => match self.flush(fd) {
                    0 => {}
                    blocked if blocked == -libc::EAGAIN => return WANTS_WRITE,
                    failed => return failed,
                },
                Step::Blocked => {
                    self.handshake_records += 1;
                    if self.handshake_records > HANDSHAKE_RECORDS_MAX {
                        return self.fail(String::from("the peer does not come to an end with the handshake"));
                    }
                    match self.receive_record(fd) {
                        0 => {}
                        waiting if waiting == -libc::EAGAIN => {
                            self.handshake_records -= 1;
                            return WANTS_READ;
                        }
                        failed => return failed,
                    }
                }
                Step::Open => return self.open(records_per_key),
                Step::Failed(problem) => {
                    self.say_why(fd);
                    return self.fail(problem);
                }
            }
        }
    }

    /// Sends the alert that rustls has made of its own failure, as far as the socket takes it at once.
    unsafe fn say_why(&mut self, fd: c_int) {
        // The alert is the first thing that it offers; after it, it would look at what was received once more.
        let _ = match &mut self.state {
            State::Client(connection) => step!(connection, &mut [], self.outgoing, true),
            State::Server(connection) => step!(connection, &mut [], self.outgoing, true),
            _ => return,
        };
        self.flush(fd);
    }

    fn open(&mut self, records_per_key: u64) -> c_int {
        let opened = match std::mem::replace(&mut self.state, State::Failed) {
            State::Client(connection) => {
                self.certificate = own_certificate(connection.peer_certificates());
                connection.dangerous_into_kernel_connection().map(|(secrets, keys)| (secrets, Keys::Client(keys)))
            }
            State::Server(connection) => {
                self.certificate = own_certificate(connection.peer_certificates());
                connection.dangerous_into_kernel_connection().map(|(secrets, keys)| (secrets, Keys::Server(keys)))
            }
            _ => Err(Error::HandshakeNotComplete),
        };
        let records = opened
            .map_err(|error| error.to_string())
            .and_then(|(secrets, keys)| Records::new(keys, secrets, records_per_key));
        match records {
            Ok(records) => {
                self.state = State::Open(records);
                DONE
            }
            Err(problem) => self.fail(problem),
        }
    }

    /// Receives into bytes, which have room for two records at least; how many bytes of data came.
    unsafe fn receive(&mut self, fd: c_int, bytes: &mut [u8]) -> c_int {
        let State::Open(records) = &mut self.state else {
            return -libc::EPROTO;
        };
        if records.ended {
            return 0;
        }
        if bytes.len() < 2 * (HEADER + SEALED_MAX) {
            return -libc::EINVAL;
        }
        loop {
            let kept = self.incoming.len();
            let received = receive_into(fd, bytes.as_mut_ptr().add(kept), bytes.len() - kept);
            if received < 0 {
                return received;
            }
            if received == 0 {
                // Without a close_notify anybody on the way may have cut it short.
                return -libc::ECONNRESET;
            }
            if kept > 0 {
                bytes[..kept].copy_from_slice(&self.incoming);
                self.incoming = Vec::new();
            }
            let end = kept + received as usize;
            match records.open(bytes, 0, end) {
                Ok(opened) => {
                    if opened.used < end {
                        self.incoming = bytes[opened.used..end].to_vec();
                    }
                    if opened.plain > 0 || records.ended {
                        return opened.plain as c_int;
                    }
                }
                Err(problem) => {
                    if let Some(alert) = records.seal_alert(BAD_RECORD_MAC).filter(|_| self.outgoing.is_empty()) {
                        send_from(fd, &alert);
                    }
                    return self.fail(problem);
                }
            }
        }
    }

    /// Seals and sends; how many bytes have left, see the head of this file.
    unsafe fn send(&mut self, fd: c_int, scratch: &mut Vec<u8>, pieces: &[libc::iovec]) -> c_int {
        if self.sent < self.outgoing.len() {
            let blocked = self.flush(fd);
            if blocked < 0 {
                return blocked;
            }
            if self.owed > 0 {
                return take(&mut self.owed) as c_int;
            }
        }
        let State::Open(records) = &mut self.state else {
            return -libc::EPROTO;
        };
        if scratch.is_empty() {
            scratch.resize(SCRATCH_BYTES, 0);
        }
        let mut source = Source { pieces, at: 0 };
        let mut left: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        // Of each record: where it ends, and the data through its end.
        let mut ends = [(0usize, 0usize); RECORDS_MAX];
        let (mut count, mut at, mut data) = (0, 0, 0);
        while left > 0 && count < RECORDS_MAX {
            let length = left.min(PLAIN_MAX);
            match records.seal_data(scratch, at, length, |out| source.fill(out)) {
                Ok(end) => at = end,
                Err(problem) => return self.fail(problem),
            }
            left -= length;
            data += length;
            ends[count] = (at, data);
            count += 1;
        }
        if at == 0 {
            return 0;
        }
        let sent = send_from(fd, &scratch[..at]);
        if sent < 0 && sent != -libc::EAGAIN {
            return sent;
        }
        let sent = sent.max(0) as usize;
        if sent == at {
            return data as c_int;
        }
        let gone = ends[..count].iter().rev().find(|(end, _)| *end <= sent).map_or(0, |(_, data)| *data);
        self.outgoing.extend_from_slice(&scratch[sent..at]);
        self.owed = data - gone;
        if gone == 0 {
            -libc::EAGAIN
        } else {
            gone as c_int
        }
    }

    /// Says that nothing more is sent, if it can be said at once and in one piece.
    unsafe fn say_end(&mut self, fd: c_int) {
        if let State::Open(records) = &mut self.state {
            if self.outgoing.is_empty() {
                if let Some(alert) = records.seal_close() {
                    send_from(fd, &alert);
                }
            }
        }
    }
}

fn own_certificate(chain: Option<&[CertificateDer<'_>]>) -> Vec<u8> {
    chain.and_then(|chain| chain.first()).map_or(Vec::new(), |one| one.as_ref().to_vec())
}

/// Copies pieces one after the other.
struct Source<'a> {
    pieces: &'a [libc::iovec],
    at: usize,
}

impl Source<'_> {
    fn fill(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            let piece = &self.pieces[0];
            // SAFETY: the pieces were checked to lie within the caller's byte arrays, which nobody changes during the call.
            let bytes = unsafe { slice::from_raw_parts(piece.iov_base as *const u8, piece.iov_len) };
            let count = (bytes.len() - self.at).min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&bytes[self.at..self.at + count]);
            filled += count;
            self.at += count;
            if self.at == bytes.len() {
                self.pieces = &self.pieces[1..];
                self.at = 0;
            }
        }
    }
}

// --- What the hub's functions do. Each is called with the socket's number first, where it is about one.

/// No input may end the process: what panics is a session that failed.
fn guarded(session: &mut Session, act: impl FnOnce(&mut Session) -> c_int) -> c_int {
    match catch_unwind(AssertUnwindSafe(|| act(session))) {
        Ok(status) => status,
        Err(_) => session.fail(String::from("a broken invariant of this program; it is in its standard error")),
    }
}

unsafe fn text(env: sys::napi_env, text: &str) -> sys::napi_value {
    let mut result = null_mut();
    sys::napi_create_string_utf8(env, text.as_ptr().cast(), text.len() as isize, &mut result);
    result
}

unsafe fn secured<'a, const N: usize>(call: &Call<N>) -> Option<(&'a mut Socket, &'a mut Security)> {
    (*call.hub).secured(call.number(0))
}

/// secureConfigure(ca, chain, key, recordsPerKey): PEM; what new sessions use from now on. The empty string, or why not.
unsafe extern "C" fn configure(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<4>::new(env, info);
    let (Some(ca), Some(chain), Some(key)) = (call.bytes(0), call.bytes(1), call.bytes(2)) else {
        return text(env, "expected three byte arrays");
    };
    let hub = &mut *call.hub;
    let scratch = hub.security.as_mut().map_or(Vec::new(), |security| take(&mut security.scratch));
    match Security::new(ca, chain, key, u64::from(call.number(3)), scratch) {
        Ok(security) => {
            hub.security = Some(Box::new(security));
            text(env, "")
        }
        Err(problem) => text(env, &problem),
    }
}

/// secureStart(id, server): begins a session on a socket that is connected; `server` 0 or 1.
unsafe extern "C" fn start(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<2>::new(env, info);
    let Some((socket, security)) = secured(&call) else {
        return call.answer(-libc::EBADF);
    };
    let status = match security.session(call.number(1) != 0) {
        Ok(session) => {
            socket.session = Some(Box::new(session));
            0
        }
        Err(_) => -libc::EPROTO,
    };
    call.answer(status)
}

/// secureHandshake(id): 0 when it is done, 1 or 2 when it goes on once the socket is readable or writable.
unsafe extern "C" fn handshake(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let Some((socket, security)) = secured(&call) else {
        return call.answer(-libc::EBADF);
    };
    let fd = socket.fd;
    let status = match socket.session.as_mut() {
        Some(session) => guarded(session, |session| session.handshake(fd, security.records_per_key)),
        None => -libc::EBADF,
    };
    call.answer(status)
}

/// secureProblem(id): why a session failed (EPROTO), or the empty string.
unsafe extern "C" fn problem(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let session = secured(&call).and_then(|(socket, _)| socket.session.as_ref());
    text(env, session.map_or("", |session| &session.problem))
}

/// securePeer(id): the peer's certificate, DER; empty before the handshake is done.
unsafe extern "C" fn peer(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let session = secured(&call).and_then(|(socket, _)| socket.session.as_ref());
    let bytes: &[u8] = session.map_or(&[], |session| &session.certificate);
    let mut result = null_mut();
    sys::napi_create_buffer_copy(env, bytes.len(), bytes.as_ptr().cast(), null_mut(), &mut result);
    result
}

/// secureReceive(id, bytes, from, to): as receive, with room for 34 KiB at least.
unsafe extern "C" fn receive(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<4>::new(env, info);
    let (Some((data, length)), Some((socket, _))) = (call.span(1), secured(&call)) else {
        return call.answer(-libc::EINVAL);
    };
    let fd = socket.fd;
    let bytes = slice::from_raw_parts_mut(data as *mut u8, length);
    let status = match socket.session.as_mut() {
        Some(session) => guarded(session, |session| session.receive(fd, bytes)),
        None => -libc::EBADF,
    };
    call.answer(status)
}

/// secureSend(id, bytes, from, to): how many have left; the others are to be offered again.
unsafe extern "C" fn send(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<4>::new(env, info);
    let (Some((data, length)), Some((socket, security))) = (call.span(1), secured(&call)) else {
        return call.answer(-libc::EINVAL);
    };
    let piece = libc::iovec { iov_base: data, iov_len: length };
    let fd = socket.fd;
    let status = match socket.session.as_mut() {
        Some(session) => guarded(session, |session| session.send(fd, &mut security.scratch, slice::from_ref(&piece))),
        None => -libc::EBADF,
    };
    call.answer(status)
}

/// secureSendAll(id, pieces, spans, first, count): the same of several.
unsafe extern "C" fn send_all(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<5>::new(env, info);
    let mut pieces: [libc::iovec; PIECES_MAX] = zeroed();
    let (Some(count), Some((socket, security))) = (call.pieces(&mut pieces), secured(&call)) else {
        return call.answer(-libc::EINVAL);
    };
    let fd = socket.fd;
    let status = match socket.session.as_mut() {
        Some(session) => guarded(session, |session| session.send(fd, &mut security.scratch, &pieces[..count])),
        None => -libc::EBADF,
    };
    call.answer(status)
}

/// secureShutdown(id): ends the sending side, when all has left.
unsafe extern "C" fn shutdown(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let Some((socket, _)) = secured(&call) else {
        return call.answer(-libc::EBADF);
    };
    let fd = socket.fd;
    if let Some(session) = socket.session.as_mut() {
        session.say_end(fd);
    }
    call.answer(attempt(|| libc::shutdown(fd, libc::SHUT_WR) as isize))
}

/// secureClose(id): as close; the peer is told, if it can be told at once.
unsafe extern "C" fn close(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    if let Some((socket, _)) = secured(&call) {
        let fd = socket.fd;
        if let Some(session) = socket.session.as_mut() {
            session.say_end(fd);
        }
    }
    (*call.hub).close(call.number(0));
    call.answer(0)
}

pub const FUNCTIONS: [(&CStr, Native); 10] = [
    (c"secureConfigure", configure),
    (c"secureStart", start),
    (c"secureHandshake", handshake),
    (c"secureProblem", problem),
    (c"securePeer", peer),
    (c"secureReceive", receive),
    (c"secureSend", send),
    (c"secureSendAll", send_all),
    (c"secureShutdown", shutdown),
    (c"secureClose", close),
];
