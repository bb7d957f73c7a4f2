//! One connection's TLS: rustls makes and checks everything (handshake, certificates, keys and their successors, records, alerts, limits);
//! here its input is received and its output sent, and data goes to and from the caller's memory.
//!
//! Owner: a socket of net.rs. Invariants: during the handshake no byte behind the record that is awaited is received, so that a connection
//! that stands begins with nothing to look at; what could not be sent at once stays in `outgoing` and leaves before anything else; a byte of
//! data counts as taken when the record that holds it has left (the caller offers it again until then, and its memory is not looked at a
//! second time); a session that failed fails for ever. Memory: `incoming` holds part of a record, or of a handshake's message (rustls takes
//! 64 KiB of one at most); `outgoing` what one send sealed.

use std::ffi::{c_int, c_void};
use std::mem::take;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, Error};

use crate::net::attempt;

const HEADER: usize = 5;
/// Of plaintext in one record.
const PLAIN_MAX: usize = 1 << 14;
/// A peer may pad, and a cipher may add, so much (RFC 8446, section 5.2).
const SEALED_MAX: usize = PLAIN_MAX + 256;
/// What one record of ours takes, with a change of keys before it.
const RECORD_ROOM: usize = PLAIN_MAX + 256;
/// Records of one send: as much as a socket usually takes, and little enough to stay in the processor's cache.
const RECORDS_MAX: usize = 16;
/// Of a handshake: a chain of certificates has a few KiB.
const HANDSHAKE_RECORDS_MAX: u32 = 64;
/// Room that whoever receives must have: two records, so that there is always some for the next one.
const ROOM_MIN: usize = 2 * (HEADER + SEALED_MAX);
/// Receives in a row that bring no data, before others get their turn.
const EMPTY_RECEIVES_MAX: usize = 16;

const DONE: c_int = 0;
const WANTS_READ: c_int = 1;
const WANTS_WRITE: c_int = 2;

/// What the sessions of a thread share, each for the time of one call. Made when first needed.
#[derive(Default)]
pub struct Scratch {
    /// Records as they leave, or as they came.
    sealed: Vec<u8>,
    /// Data of one record that lies in several pieces.
    gathered: Vec<u8>,
}

impl Scratch {
    fn ready(&mut self) {
        if self.sealed.is_empty() {
            self.sealed.resize((RECORDS_MAX + 1) * RECORD_ROOM, 0);
            self.gathered.resize(PLAIN_MAX, 0);
        }
    }
}

pub enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// The two ends share no trait in rustls.
trait End {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

macro_rules! either {
    ($connection:expr, $end:ident => $act:expr) => {
        match $connection {
            Connection::Client($end) => $act,
            Connection::Server($end) => $act,
        }
    };
}

enum Step {
    Again,
    /// More must be received.
    Blocked,
    /// The connection stands, and nothing whole was received that was not looked at.
    Open,
    /// The peer has said that it sends nothing more.
    Ended,
    Failed(Error),
}

/// Where data goes.
struct Room<'a> {
    bytes: &'a mut [u8],
    filled: usize,
}

/// One step of rustls: how much of `incoming` is used up, and what is next. What is to be sent is added to `outgoing`.
fn step(end: &mut impl End, incoming: &mut [u8], outgoing: &mut Vec<u8>, room: &mut Room) -> (usize, Step) {
    let status = end.process(incoming);
    let mut discard = status.discard;
    let next = match status.state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    // There is as much room as was received, and what is opened is shorter.
                    let to = room.filled + record.payload.len();
                    room.bytes[room.filled..to].copy_from_slice(record.payload);
                    room.filled = to;
                }
                Some(Err(error)) => break Step::Failed(error),
                None => break Step::Again,
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let at = outgoing.len();
            outgoing.resize(at + HEADER + SEALED_MAX + PLAIN_MAX, 0);
            let encoded = data.encode(&mut outgoing[at..]);
            outgoing.truncate(at + encoded.as_ref().unwrap_or(&0));
            match encoded {
                Ok(_) => Step::Again,
                Err(error) => Step::Failed(Error::General(format!("{error:?}"))),
            }
        }
        // It leaves before anything else does.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::Again
        }
        Ok(ConnectionState::BlockedHandshake) => Step::Blocked,
        Ok(ConnectionState::WriteTraffic(_)) => Step::Open,
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Step::Ended,
        Ok(_) => Step::Failed(Error::General(String::from("the peer sent what has no place here"))),
        Err(error) => Step::Failed(error),
    };
    (discard, next)
}

