//! The one door: HTTP/1.1 in TLS 1.3 with client certificates, over a Unix socket.
//!
//! A connection passes, in this order: the connection limit, the TLS handshake (within a time), and the
//! check that certificate, uid and group belong together (`Door::identify`). The check is made anew for
//! every request, so that a revocation holds for connections that are open already; the request then
//! carries its [`Principal`] in its extensions, where `warp::ext::get::<Principal>()` finds it. warp has
//! no TLS of its own, so the connection is served by hyper around warp's filters.
//!
//! What always holds: no route runs without a `Principal`; what is logged of a refused peer is its uid
//! and its certificate's fingerprint; after `shutdown` no connection is taken and running requests end.

pub mod socket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloister_wire::admin::{ApiError, ErrorCode};
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use warp::filters::BoxedFilter;
use warp::reply::Reply;

use crate::access::{self, PeerCredentials, Principal, Refusal};

/// A request's head may not be larger; hyper's own default is 400 KiB a connection.
const MOST_HEAD_BYTES: usize = 64 << 10;
const MOST_HEADERS: usize = 64;

/// Whom a certificate (DER) belongs to when it comes from this peer.
pub type Identify = Arc<dyn Fn(PeerCredentials, &[u8]) -> Result<Principal, Refusal> + Send + Sync>;

/// Everything that the door needs but its socket.
pub struct Door {
    /// Must ask for client certificates; without one the connection is closed.
    pub tls: Arc<rustls::ServerConfig>,
    /// Asked once a request: somebody may be revoked while their connection is open.
    pub identify: Identify,
    /// What is behind the door. All rejections should be recovered.
    pub routes: BoxedFilter<(warp::reply::Response,)>,
    /// What a peer may take.
    pub limits: DoorLimits,
}

/// What a peer may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLimits {
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For a request's head, and for an idle connection.
    pub header_timeout: Duration,
    /// Connections at one time; further ones are closed.
    pub max_connections: usize,
    /// What running requests get to end after shutdown; then they are cut off.
    pub drain: Duration,
}

impl DoorLimits {
    /// Those of the configuration.
    pub fn of(config: &crate::config::Config) -> Self {
        Self {
            handshake_timeout: config.door.handshake_timeout,
            header_timeout: config.door.header_timeout,
            max_connections: config.door.max_connections,
            drain: config.shutdown_timeout,
        }
    }
}

