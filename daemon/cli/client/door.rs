//! A small TLS server on a Unix socket for tests: the daemon's door without the daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::SERVER_NAME;
use crate::identity;

/// A CA and what it has signed, in a folder.
pub(crate) struct Door {
    pub(crate) folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Door {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), ca }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("cloister.sock")
    }

    /// Writes an identity that this door's CA signed; `ca.pem` is that of `trusted`.
    pub(crate) fn identity(&self, trusted: &Door) -> PathBuf {
        let folder = self.folder.path().join("identity");
        fs::create_dir_all(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ana");
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        fs::write(folder.join(identity::CERTIFICATE), certificate.pem()).unwrap();
        fs::write(folder.join(identity::KEY), key.serialize_pem()).unwrap();
        fs::set_permissions(folder.join(identity::KEY), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.join(identity::CA), trusted.ca.pem()).unwrap();
        folder
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![SERVER_NAME.into()]).unwrap().signed_by(&key, &self.ca).unwrap();
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Serves one connection; gives back the request.
    pub(crate) fn serve(&self, read: Read, answer: String) -> JoinHandle<Vec<u8>> {
        let serving = self.serve_all(read, vec![answer]);
        tokio::spawn(async move { serving.await.unwrap().remove(0) })
    }

    /// Serves as many connections as there are answers, one after the other; gives back the requests.
    ///
    /// Of a request everything is read, or only the beginning; then the answer goes out and the door shuts.
    pub(crate) fn serve_all(&self, read: Read, answers: Vec<String>) -> JoinHandle<Vec<Vec<u8>>> {
        let (listener, acceptor) = (UnixListener::bind(self.socket()).unwrap(), self.acceptor());
        tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    requests.push(Vec::new());
                    continue;
                };
                requests.push(read_request(&mut stream, read).await);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            requests
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Head,
    All,
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin), read: Read) -> Vec<u8> {
    let mut request = Vec::new();
    loop {
        let mut piece = vec![0; 1 << 16];
        let got = stream.read(&mut piece).await.unwrap();
        request.extend_from_slice(&piece[..got]);
        let Some(head) = request.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
        let length = text
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        if got == 0 || read == Read::Head || request.len() >= head + 4 + length {
            return request;
        }
    }
}

pub(crate) fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