/// What records are made of.
enum Matter<'a, 'b> {
    Data(&'b mut Source<'a>, &'b mut [u8]),
    End,
}

/// What was sealed: of each record where it ends, and the data through its end.
struct Sealed {
    ends: [(usize, usize); RECORDS_MAX],
    count: usize,
    bytes: usize,
    data: usize,
}

/// Seals into `out`, which has room for RECORDS_MAX records and one more. `incoming` is what rustls has seen and not used up.
fn seal(end: &mut impl End, incoming: &mut [u8], out: &mut [u8], matter: Matter) -> Result<Sealed, String> {
    let mut sealed = Sealed { ends: [(0, 0); RECORDS_MAX], count: 0, bytes: 0, data: 0 };
    loop {
        match end.process(incoming).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                match matter {
                    Matter::Data(source, gathered) => {
                        while sealed.count < RECORDS_MAX && source.left > 0 {
                            let plain = source.next(gathered);
                            let length = traffic.encrypt(plain, &mut out[sealed.bytes..]).map_err(|error| format!("{error:?}"))?;
                            sealed.bytes += length;
                            sealed.data += plain.len();
                            sealed.ends[sealed.count] = (sealed.bytes, sealed.data);
                            sealed.count += 1;
                        }
                    }
                    Matter::End => {
                        let length = traffic.queue_close_notify(&mut out[sealed.bytes..]);
                        sealed.bytes += length.map_err(|error| format!("{error:?}"))?;
                    }
                }
                return Ok(sealed);
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                sealed.bytes += data.encode(&mut out[sealed.bytes..]).map_err(|error| format!("{error:?}"))?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(_) => return Err(String::from("the connection takes no data any more")),
            Err(error) => return Err(words(&error)),
        }
    }
}

pub struct Session {
    connection: Connection,
    state: State,
    /// Received and not used up: the beginning of a record. During the handshake, before it, records of a message that is not whole.
    incoming: Vec<u8>,
    /// Whole records at the front of `incoming` that the handshake has been given.
    seen: usize,
    /// Made by rustls, and not yet sent from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes of data that count as taken when `outgoing` has left.
    owed: usize,
    handshake_records: u32,
    /// The peer was told that nothing more comes.
    said_end: bool,
    /// The peer's own certificate, DER.
    pub certificate: Vec<u8>,
    /// Why it failed.
    pub problem: String,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Handshake,
    Open,
    /// The peer sends nothing more; we may.
    Ended,
    Failed,
}

unsafe fn receive_into(fd: c_int, bytes: &mut [u8]) -> c_int {
    let (data, length) = (bytes.as_mut_ptr() as *mut c_void, bytes.len());
    attempt(|| libc::recv(fd, data, length, libc::MSG_DONTWAIT))
}

unsafe fn send_from(fd: c_int, bytes: &[u8]) -> c_int {
    attempt(|| libc::send(fd, bytes.as_ptr() as *const c_void, bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL))
}

impl Session {
    pub fn new(connection: Connection) -> Self {
        Session {
            connection,
            state: State::Handshake,
            incoming: Vec::new(),
            seen: 0,
            outgoing: Vec::new(),
            sent: 0,
            owed: 0,
            handshake_records: 0,
            said_end: false,
            certificate: Vec::new(),
            problem: String::new(),
        }
    }

    /// No input may end the process: what panics is a session that failed.
    pub fn guarded(&mut self, act: impl FnOnce(&mut Session) -> c_int) -> c_int {
        match catch_unwind(AssertUnwindSafe(|| act(self))) {
            Ok(status) => status,
            Err(_) => self.fail(String::from("a broken invariant of this program; it is in its standard error")),
        }
    }

    fn fail(&mut self, problem: String) -> c_int {
        self.problem = problem;
        self.state = State::Failed;
        -libc::EPROTO
    }

