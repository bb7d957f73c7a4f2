//! The records of TLS 1.3 (RFC 8446, section 5) after the handshake: sealed and opened where the bytes lie. The handshake, the
//! certificates and every key are rustls's; of a connection that stands it hands out the keys and goes on making their
//! successors, as it does for kernels that do this work (`rustls::kernel`).
//!
//! Invariants: a record number is used once for a key (`Direction` counts, and keys change before the cipher's limit); what an
//! opened record says about keys takes effect between two records; after an error nothing more is opened.

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, NONCE_LEN};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error};

pub const HEADER: usize = 5;
/// Of plaintext in one record.
pub const PLAIN_MAX: usize = 1 << 14;
/// Behind the plaintext: its kind, and the tag of every cipher of TLS 1.3.
pub const TRAILER: usize = 1 + TAG;
const TAG: usize = 16;
/// A peer may pad, and a cipher may add, so much (section 5.2).
pub const SEALED_MAX: usize = PLAIN_MAX + 256;
/// AES-GCM seals at most 2^24.5 full records under a key (section 5.5).
pub const RECORDS_PER_KEY_MAX: u64 = 1 << 23;
/// Messages after the handshake are tickets, which nobody uses, and one byte for new keys.
const MESSAGE_MAX: usize = 1 << 14;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
pub const APPLICATION: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
pub const BAD_RECORD_MAC: u8 = 20;

/// What rustls keeps of a connection whose records are ours.
pub enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Keys {
    fn next_to_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Keys::Client(keys) => keys.update_tx_secret(),
            Keys::Server(keys) => keys.update_tx_secret(),
        }
    }

    fn next_to_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Keys::Client(keys) => keys.update_rx_secret(),
            Keys::Server(keys) => keys.update_rx_secret(),
        }
    }
}

/// One way of a connection.
struct Direction {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    record: u64,
}

impl Direction {
    fn new((record, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, String> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(String::from("the handshake agreed on a cipher that is not known here")),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| String::from("a key of the handshake has a wrong length"))?;
        let iv = iv.as_ref().try_into().map_err(|_| String::from("an IV of the handshake has a wrong length"))?;
        Ok(Direction { key: LessSafeKey::new(key), iv, record })
    }

    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.record.to_be_bytes()) {
            *byte ^= number;
        }
        self.record += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Both ways of a connection that stands.
pub struct Records {
    keys: Keys,
    sealing: Direction,
    opening: Direction,
    records_per_key: u64,
    /// The peer wants new keys from us, too, before our next data.
    renew_asked: bool,
    /// Of a message after the handshake that is not whole yet.
    message: Vec<u8>,
    /// The peer has said that it sends nothing more.
    pub ended: bool,
}

/// What came out of received bytes.
pub struct Opened {
    /// Plaintext, from where the first record began.
    pub plain: usize,
    /// Received bytes that were used up; what follows is the beginning of a record.
    pub used: usize,
}

impl Records {
    pub fn new(
        keys: Keys,
        secrets: rustls::ExtractedSecrets,
        records_per_key: u64,
    ) -> Result<Self, String> {
        Ok(Records {
            keys,
            sealing: Direction::new(secrets.tx)?,
            opening: Direction::new(secrets.rx)?,
            records_per_key: records_per_key.clamp(1, RECORDS_PER_KEY_MAX),
            renew_asked: false,
            message: Vec::new(),
            ended: false,
        })
    }

    /// Opens every whole record of bytes[start..end); the plaintext of all moves together, to bytes[start..).
    pub fn open(&mut self, bytes: &mut [u8], start: usize, end: usize) -> Result<Opened, String> {
        let (mut at, mut to) = (start, start);
        while end - at >= HEADER && !self.ended {
            let header: [u8; HEADER] = bytes[at..at + HEADER].try_into().unwrap();
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if header[0] != APPLICATION || length < TRAILER || length > SEALED_MAX {
                return Err(format!("the peer sent what is no record of TLS 1.3 (kind {}, {length} bytes)", header[0]));
            }
            let next = at + HEADER + length;
            if next > end {
                break;
            }
            let nonce = self.opening.next_nonce();
            let plain = self
                .opening
                .key
                .open_within(nonce, Aad::from(header), &mut bytes[to..next], at + HEADER - to..)
                .map_err(|_| String::from("a record was damaged or forged on its way"))?;
            // Zeroes behind the kind are padding.
            let kind_at = plain.iter().rposition(|&byte| byte != 0).ok_or("the peer sent a record without a kind")?;
            if kind_at > PLAIN_MAX {
                return Err(String::from("the peer sent a record that is too large"));
            }
            if plain[kind_at] == APPLICATION {
                to += kind_at;
            } else {
                let (kind, control) = (plain[kind_at], plain[..kind_at].to_vec());
                self.control(kind, &control)?;
            }
            at = next;
        }
        Ok(Opened { plain: to - start, used: at - start })
    }

