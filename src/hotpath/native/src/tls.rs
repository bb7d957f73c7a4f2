//! TLS 1.3 with certificates on both ends, on the sockets of net.rs (`src/transport/native-tls.ts`; twin: node:tls): what is believed and
//! shown, and the functions that TypeScript calls. A connection's own state is tls_session.rs's.
//!
//! Owner: the hub; a socket is secured once, before anything was sent or received on it, and what it sends and receives then goes
//! through the functions here alone. Nothing here lives in a plain socket's way.

use std::ffi::CStr;
use std::mem::{take, zeroed};
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
use rustls::version::TLS13;
use rustls::{
    CipherSuite, CipherSuiteCommon, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedCipherSuite, Tls13CipherSuite,
};

use crate::net::{attempt, Call, Native, Socket, PIECES_MAX};
use crate::tls_session::{Connection, Scratch, Session};

/// What the sockets of a thread share.
pub struct Security {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    scratch: Scratch,
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

/// The same cipher with other limits, for tests of what happens at them. Each one made stays for as long as the process lives.
fn limited(suite: SupportedCipherSuite, records_per_key: u64) -> SupportedCipherSuite {
    let Some(suite) = suite.tls13() else {
        return suite;
    };
    let CipherSuiteCommon { suite: name, hash_provider, .. } = suite.common;
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit: records_per_key },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: None,
    })))
}

impl Security {
    fn new(ca: &[u8], chain: &[u8], key: &[u8], records_per_key: u64, scratch: Scratch) -> Result<Self, String> {
        let text = |error: Error| error.to_string();
        let mut provider = ring::default_provider();
        // What is worth keeping from others is sealed with 256 bits before it gets here; 128 cost a quarter less.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        if records_per_key > 0 {
            provider.cipher_suites = provider.cipher_suites.iter().map(|suite| limited(*suite, records_per_key)).collect();
        }
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
        Ok(Security { client: Arc::new(client), server: Arc::new(server), scratch })
    }

    fn session(&self, server: bool) -> Result<Session, Error> {
        let connection = if server {
            Connection::Server(Box::new(UnbufferedServerConnection::new(self.server.clone())?))
        } else {
            // Nobody is told this name, and none is asked of a certificate.
            let name = ServerName::try_from("holdfast.invalid").map_err(|error| Error::General(error.to_string()))?;
            Connection::Client(Box::new(UnbufferedClientConnection::new(self.client.clone(), name)?))
        };
        Ok(Session::new(connection))
    }
}

// --- What the hub's functions do. Each is called with the socket's number first, where it is about one.

unsafe fn text(env: sys::napi_env, text: &str) -> sys::napi_value {
    let mut result = null_mut();
    sys::napi_create_string_utf8(env, text.as_ptr().cast(), text.len() as isize, &mut result);
    result
}

unsafe fn secured<'a, const N: usize>(call: &Call<N>) -> Option<(&'a mut Socket, &'a mut Security)> {
    (*call.hub).secured(call.number(0))
}

/// secureConfigure(ca, chain, key, recordsPerKey): PEM; what new sessions use from now on; recordsPerKey 0: the ciphers' own limit. The
/// empty string, or why not.
unsafe extern "C" fn configure(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<4>::new(env, info);
    let (Some(ca), Some(chain), Some(key)) = (call.bytes(0), call.bytes(1), call.bytes(2)) else {
        return text(env, "expected three byte arrays");
    };
    let hub = &mut *call.hub;
    let scratch = hub.security.as_mut().map_or(Scratch::default(), |security| take(&mut security.scratch));
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
    let Some((socket, _)) = secured(&call) else {
        return call.answer(-libc::EBADF);
    };
    let fd = socket.fd;
    let status = match socket.session.as_mut() {
        Some(session) => session.guarded(|session| session.handshake(fd)),
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
    let (Some((data, length)), Some((socket, security))) = (call.span(1), secured(&call)) else {
        return call.answer(-libc::EINVAL);
    };
    if length == 0 {
        return call.answer(-libc::EINVAL);
    }
    let fd = socket.fd;
    let bytes = slice::from_raw_parts_mut(data as *mut u8, length);
    let status = match socket.session.as_mut() {
        Some(session) => session.guarded(|session| session.receive(fd, &mut security.scratch, bytes)),
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
        Some(session) => session.guarded(|session| session.send(fd, &mut security.scratch, slice::from_ref(&piece))),
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
        Some(session) => session.guarded(|session| session.send(fd, &mut security.scratch, &pieces[..count])),
        None => -libc::EBADF,
    };
    call.answer(status)
}

/// secureShutdown(id): ends the sending side, when all has left. EAGAIN: to be called again once the socket is writable.
unsafe extern "C" fn shutdown(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    let Some((socket, _)) = secured(&call) else {
        return call.answer(-libc::EBADF);
    };
    let fd = socket.fd;
    if let Some(session) = socket.session.as_mut() {
        if session.guarded(|session| session.say_end(fd)) == -libc::EAGAIN {
            return call.answer(-libc::EAGAIN);
        }
    }
    call.answer(attempt(|| libc::shutdown(fd, libc::SHUT_WR) as isize))
}

/// secureClose(id): as close; the peer is told, if it can be told at once.
unsafe extern "C" fn close(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let call = Call::<1>::new(env, info);
    if let Some((socket, _)) = secured(&call) {
        let fd = socket.fd;
        if let Some(session) = socket.session.as_mut() {
            session.guarded(|session| {
                session.say_end_at_once(fd);
                0
            });
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
