#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! A house with a real door, for tests: authority, registry, socket in a scratch folder, clients.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use cloister_wire::admin::Identity;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::listener::{Door, DoorLimits, serve};
use crate::access::{self, Authority, NewUser, Principal, Registry};

const NOW: i64 = 1_795_000_000;

pub(super) fn ada() -> Principal {
    let roles = BTreeSet::from(["user".to_owned()]);
    Principal { name: "ada".into(), roles, uid: own_uid() }
}

pub(super) fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

pub(super) struct House {
    pub(super) dir: tempfile::TempDir,
    authority: Authority,
    registry: Registry,
}

pub(super) struct OpenDoor {
    pub(super) socket: PathBuf,
    /// The door's own: a change is in force at once.
    pub(super) registry: Arc<RwLock<Registry>>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) served: JoinHandle<()>,
}

impl House {
    pub(super) fn new() -> Self {
        let authority = Authority::create(NOW).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), authority, registry: Registry::default() }
    }

    /// A certificate that the registry does not know.
    pub(super) fn issue(&self, name: &str) -> Identity {
        self.authority.issue_client(name, NOW).unwrap()
    }

    pub(super) fn admit(&mut self, name: &str, uid: u32) -> Identity {
        let identity = self.issue(name);
        let roles = BTreeSet::from(["user".to_owned()]);
        let fingerprint = identity.fingerprint.as_str();
        let user = NewUser { name, roles: &roles, uid: Some(uid), fingerprint, now: "2026-11-24T12:00:00Z" };
        self.registry.add(&user, &["user".to_owned()], |_| Ok::<_, String>(())).unwrap();
        identity
    }

    pub(super) fn limits() -> DoorLimits {
        DoorLimits {
            handshake_timeout: Duration::from_millis(500),
            header_timeout: Duration::from_millis(500),
            max_connections: 8,
            drain: Duration::from_secs(5),
        }
    }

    pub(super) fn open(&self, routes: BoxedFilter<(Response,)>, limits: DoorLimits) -> OpenDoor {
        let server = self.authority.issue_server(NOW).unwrap();
        let tls = access::server_config(self.authority.certificate(), &server.certificate, &server.key).unwrap();
        let registry = Arc::new(RwLock::new(self.registry.clone()));
        let known = Arc::clone(&registry);
        let identify = Arc::new(move |peer, der: &[u8]| access::identify(&known.read().unwrap(), &[], peer, der));
        let socket = self.dir.path().join("door.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, shutdown) = watch::channel(false);
        let served = tokio::spawn(serve(listener, Door { tls, identify, routes, limits }, shutdown));
        OpenDoor { socket, registry, stop, served }
    }

    /// Writes the identity folder that `cloisterd init` and `cloister user add` would give.
    pub(super) fn write(&self, identity: &Identity) -> PathBuf {
        let folder = self.dir.path().join(&identity.name);
        std::fs::create_dir(&folder).unwrap();
        let files = [("ca.pem", &identity.ca), ("certificate.pem", &identity.certificate), ("key.pem", &identity.key)];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        folder
    }
}

impl OpenDoor {
    pub(super) async fn handshake(&self, identity: &Identity) -> std::io::Result<TlsStream<UnixStream>> {
        let config = access::client_config(&identity.ca, &identity.certificate, &identity.key).unwrap();
        let stream = UnixStream::connect(&self.socket).await?;
        TlsConnector::from(config).connect(access::server_name().unwrap(), stream).await
    }

    /// A connection that is closed when the handle is dropped.
    pub(super) async fn connect(&self, identity: &Identity) -> SendRequest<Full<Bytes>> {
        let stream = self.handshake(identity).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

pub(super) fn get(path: &str) -> hyper::Request<Full<Bytes>> {
    hyper::Request::get(path).header("host", "localhost").body(Full::default()).unwrap()
}

pub(super) fn post(path: &str, body: impl Into<Bytes>) -> hyper::Request<Full<Bytes>> {
    hyper::Request::post(path).header("host", "localhost").body(Full::new(body.into())).unwrap()
}
