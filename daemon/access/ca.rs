//! The appliance's own certificate authority. It signs the server's certificate and one client
//! certificate a person; nothing else in the world is trusted, and nothing else trusts it.
//!
//! Keys are ECDSA P-256: both `ring` and the OpenSSL under Python accept them. Certificates are
//! valid from 1970 on, because an appliance whose clock fell back must not lock out the person who
//! would set it; who may come in is decided by the registry, not by dates.
//!
//! Everything is handed out as PEM; the caller writes it, 0600.

use cloister_wire::admin::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// The names under which a client may look for the server.
const SERVER_NAMES: [&str; 2] = [super::SERVER_NAME, "localhost"];
const ORGANISATION: &str = "Cloister";
const LEAF_DAYS: i64 = 3653;
/// Twice a leaf's, so that no leaf outlives what signed it.
const AUTHORITY_DAYS: i64 = 2 * LEAF_DAYS;
/// A clock that shows less is wrong, and would make certificates that have expired already.
const EARLIEST_NOW: i64 = 1_764_000_000; // 2025-11-24

/// Making or reading a certificate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The certificate library refused.
    #[error("cannot make or read a certificate: {0}; check the files in `tls`")]
    Certificate(#[from] rcgen::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for a serial number; try again")]
    Random,
    /// The authority's key and certificate do not belong together.
    #[error("the authority's key does not fit its certificate; restore both from one backup")]
    Mismatch,
}

/// The authority, ready to sign.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The server's certificate and key.
pub struct ServerIdentity {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: Zeroizing<String>,
}

impl Authority {
    /// Makes a new authority. `now` is seconds since 1970.
    ///
    /// # Errors
    /// [`CaError`], from the library or the system's random source.
    pub fn create(now: i64) -> Result<Self, CaError> {
        let key = new_key()?;
        let mut params = params("Cloister local authority", now, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Reads an authority back.
    ///
    /// # Errors
    /// [`CaError`] when either text is not PEM of its kind, or they do not belong together.
    pub fn load(certificate: &str, key: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key)?;
        if public_key(certificate)? != key.public_key_raw() {
            return Err(CaError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key)?;
        Ok(Self { certificate: certificate.to_owned(), issuer })
    }

    /// The authority's certificate, PEM: what both sides trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's key, PEM. Whoever holds it can let anyone's name in, though the registry
    /// must still list the certificate.
    pub fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Makes the server's certificate, for `cloister.local` and `localhost`.
    ///
    /// # Errors
    /// [`CaError`], from the library or the system's random source.
    pub fn issue_server(&self, now: i64) -> Result<ServerIdentity, CaError> {
        let names = SERVER_NAMES.map(str::to_owned).to_vec();
        let subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        let mut params = params(super::SERVER_NAME, now, LEAF_DAYS)?;
        params.subject_alt_names = subject_alt_names;
        let (certificate, key) = self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(ServerIdentity { certificate: certificate.pem(), key })
    }

    /// Makes a person's certificate and key. Neither is kept here.
    ///
    /// # Errors
    /// [`CaError`], from the library or the system's random source.
    pub fn issue_client(&self, name: &str, now: i64) -> Result<Identity, CaError> {
        let params = params(name, now, LEAF_DAYS)?;
        let (certificate, key) = self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Identity {
            name: name.to_owned(),
            fingerprint: fingerprint(certificate.der()),
            certificate: certificate.pem(),
            key: key.to_string(),
            ca: self.certificate.clone(),
        })
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(rcgen::Certificate, Zeroizing<String>), CaError> {
        let key = new_key()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        // Python 3.13 verifies strictly by default, and then wants the authority's key named.
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate, Zeroizing::new(key.serialize_pem())))
    }
}

/// Certificate, key and authority in one PEM text, as `cloister` and curl take it.
pub fn bundle(identity: &Identity) -> Zeroizing<String> {
    Zeroizing::new([identity.certificate.as_str(), &identity.key, &identity.ca].concat())
}

/// SHA-256 of a certificate (DER), in hex: its name in the registry and in the audit log.
pub fn fingerprint(certificate: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn new_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn params(common_name: &str, now: i64, days: i64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    params.not_before = OffsetDateTime::UNIX_EPOCH + Duration::DAY;
    params.not_after =
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(now.max(EARLIEST_NOW)) + Duration::days(days);
    params.serial_number = Some(serial_number()?);
    Ok(params)
}

/// 127 random bits: positive, and never the same twice.
fn serial_number() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CaError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn public_key(certificate: &str) -> Result<Vec<u8>, CaError> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
        .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    let certificate = pem.parse_x509().map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}