    /// Sends the alert that rustls has made of its own failure, if it has, as far as the socket takes it at once.
    unsafe fn fail_saying(&mut self, fd: c_int, error: &Error) -> c_int {
        // It is the first thing that it offers; without one it would look at what was received once more.
        if either!(&self.connection, end => end.wants_write()) {
            let mut nowhere = Room { bytes: &mut [], filled: 0 };
            either!(&mut self.connection, end => step(&mut **end, &mut [], &mut self.outgoing, &mut nowhere));
        }
        self.flush(fd);
        self.fail(words(error))
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

    // --- The handshake

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
            let received = receive_into(fd, &mut self.incoming[at..]);
            self.incoming.truncate(at + received.max(0) as usize);
            if received == 0 {
                return self.fail(String::from("the peer closed the connection in the middle of the handshake"));
            }
            if received < 0 {
                return received;
            }
        }
    }

    /// DONE, WANTS_READ, WANTS_WRITE or an error.
    pub unsafe fn handshake(&mut self, fd: c_int) -> c_int {
        match self.state {
            State::Handshake => {}
            State::Failed => return -libc::EPROTO,
            _ => return DONE,
        }
        // There is no data before the end of a handshake: rustls refuses it.
        let mut nowhere = Room { bytes: &mut [], filled: 0 };
        loop {
            let (discard, next) =
                either!(&mut self.connection, end => step(&mut **end, &mut self.incoming, &mut self.outgoing, &mut nowhere));
            self.incoming.drain(..discard);
            self.seen = self.seen.saturating_sub(discard);
            let open = match next {
                Step::Again => continue,
                Step::Open => !either!(&self.connection, end => end.is_handshaking()),
                Step::Blocked => false,
                Step::Ended => return self.fail(String::from("the peer ended the handshake")),
                Step::Failed(error) => return self.fail_saying(fd, &error),
            };
            match self.flush(fd) {
                0 => {}
                blocked if blocked == -libc::EAGAIN => return WANTS_WRITE,
                failed => return failed,
            }
            if open {
                self.certificate = either!(&self.connection, end => end.peer_certificates())
                    .and_then(|chain| chain.first())
                    .map_or(Vec::new(), |one| one.as_ref().to_vec());
                self.state = State::Open;
                return DONE;
            }
            match self.receive_record(fd) {
                0 => {}
                waiting if waiting == -libc::EAGAIN => return WANTS_READ,
                failed => return failed,
            }
            self.handshake_records += 1;
            if self.handshake_records > HANDSHAKE_RECORDS_MAX {
                return self.fail(String::from("the peer does not come to an end with the handshake"));
            }
        }
    }

    // --- Data

    /// Receives into `room`; how many bytes of data came, 0 at the peer's end. ECONNRESET when the peer ended without saying so.
    pub unsafe fn receive(&mut self, fd: c_int, scratch: &mut Scratch, room: &mut [u8]) -> c_int {
        match self.state {
            State::Open => {}
            State::Ended => return 0,
            _ => return -libc::EPROTO,
        }
        if room.len() < ROOM_MIN {
            return -libc::EINVAL;
        }
        scratch.ready();
        let limit = scratch.sealed.len().min(room.len());
        let mut room = Room { bytes: room, filled: 0 };
        for _ in 0..EMPTY_RECEIVES_MAX {
            let kept = self.incoming.len();
            if kept >= limit {
                return self.fail(String::from("the peer sent a message that is too large"));
            }
            let received = receive_into(fd, &mut scratch.sealed[kept..limit]);
            if received < 0 {
                return received;
            }
            if received == 0 {
                // Without a close_notify anybody on the way may have cut it short.
                return -libc::ECONNRESET;
            }
            scratch.sealed[..kept].copy_from_slice(&self.incoming);
            self.incoming = Vec::new();
            let sealed = &mut scratch.sealed[..kept + received as usize];
            let mut used = 0;
            let next = loop {
                let (discard, next) =
                    either!(&mut self.connection, end => step(&mut **end, &mut sealed[used..], &mut self.outgoing, &mut room));
                used += discard;
                if !matches!(next, Step::Again) {
                    break next;
                }
            };
            match next {
                Step::Open => self.incoming = sealed[used..].to_vec(),
                Step::Ended => {
                    self.state = State::Ended;
                    // The socket stays readable, whatever the peer does after its last word, so that somebody asks and hears of the end.
                    libc::shutdown(fd, libc::SHUT_RD);
                }
                Step::Failed(error) => return self.fail_saying(fd, &error),
                Step::Again | Step::Blocked => return self.fail(String::from("the peer began another handshake")),
            }
            if room.filled > 0 || self.state == State::Ended {
                return room.filled as c_int;
            }
        }
        -libc::EAGAIN
    }

    /// Seals and sends; how many bytes have left, see the head of this file.
    pub unsafe fn send(&mut self, fd: c_int, scratch: &mut Scratch, pieces: &[libc::iovec]) -> c_int {
        if !matches!(self.state, State::Open | State::Ended) || self.said_end {
            return -libc::EPROTO;
        }
        let blocked = self.flush(fd);
        if blocked < 0 {
            return blocked;
        }
        if self.owed > 0 {
            return take(&mut self.owed) as c_int;
        }
        scratch.ready();
        let mut source = Source::new(pieces);
        let matter = Matter::Data(&mut source, &mut scratch.gathered);
        let sealed = either!(&mut self.connection, end => seal(&mut **end, &mut self.incoming, &mut scratch.sealed, matter));
        let Sealed { ends, count, bytes, data } = match sealed {
            Ok(sealed) => sealed,
            Err(problem) => return self.fail(problem),
        };
        if bytes == 0 {
            return 0;
        }
        let sent = send_from(fd, &scratch.sealed[..bytes]);
        if sent < 0 && sent != -libc::EAGAIN {
            // The records are lost, and no later one may follow them.
            self.state = State::Failed;
            return sent;
        }
        let sent = sent.max(0) as usize;
        if sent == bytes {
            return data as c_int;
        }
        let gone = ends[..count].iter().rev().find(|(end, _)| *end <= sent).map_or(0, |(_, data)| *data);
        self.outgoing.extend_from_slice(&scratch.sealed[sent..bytes]);
        self.owed = data - gone;
        if gone == 0 {
            -libc::EAGAIN
        } else {
            gone as c_int
        }
    }

    /// Says that nothing more is sent. EAGAIN: to be called again once the socket is writable.
    pub unsafe fn say_end(&mut self, fd: c_int) -> c_int {
        if !matches!(self.state, State::Open | State::Ended) {
            return 0;
        }
        if !self.said_end {
            self.said_end = true;
            let mut out = [0; RECORD_ROOM];
            if let Ok(sealed) = either!(&mut self.connection, end => seal(&mut **end, &mut self.incoming, &mut out, Matter::End)) {
                self.outgoing.extend_from_slice(&out[..sealed.bytes]);
            }
        }
        self.flush(fd)
    }

    /// The same, where nobody waits: only if it can be said at once, and not when data was cut short.
    pub unsafe fn say_end_at_once(&mut self, fd: c_int) {
        if self.outgoing.is_empty() {
            self.say_end(fd);
        }
    }
}

