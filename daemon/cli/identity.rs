//! The identity folder: the user's certificate and key, and the appliance's CA.
//!
//! A private key that others can read is refused with the command that mends it, as ssh does. The CA file is
//! the only root of trust; the machine's own certificates are never asked.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cloister_wire::admin::{ApiError, Finding, Level};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use x509_parser::parse_x509_certificate;

use crate::error::{self, failed, invalid};

/// The user's certificate, PEM.
pub(crate) const CERTIFICATE: &str = "certificate.pem";
/// The user's private key, PEM, mode 0600.
pub(crate) const KEY: &str = "key.pem";
/// The appliance's CA, PEM.
pub(crate) const CA: &str = "ca.pem";

const DAY: i64 = 86_400;

/// Mode bits that let anybody but the owner in.
const OTHERS: u32 = 0o077;

/// The TLS side of an identity folder: TLS 1.3 only, `ring`, the folder's CA as only root.
pub(crate) fn tls_config(folder: &Path) -> Result<ClientConfig, ApiError> {
    let chain = certificates(folder, CERTIFICATE)?;
    let key = private_key(folder)?;
    let mut roots = RootCertStore::empty();
    for root in certificates(folder, CA)? {
        roots.add(root).map_err(|error| unusable(&folder.join(CA), &error))?;
    }
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(format!("TLS 1.3 cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable(&folder.join(CERTIFICATE), &error))
}

/// What `cloister doctor` says of the folder; never an early return, so that everything wrong is named at once.
pub(crate) fn inspect(folder: &Path) -> Vec<Finding> {
    vec![
        finding("identity: certificate", inspect_certificate(folder)),
        finding("identity: key", inspect_key(folder)),
        finding("identity: CA", certificates(folder, CA).map(|_| (Level::Ok, folder.join(CA).display().to_string()))),
    ]
}

fn finding(check: &str, outcome: Result<(Level, String), ApiError>) -> Finding {
    match outcome {
        Ok((level, message)) => {
            let remedy = (level == Level::Warning).then(|| "ask an administrator for a new identity in time".into());
            Finding { check: check.into(), level, message, remedy }
        }
        Err(error) => {
            Finding { check: check.into(), level: Level::Error, message: error.message, remedy: error.remedy }
        }
    }
}

fn inspect_certificate(folder: &Path) -> Result<(Level, String), ApiError> {
    let path = folder.join(CERTIFICATE);
    let chain = certificates(folder, CERTIFICATE)?;
    let first = chain.first().ok_or_else(|| empty(&path))?;
    let (_, certificate) = parse_x509_certificate(first).map_err(|error| unusable(&path, &error))?;
    let validity = certificate.validity();
    judge_dates(validity.not_before.timestamp(), validity.not_after.timestamp(), now())
        .map(|(level, message)| (level, format!("{}, {message}", certificate.subject())))
        .map_err(|message| {
            invalid(format!("`{}` {message}", path.display()))
                .remedy("check this machine's clock; otherwise ask an administrator for a new identity")
        })
}

/// Whether a certificate can be used at `now`; all times in seconds since 1970.
fn judge_dates(from: i64, until: i64, now: i64) -> Result<(Level, String), String> {
    if now < from {
        return Err(format!("is not valid yet, for {} more", days(from - now)));
    }
    if now > until {
        return Err(format!("expired {} ago", days(now - until)));
    }
    let level = if until - now < 30 * DAY { Level::Warning } else { Level::Ok };
    Ok((level, format!("valid for {}", days(until - now))))
}

fn days(seconds: i64) -> String {
    match seconds / DAY {
        0 => "less than a day".into(),
        1 => "1 day".into(),
        n => format!("{n} days"),
    }
}

fn inspect_key(folder: &Path) -> Result<(Level, String), ApiError> {
    let path = folder.join(KEY);
    let key = private_key(folder)?;
    let chain = certificates(folder, CERTIFICATE)?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| unusable(&path, &error))?;
    match CertifiedKey::new(chain, signing).keys_match() {
        Ok(()) => Ok((Level::Ok, "readable by its owner only, belongs to the certificate".into())),
        Err(error) => Err(invalid(format!("`{}` does not belong to `{CERTIFICATE}`: {error}", path.display()))
            .remedy("put the files of one identity together again")),
    }
}

fn certificates(folder: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let path = folder.join(name);
    let text = fs::read(&path).map_err(|error| missing(&path, &error))?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(&path, &error))?;
    if found.is_empty() { Err(empty(&path)) } else { Ok(found) }
}

fn private_key(folder: &Path) -> Result<PrivateKeyDer<'static>, ApiError> {
    let path = folder.join(KEY);
    let mode = fs::metadata(&path).map_err(|error| missing(&path, &error))?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(invalid(format!(
            "the private key `{}` can be read by others (mode {:04o})",
            path.display(),
            mode & 0o7777
        ))
        .remedy(format!("run `chmod 600 {}`", path.display())));
    }
    match PrivateKeyDer::from_pem_file(&path) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(empty(&path)),
        Err(error) => Err(unusable(&path, &error)),
    }
}

fn missing(path: &Path, error: &io::Error) -> ApiError {
    let answer = error::file("read", path, error);
    match error.kind() {
        io::ErrorKind::NotFound => answer.remedy(
            "name your identity folder with --identity or $CLOISTER_IDENTITY; an administrator makes one by \
             `cloister user add NAME --role ROLE --out DIR`",
        ),
        _ => answer,
    }
}

fn empty(path: &Path) -> ApiError {
    invalid(format!("`{}` holds nothing in PEM form", path.display())).remedy("copy the identity folder again, whole")
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> ApiError {
    invalid(format!("`{}` cannot be used: {error}", path.display())).remedy("copy the identity folder again, whole")
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs() as i64)
}

/// `$CLOISTER_IDENTITY` or `--identity`, else `~/.config/cloister`.
pub(crate) fn folder_or_default(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".config/cloister"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_its_dates() {
        let check = |now| judge_dates(0, 400 * DAY, now);
        assert_eq!(check(DAY).unwrap().0, Level::Ok);
        assert_eq!(check(390 * DAY).unwrap().0, Level::Warning);
        assert_eq!(check(401 * DAY + 5).unwrap_err(), "expired 1 day ago");
        assert!(check(-5).unwrap_err().contains("not valid yet"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_chmod() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY);
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = private_key(folder.path()).unwrap_err();
        assert_eq!(error.remedy.unwrap(), format!("run `chmod 600 {}`", path.display()));
    }

    #[test]
    fn a_missing_folder_names_what_to_do() {
        let error = tls_config(Path::new("/nonexistent/identity")).unwrap_err();
        assert!(error.message.contains("certificate.pem") && error.remedy.unwrap().contains("--identity"));
        assert_eq!(inspect(Path::new("/nonexistent/identity")).len(), 3);
    }
}