    fn control(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        match (kind, body) {
            (ALERT, [_, CLOSE_NOTIFY]) => self.ended = true,
            (ALERT, [_, USER_CANCELED]) => {}
            (ALERT, [_, code]) => return Err(format!("the peer ended the connection: {}", alert_name(*code))),
            (HANDSHAKE, _) if !body.is_empty() => return self.handshake(body),
            _ => return Err(format!("the peer sent a record of kind {kind} that has no place here")),
        }
        Ok(())
    }

    fn handshake(&mut self, body: &[u8]) -> Result<(), String> {
        self.message.extend_from_slice(body);
        while self.message.len() >= 4 {
            let head = &self.message;
            let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            if length > MESSAGE_MAX {
                return Err(format!("the peer sent a message of {length} bytes after the handshake"));
            }
            if self.message.len() < 4 + length {
                break;
            }
            let rest = self.message.split_off(4 + length);
            let message = std::mem::replace(&mut self.message, rest);
            match (message[0], &message[4..], &self.keys) {
                // The keys change between two records, so nothing may follow in this one.
                (KEY_UPDATE, &[asked @ 0..=1], _) if self.message.is_empty() => {
                    self.opening = Direction::new(self.keys.next_to_open().map_err(|error| error.to_string())?)?;
                    self.renew_asked |= asked == 1;
                }
                (NEW_SESSION_TICKET, _, Keys::Client(_)) => {}
                (other, ..) => return Err(format!("the peer sent message {other} after the handshake, which has no place there")),
            }
        }
        Ok(())
    }

    /// Makes a record of the `length` plaintext bytes at out[at + HEADER..); returns where it ends.
    fn seal(&mut self, out: &mut [u8], at: usize, length: usize, kind: u8) -> Result<usize, String> {
        let sealed = ((length + TRAILER) as u16).to_be_bytes();
        let header = [APPLICATION, 3, 3, sealed[0], sealed[1]];
        out[at..at + HEADER].copy_from_slice(&header);
        let kind_at = at + HEADER + length;
        out[kind_at] = kind;
        let nonce = self.sealing.next_nonce();
        let tag = self
            .sealing
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[at + HEADER..=kind_at])
            .map_err(|_| String::from("a record could not be sealed"))?;
        out[kind_at + 1..kind_at + 1 + TAG].copy_from_slice(tag.as_ref());
        Ok(kind_at + 1 + TAG)
    }

    /// Like seal() for data, with new keys before it when it is time for them.
    pub fn seal_data(&mut self, out: &mut [u8], at: usize, length: usize, fill: impl FnOnce(&mut [u8])) -> Result<usize, String> {
        let mut at = at;
        if self.renew_asked || self.sealing.record + 1 >= self.records_per_key {
            let update = [KEY_UPDATE, 0, 0, 1, 0];
            out[at + HEADER..at + HEADER + update.len()].copy_from_slice(&update);
            at = self.seal(out, at, update.len(), HANDSHAKE)?;
            self.sealing = Direction::new(self.keys.next_to_seal().map_err(|error| error.to_string())?)?;
            self.renew_asked = false;
        }
        fill(&mut out[at + HEADER..at + HEADER + length]);
        self.seal(out, at, length, APPLICATION)
    }

    /// An alert as a record of its own.
    pub fn seal_alert(&mut self, code: u8) -> Option<Vec<u8>> {
        let level = if code == CLOSE_NOTIFY { 1 } else { 2 };
        let mut out = vec![0; HEADER + 2 + TRAILER];
        out[HEADER..HEADER + 2].copy_from_slice(&[level, code]);
        let end = self.seal(&mut out, 0, 2, ALERT).ok()?;
        out.truncate(end);
        Some(out)
    }

    pub fn seal_close(&mut self) -> Option<Vec<u8>> {
        self.seal_alert(CLOSE_NOTIFY)
    }
}

/// Room that one record of data may take with new keys before it.
pub const RECORD_ROOM: usize = HEADER + PLAIN_MAX + TRAILER;
pub const UPDATE_ROOM: usize = HEADER + 5 + TRAILER;

/// In words that a person who runs a cluster can act on; the names are those of RFC 8446, section 6.
fn alert_name(code: u8) -> String {
    let text = match code {
        40 => "it found no common ground in the handshake (handshake_failure)",
        42 => "it refused this certificate as bad (bad_certificate)",
        43 => "it refused this certificate's kind (unsupported_certificate)",
        44 => "it refused this certificate as revoked (certificate_revoked)",
        45 => "it refused this certificate as expired or not yet valid (certificate_expired)",
        46 => "it refused this certificate (certificate_unknown)",
        48 => "it does not know the CA of this certificate (unknown_ca)",
        49 => "it refused this certificate (access_denied)",
        51 => "it refused a signature (decrypt_error)",
        70 => "it speaks no TLS 1.3 (protocol_version)",
        116 => "it wants a certificate (certificate_required)",
        _ => return format!("TLS alert {code}"),
    };
    String::from(text)
}