/// Serves until `shutdown` says true (or its sender is gone), then lets running requests end.
pub async fn serve(listener: UnixListener, mut door: Door, mut shutdown: watch::Receiver<bool>) {
    // What is negotiated must be what is spoken below, whoever made the configuration.
    Arc::make_mut(&mut door.tls).alpn_protocols = vec![b"http/1.1".to_vec()];
    let door = Arc::new(door);
    let mut connections = JoinSet::new();
    let places = Places::default();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= door.limits.max_connections => {
                    log::warn!(limit = door.limits.max_connections; "too many connections; one was closed");
                }
                Ok((stream, _)) => match places.take(&stream, door.limits.max_connections) {
                    Some(place) => {
                        let (door, shutdown) = (Arc::clone(&door), shutdown.clone());
                        connections.spawn(async move {
                            let _held = place;
                            connection(stream, door, shutdown).await;
                        });
                    }
                    None => log::warn!("one uid has most of the connections; its next one was closed"),
                },
                Err(error) => {
                    // Out of descriptors, most likely: give running requests time to return some.
                    log::error!(error:% = error; "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    drain(connections, door.limits.drain).await;
}

/// How many connections each uid has: nobody can take all of them and lock the others out.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection of a uid; given back when dropped.
struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    /// At most three quarters of all for one uid.
    fn take(&self, stream: &UnixStream, all: usize) -> Option<Place> {
        let uid = stream.peer_cred().ok()?.uid();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(uid).or_default();
        if *count >= (all * 3).div_ceil(4) {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

async fn drain(mut connections: JoinSet<()>, timeout: Duration) {
    let ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(timeout, ended).await.is_err() {
        log::warn!(connections = connections.len(); "requests did not end in time and are cut off");
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        log::error!(error:% = error; "a connection's task failed");
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and so is whoever could still want service.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Why a peer got no further than the door.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error("its credentials cannot be read: {0}")]
    Credentials(std::io::Error),
    #[error("the TLS handshake took longer than `door.handshake_timeout_s`")]
    Slow,
    #[error("the TLS handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("it showed no certificate")]
    NoCertificate,
}

/// One connection from its first byte to its last.
async fn connection(stream: UnixStream, door: Arc<Door>, mut shutdown: watch::Receiver<bool>) {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => return log::warn!(why:% = TurnedAway::Credentials(error); "connection refused"),
    };
    let greeted = tokio::select! {
        greeted = greet(stream, &door) => greeted,
        () = stopped(&mut shutdown) => return,
    };
    let (stream, certificate) = match greeted {
        Ok(greeted) => greeted,
        Err(why) => return log::warn!(uid = peer.uid(), why:% = why; "connection refused"),
    };
    let credentials = PeerCredentials { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
    let service = service_of(Arc::clone(&door), credentials, certificate);
    let served = serve_http(stream, service, &door.limits, shutdown).await;
    if let Err(error) = served {
        // Clients go away in the middle all the time; that is no event of the daemon's.
        log::debug!(uid = peer.uid(), error:% = error; "connection ended early");
    }
}

/// The handshake: gives the stream and the peer's certificate.
async fn greet(stream: UnixStream, door: &Door) -> Result<(TlsStream<UnixStream>, Vec<u8>), TurnedAway> {
    let handshake = TlsAcceptor::from(Arc::clone(&door.tls)).accept(stream);
    let stream = match tokio::time::timeout(door.limits.handshake_timeout, handshake).await {
        Err(_) => return Err(TurnedAway::Slow),
        Ok(Err(error)) => return Err(TurnedAway::Handshake(error)),
        Ok(Ok(stream)) => stream,
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().map(|certificate| certificate.to_vec()).ok_or(TurnedAway::NoCertificate)?;
    Ok((stream, certificate))
}

/// Every request of a connection, each after the question who asks.
fn service_of(
    door: Arc<Door>,
    peer: PeerCredentials,
    certificate: Vec<u8>,
) -> impl Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible, Future: Send + 'static> {
    let routes = TowerToHyperService::new(warp::service(door.routes.clone()));
    service_fn(move |mut request: Request<Incoming>| {
        let answer = match (door.identify)(peer, &certificate) {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Ok(routes.call(request))
            }
            Err(refusal) => {
                let fingerprint = access::fingerprint(&certificate);
                log::warn!(uid = peer.uid, fingerprint, why:% = refusal; "caller refused");
                Err(refused())
            }
        };
        async move {
            match answer {
                Ok(answer) => answer.await,
                Err(refused) => Ok(refused),
            }
        }
    })
}

/// What a holder of a certificate hears who is not let in, in the shapes of both APIs: a client that
/// reads of its refusal can do something about it, one whose connection breaks cannot. Why is for the
/// log alone: it may be a stolen certificate.
fn refused() -> warp::reply::Response {
    let error = ApiError::new(ErrorCode::Denied, "this certificate is not accepted from this user")
        .remedy("ask an administrator for one (`cloister user add`); the daemon's log says what is wrong");
    let body = serde_json::json!({
        "code": error.code,
        "message": error.message,
        "remedy": error.remedy,
        "error": {
            "message": error.message, "type": "permission_error", "param": null, "code": "not_identified",
        },
    });
    let mut response = warp::reply::with_status(warp::reply::json(&body), StatusCode::FORBIDDEN).into_response();
    response.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    response
}

async fn serve_http<S, B>(
    stream: TlsStream<UnixStream>,
    service: S,
    limits: &DoorLimits,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopped(&mut shutdown) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