/// Pieces of data, one after the other.
struct Source<'a> {
    pieces: &'a [libc::iovec],
    at: usize,
    left: usize,
}

impl<'a> Source<'a> {
    fn new(pieces: &'a [libc::iovec]) -> Self {
        Source { pieces, at: 0, left: pieces.iter().map(|piece| piece.iov_len).sum() }
    }

    /// The data of the next record: where it lies, or gathered when it lies in several pieces. There must be some left.
    fn next<'g>(&mut self, gathered: &'g mut [u8]) -> &'g [u8]
    where
        'a: 'g,
    {
        let length = self.left.min(PLAIN_MAX);
        self.left -= length;
        let mut filled = 0;
        loop {
            let piece = &self.pieces[0];
            // SAFETY: the pieces were checked to lie within the caller's byte arrays, which nobody changes during the call.
            let bytes: &'a [u8] = unsafe { slice::from_raw_parts(piece.iov_base as *const u8, piece.iov_len) };
            let rest = &bytes[self.at..];
            let count = rest.len().min(length - filled);
            self.at += count;
            if self.at == bytes.len() {
                self.pieces = &self.pieces[1..];
                self.at = 0;
            }
            if count == length {
                return &rest[..count];
            }
            gathered[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            if filled == length {
                return &gathered[..length];
            }
        }
    }
}

/// In words that a person who runs a cluster can act on; the names are those of RFC 8446, section 6.
fn words(error: &Error) -> String {
    use AlertDescription as Alert;
    let text = match error {
        Error::DecryptError => "a record was damaged or forged on its way",
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => "its certificate was not issued by the CA that is believed here (UnknownIssuer)",
        Error::AlertReceived(alert) => match alert {
            Alert::HandshakeFailure => "the peer found no common ground in the handshake (handshake_failure)",
            Alert::BadCertificate => "the peer refused this certificate as bad (bad_certificate)",
            Alert::UnsupportedCertificate => "the peer refused this certificate's kind (unsupported_certificate)",
            Alert::CertificateRevoked => "the peer refused this certificate as revoked (certificate_revoked)",
            Alert::CertificateExpired => "the peer refused this certificate as expired or not yet valid (certificate_expired)",
            Alert::CertificateUnknown => "the peer refused this certificate (certificate_unknown)",
            Alert::UnknownCA => "the peer does not know the CA of this certificate (unknown_ca)",
            Alert::AccessDenied => "the peer refused this certificate (access_denied)",
            Alert::DecryptError => "the peer refused a signature (decrypt_error)",
            Alert::ProtocolVersion => "the peer speaks no TLS 1.3 (protocol_version)",
            Alert::CertificateRequired => "the peer wants a certificate (certificate_required)",
            other => return format!("the peer ended the connection: TLS alert {}", u8::from(*other)),
        },
        other => return other.to_string(),
    };
    String::from(text)
}
