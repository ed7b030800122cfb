//! TLS for proxies, readers of the admin page and the webhook: handshakes side by side, each with a deadline, so that one that never speaks holds up nobody.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{
    Held, Listener,
    caller::{self, Pod, Refusal},
    listener::Socket,
};

/// For a handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a connection to have a stream that is let in: who has none keeps a place for nothing.
const STRANGER: Duration = Duration::from_secs(30);
/// Handshakes at the same time. Who comes then waits in the kernel's queue.
const HANDSHAKES: usize = 4_096;
/// The first byte of TLS (RFC 8446, `ContentType.handshake`), with which no HTTP begins.
const HANDSHAKE: u8 = 22;
/// How often the authority of client certificates is read.
const LOOK: Duration = Duration::from_secs(5);

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] io::Error),
    /// The file has no certificates of use.
    #[error("{0} has no certificate that can be trusted: {1}; expected PEM")]
    Authority(PathBuf, String),
    /// The library does not want to.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// gRPC. Without TLS nothing is.
    Grpc,
    /// HTTP/1.1. It may be spoken without TLS, too: what that is good for is judged by each request.
    Http,
    /// HTTP/1.1, and nothing without TLS.
    Https,
}

/// How TLS is spoken: the certificate that is held, and whose client certificates are accepted.
#[derive(Clone, Debug)]
pub struct Tls {
    held: Held,
    inside: Inside,
    /// A file with the authorities of client certificates; read again when it changes.
    clients: Option<PathBuf>,
    config: Arc<watch::Sender<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads what there is.
    ///
    /// # Errors
    ///
    /// The file of authorities cannot be used.
    pub(super) fn new(held: Held, inside: Inside, clients: Option<PathBuf>) -> Result<Self, Error> {
        let authorities = clients.as_deref().map(read).transpose()?;
        let config = config(&held, inside, clients.as_deref().zip(authorities.as_deref()))?;
        Ok(Self { held, inside, clients, config: Arc::new(watch::Sender::new(config)) })
    }

    /// For the webhook.
    ///
    /// # Errors
    ///
    /// The library does not want to.
    pub fn webhook(held: Held) -> Result<Self, Error> {
        Self::new(held, Inside::Https, None)
    }

    /// Goes on by another configuration; connections that are open stay.
    pub(super) fn replace(&self, config: Arc<ServerConfig>) {
        self.config.send_replace(config);
    }

    /// Reads the authorities of client certificates again when they change, for ever.
    pub(super) async fn follow(&self) {
        let Some(file) = self.clients.as_deref() else { return std::future::pending().await };
        let mut before = read(file).unwrap_or_default();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = read(file);
            if now.as_ref().is_ok_and(|now| *now == before) {
                continue;
            }
            match now.and_then(|now| Ok((config(&self.held, self.inside, Some((file, &now)))?, now))) {
                Ok((config, now)) => {
                    self.config.send_replace(config);
                    before = now;
                }
                Err(error) => warn!(%error, "the authorities of client certificates stay as they were"),
            }
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|error| Error::File(file.to_owned(), error))
}

fn config(held: &Held, inside: Inside, clients: Option<(&Path, &[u8])>) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(Error::Tls)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((file, pem)) => {
            let wrong = |why: String| Error::Authority(file.to_owned(), why);
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // Who has none may have a token; that is judged by the stream.
                .allow_unauthenticated()
                .build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(held.clone()));
    config.alpn_protocols = vec![match inside {
        Inside::Grpc => b"h2".to_vec(),
        Inside::Http | Inside::Https => b"http/1.1".to_vec(),
    }];
    // Nobody resumes: a proxy has one connection for days. Without, a ticket cannot outlive a client certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Accepts connections until `shutdown`; without TLS as they come.
pub fn incoming(
    listener: Listener,
    tls: Option<Tls>,
    shutdown: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready_tx, ready_rx) = mpsc::channel(64);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        let mut handshakes = JoinSet::new();
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, stream, address) = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = handshakes.join_next() => continue,
                (place, accepted) = accepted => match accepted {
                    Ok((stream, address)) => (place, stream, address),
                    Err(error) => {
                        // Out of file descriptors, for one: there will be some again.
                        warn!(%error, "a server cannot take a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (tls, ready_tx) = (tls.clone(), ready_tx.clone());
            handshakes.spawn(async move {
                if let Some(connection) = greet(stream, address, tls).await {
                    let _ = ready_tx.send(Ok(connection)).await;
                }
                drop(place);
            });
        }
    });
    ReceiverStream::new(ready_rx)
}

async fn greet(stream: Socket, address: Option<SocketAddr>, tls: Option<Tls>) -> Option<Connection> {
    let plain = |stream| {
        let peer = Peer { address, encrypted: false, certificate: None, welcome: Arc::default() };
        Some(Connection { transport: Transport::Plain(stream), peer, stranger: None })
    };
    let Some(tls) = tls else { return plain(stream) };
    if let (Inside::Http, Either::Left(stream_of_tcp)) = (tls.inside, &stream) {
        let mut first = [0];
        match timeout(PATIENCE, stream_of_tcp.peek(&mut first)).await {
            Ok(Ok(1)) if first[0] != HANDSHAKE => return plain(stream),
            Ok(Ok(1)) => {}
            _ => return None,
        }
    }
    let acceptor = TlsAcceptor::from(tls.config.borrow().clone());
    match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates();
            let certificate = chain.and_then(|chain| chain.first()).map(|own| caller::of_certificate(own));
            // Of the admin page every request is judged, and an idle connection is closed by its server.
            let stranger = (tls.inside == Inside::Grpc).then(|| Box::pin(sleep(STRANGER)));
            Some(Connection {
                transport: Transport::Tls(Box::new(stream)),
                peer: Peer { address, encrypted: true, certificate, welcome: Arc::default() },
                stranger,
            })
        }
        Ok(Err(error)) => {
            debug!(?address, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(?address, "a TLS handshake took longer than {PATIENCE:?}");
            None
        }
    }
}

/// What is known of a peer before it says anything.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is; `None`: on this machine, at a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether nobody else can read what is said.
    pub encrypted: bool,
    /// Whose client certificate it has, if it has one.
    pub(super) certificate: Option<Result<Pod, Refusal>>,
    /// Set when one of its streams is let in.
    pub(super) welcome: Arc<AtomicBool>,
}

impl Peer {
    /// Its connection may stay.
    pub fn welcome(&self) {
        self.welcome.store(true, Ordering::Relaxed);
    }
}

/// A connection on which xDS can be spoken.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    peer: Peer,
    /// Until when nobody needs to have been let in; `None` once somebody was.
    stranger: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Connection {
    /// Who is there.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(stranger) = &mut self.stranger
            && stranger.as_mut().poll(cx).is_ready()
        {
            self.stranger = None;
            if !self.peer.welcome.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
