//! The two sides' TLS configuration: version 1.3 only, `ring` named explicitly (no process-wide
//! default that another library could change), and both sides show a certificate of our authority.

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// The name in the server's certificate. The door is a Unix socket, so it resolves nowhere.
pub const SERVER_NAME: &str = "cloister.local";

/// A TLS configuration was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM text does not hold what it should.
    #[error("there is no usable {0} in the PEM text; make it again with `cloisterd init` or `cloister user add`")]
    Pem(&'static str),
    /// The TLS library refused.
    #[error("the certificate or its key is refused: {0}")]
    Refused(#[from] rustls::Error),
    /// The library cannot verify clients with this authority.
    #[error("clients cannot be verified with this authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The door's side. `authority`, `certificate` and `key` are PEM.
///
/// # Errors
/// [`TlsError`] when a text is not what it should be.
pub fn server_config(
    authority: &str,
    certificate: &str,
    key: &str,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider.clone())
            .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(certificate)?, private_key(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No resumption: every connection shows its certificate again, so revoking works at once.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The CLI's side. All three are PEM, and may be one text that holds all (see `bundle`): the
/// authority is then the last certificate in it.
///
/// # Errors
/// [`TlsError`] when a text is not what it should be.
pub fn client_config(
    authority: &str,
    certificate: &str,
    key: &str,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut own = certificates(certificate)?;
    own.truncate(1);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(own, private_key(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// [`SERVER_NAME`] as the client's connector wants it.
///
/// # Errors
/// None as the name stands.
pub fn server_name() -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(SERVER_NAME).map_err(|_| TlsError::Pem("server name"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Trusts the last certificate alone: in a bundle the others are the holder's own.
fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let authority = certificates(pem)?.pop().ok_or(TlsError::Pem("certificate"))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsError::Pem("certificate"))
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::Pem("private key"))
}
