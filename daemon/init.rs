//! `cloisterd init`: makes a new appliance, so that the next command can be `systemctl start cloister`.
//!
//! In this order: the state folder and its lock, the authority and the server's certificate (`tls/`), the
//! administrator's identity, the registry of users, the vault, and last the audit log.
//!
//! What always holds: `keyring.json` and the audit log's head are the last files that are written, each in one
//! step, and together they make a folder an appliance. An init that was cut short anywhere before can be repeated and takes up the
//! authority that it finds; an appliance that exists is never touched. A test cuts it at every write.

mod people;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloister_vault::{RootSource, Storage, Vault, VaultError, read_small, storage_from_environment, write_atomic};
use cloister_wire::admin::Identity;
use cloister_wire::recipe::valid_name;
use rustix::fs::{AtFlags, CWD, Gid, Uid};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::access::{ADMINISTRATOR, Authority, CaError, NewUser, Registry, UserError};
use crate::audit::{AuditError, AuditLog};
use crate::config::{Settings, UnsealSource};
use crate::harden::{HardenError, StateDir};
use people::{Account, Accounts, asking_uid};

/// The authority's certificate, below the state folder; what both sides of the door trust.
pub const AUTHORITY: &str = "tls/ca.pem";
/// Its key.
pub const AUTHORITY_KEY: &str = "tls/ca.key";
/// The server's certificate.
pub const SERVER: &str = "tls/server.pem";
/// Its key.
pub const SERVER_KEY: &str = "tls/server.key";
/// The registry of users.
pub const USERS: &str = "access/users.json";
/// The vault's keyring, whose presence means that there is an appliance.
pub const KEYRING: &str = "keyring.json";

/// Larger than any file that is read here.
const MOST_BYTES: u64 = 1 << 20;
const CREDENTIAL_BYTES: usize = 32;

/// Make a new appliance: state folder, vault, certificates, first administrator.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct InitArgs {
    /// Name of the first administrator [default: your user name]
    #[arg(long, value_name = "NAME")]
    pub admin: Option<String>,
    /// The only uid that the administrator's certificate is taken from [default: yours]
    #[arg(long, value_name = "UID")]
    pub admin_uid: Option<u32>,
    /// Folder for the administrator's certificate and key [default: ~/.config/cloister]
    #[arg(long, value_name = "DIR")]
    pub identity_out: Option<PathBuf>,
    /// Read the vault's passphrase from a file's first line instead of the terminal
    #[arg(long, value_name = "FILE", conflicts_with = "credential")]
    pub passphrase_file: Option<PathBuf>,
    /// Open the vault with this file; 32 random bytes are written to it if there is none
    #[arg(long, value_name = "PATH")]
    pub credential: Option<PathBuf>,
    /// The user that the daemon runs as, when root runs this [default: cloister]
    #[arg(long, value_name = "USER")]
    pub service_user: Option<String>,
}

/// Why there is no new appliance.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one.
    #[error("`{}` is initialised already: start the daemon, or set another `state_dir`", .0.display())]
    Initialised(PathBuf),
    /// The audit log could not be begun.
    #[error("the audit log could not be begun: {0}")]
    Audit(#[from] AuditError),
    /// The administrator's name cannot be used.
    #[error("`{name}` cannot be the administrator's name: it {why}; choose one with `--admin NAME`")]
    AdminName {
        /// As given or found.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Root has nobody to run the daemon as.
    #[error(
        "there is no user `{0}` to run the daemon as: make one (`systemd-sysusers`) or name one with `--service-user`"
    )]
    NoServiceUser(String),
    /// No folder for the identity was named, and the administrator has no home.
    #[error("uid {0} has no home folder in /etc/passwd: name a folder with `--identity-out DIR`")]
    NoHome(u32),
    /// The folder for the identity is in use.
    #[error("`{}` holds another identity or other files: name a new folder with `--identity-out DIR`", .0.display())]
    IdentityInUse(PathBuf),
    /// The key would lie beside what it protects.
    #[error("the credential `{}` must not lie in the state folder: whoever takes the disk would have both", .0.display())]
    CredentialInside(PathBuf),
    /// The configuration wants a credential, and none is named.
    #[error("the configuration says `unseal.source = \"credential\"`: name the file with `--credential PATH`")]
    NoCredential,
    /// There is nobody to ask.
    #[error("there is no terminal to ask for a passphrase: use `--passphrase-file FILE` or `--credential PATH`")]
    NoTerminal,
    /// Typed differently twice.
    #[error("the two passphrases differ; nothing was made")]
    Mismatch,
    /// A file could not be used.
    #[error("cannot {what} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The system's random numbers or clock.
    #[error("the system gives no {0}")]
    System(&'static str),
    /// The state folder.
    #[error(transparent)]
    Harden(#[from] HardenError),
    /// A certificate.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The registry.
    #[error(transparent)]
    User(#[from] UserError),
    /// The vault or the disk.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// What was made; shows what to do next.
#[derive(Debug)]
pub struct Initialised {
    state_dir: PathBuf,
    admin: String,
    uid: u32,
    identity: PathBuf,
    /// The file that opens the vault; none for a passphrase.
    credential: Option<PathBuf>,
    /// Made by root for a service that cannot read root's files.
    for_service: bool,
    /// The configuration, if it was named.
    config: Option<PathBuf>,
}

/// Makes a new appliance. `config` is the configuration's file if it was named, for the hints.
///
/// # Errors
/// See [`InitError`]. Unless it says that there is an appliance already, it can be tried again.
pub fn run(settings: &Settings, args: &InitArgs, config: Option<&Path>) -> Result<Initialised, InitError> {
    let plan = Plan::new(settings, args, &Accounts::of_this_machine())?;
    let made = make(&plan, storage_from_environment()?)?;
    Ok(Initialised { config: config.map(Path::to_path_buf), ..made })
}

/// Whose and where, decided before anything is written.
struct Plan {
    state_dir: PathBuf,
    /// Whose the state folder shall be, when root makes it.
    service: Option<Account>,
    admin: String,
    admin_uid: u32,
    /// The group of the administrator's files, when root makes them.
    admin_gid: Option<u32>,
    identity: PathBuf,
    secret: Secret,
}

/// What shall open the vault.
enum Secret {
    Ask,
    PassphraseFile(PathBuf),
    Credential(PathBuf),
}

impl Plan {
    fn new(settings: &Settings, args: &InitArgs, accounts: &Accounts) -> Result<Self, InitError> {
        let admin_uid = args.admin_uid.unwrap_or_else(asking_uid);
        let account = accounts.with_uid(admin_uid);
        let found = account.map_or("admin", |account| account.name.as_str());
        let admin = args.admin.clone().unwrap_or_else(|| found.to_owned());
        valid_name(&admin).map_err(|why| InitError::AdminName { name: admin.clone(), why })?;
        let identity = match (&args.identity_out, account) {
            (Some(folder), _) => folder.clone(),
            (None, Some(account)) => account.home.join(".config/cloister"),
            (None, None) => return Err(InitError::NoHome(admin_uid)),
        };
        let service = service(settings, args, accounts)?;
        Ok(Self {
            state_dir: settings.state_dir.clone(),
            // Without root nothing can be given away, and nothing needs to be.
            admin_gid: service.as_ref().and(account).map(|account| account.gid),
            service,
            admin,
            admin_uid,
            identity,
            secret: secret(settings, args)?,
        })
    }
}

fn service(settings: &Settings, args: &InitArgs, accounts: &Accounts) -> Result<Option<Account>, InitError> {
    if !rustix::process::geteuid().is_root() || (settings.allow_root && args.service_user.is_none()) {
        return Ok(None);
    }
    let name = args.service_user.as_deref().unwrap_or("cloister");
    accounts.named(name).cloned().map(Some).ok_or_else(|| InitError::NoServiceUser(name.to_owned()))
}

fn secret(settings: &Settings, args: &InitArgs) -> Result<Secret, InitError> {
    let configured = &settings.unseal.credential;
    let credential = match (&args.credential, &args.passphrase_file, settings.unseal.source) {
        (_, Some(file), _) => return Ok(Secret::PassphraseFile(file.clone())),
        (Some(path), None, _) => path,
        (None, None, UnsealSource::Passphrase) => return Ok(Secret::Ask),
        (None, None, UnsealSource::Credential) if configured.as_os_str().is_empty() => {
            return Err(InitError::NoCredential);
        }
        (None, None, UnsealSource::Credential) => configured,
    };
    if credential.starts_with(&settings.state_dir) {
        return Err(InitError::CredentialInside(credential.clone()));
    }
    Ok(Secret::Credential(credential.clone()))
}

fn make(plan: &Plan, storage: Arc<dyn Storage>) -> Result<Initialised, InitError> {
    let state = StateDir::create(&plan.state_dir, plan.service.as_ref().map(|account| account.uid))?;
    let dir = state.path();
    let exists = |name: &str| dir.join(name).try_exists().map_err(|source| file("look at", &dir.join(name), source));
    // A catalog without an audit log is no interrupted init: somebody removed the log, and the daemon will say so.
    let has_keyring = exists(KEYRING)?;
    if has_keyring && (AuditLog::exists(dir) || exists("catalog")?) {
        return Err(InitError::Initialised(dir.to_path_buf()));
    }
    let source = root_source(&plan.secret, &*storage)?;
    let now = OffsetDateTime::now_utc();
    let authority = authority(&*storage, dir, now.unix_timestamp())?;
    let identity = authority.issue_client(&plan.admin, now.unix_timestamp())?;
    write_identity(&*storage, &plan.identity, &identity)?;
    write_registry(&*storage, dir, plan, &identity.fingerprint, now)?;
    // INVARIANT: last. What was made before counts for nothing without a keyring and an audit log.
    let vault = match has_keyring {
        true => Vault::open(Arc::clone(&storage), dir, &source)?,
        false => Vault::create(Arc::clone(&storage), dir, &source)?,
    };
    AuditLog::create(&vault, now)?;
    hand_over(plan)?;
    let credential = match &plan.secret {
        Secret::Credential(path) => Some(path.clone()),
        Secret::Ask | Secret::PassphraseFile(_) => None,
    };
    Ok(Initialised {
        state_dir: plan.state_dir.clone(),
        admin: plan.admin.clone(),
        uid: plan.admin_uid,
        identity: plan.identity.clone(),
        credential,
        for_service: plan.service.is_some(),
        config: None,
    })
}

fn root_source(secret: &Secret, storage: &dyn Storage) -> Result<RootSource, InitError> {
    match secret {
        Secret::Ask => ask_twice().map(|passphrase| RootSource::passphrase(passphrase.as_str())),
        Secret::PassphraseFile(path) => {
            let passphrase = first_line(path)?;
            Ok(RootSource::passphrase(passphrase.as_str()))
        }
        Secret::Credential(path) => {
            if read_small(storage, path, MOST_BYTES)?.is_none() {
                let random = ring::rand::generate::<[u8; CREDENTIAL_BYTES]>(&ring::rand::SystemRandom::new());
                let bytes = Zeroizing::new(random.map_err(|_| InitError::System("random numbers"))?.expose());
                storage.create_dir(path.parent().unwrap_or(Path::new("."))).map_err(|e| file("make", path, e))?;
                write_atomic(storage, path, &*bytes)?;
            }
            Ok(RootSource::credential_file(path)?)
        }
    }
}

fn ask_twice() -> Result<Zeroizing<String>, InitError> {
    if !std::io::stdin().is_terminal() {
        return Err(InitError::NoTerminal);
    }
    let ask = |prompt| {
        let answer = rpassword::prompt_password(prompt);
        answer.map(Zeroizing::new).map_err(|source| file("read a passphrase from", Path::new("/dev/tty"), source))
    };
    let first = ask("Passphrase that opens the vault (at least 8 characters; a lost one cannot be replaced): ")?;
    let second = ask("The same again: ")?;
    if *first == *second { Ok(first) } else { Err(InitError::Mismatch) }
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, InitError> {
    let failed = |source| file("read a passphrase from", path, source);
    let mut text = Zeroizing::new(String::with_capacity(4096));
    std::fs::File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text)).map_err(failed)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// The authority, and the server's certificate by it. One left by an init that was cut short is used
/// again: the identity may bear its signature already.
fn authority(storage: &dyn Storage, dir: &Path, now: i64) -> Result<Authority, InitError> {
    let read = |name: &str| read_small(storage, &dir.join(name), MOST_BYTES);
    let authority = match (read(AUTHORITY)?, read(AUTHORITY_KEY)?) {
        (Some(certificate), Some(key)) => {
            let key = Zeroizing::new(key);
            let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
            Authority::load(text(&certificate), text(&key))?
        }
        // The key is written first: a certificate alone is no authority of ours.
        _ => {
            let authority = Authority::create(now)?;
            write(storage, &dir.join(AUTHORITY_KEY), authority.key().as_bytes())?;
            write(storage, &dir.join(AUTHORITY), authority.certificate().as_bytes())?;
            authority
        }
    };
    let server = authority.issue_server(now)?;
    write(storage, &dir.join(SERVER_KEY), server.key.as_bytes())?;
    write(storage, &dir.join(SERVER), server.certificate.as_bytes())?;
    Ok(authority)
}

/// Writes `ca.pem`, `certificate.pem` and `key.pem`, what the CLI calls an identity. A folder that is not
/// empty is only used again if its authority is ours, and ours has no appliance yet.
fn write_identity(storage: &dyn Storage, folder: &Path, identity: &Identity) -> Result<(), InitError> {
    let occupied = match storage.list(folder) {
        Ok(entries) => entries.iter().any(|entry| !entry.name.starts_with(cloister_vault::TEMPORARY_PREFIX)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(source) => return Err(file("look into", folder, source)),
    };
    let ours = || read_small(storage, &folder.join("ca.pem"), MOST_BYTES);
    if occupied && ours()?.as_deref() != Some(identity.ca.as_bytes()) {
        return Err(InitError::IdentityInUse(folder.to_path_buf()));
    }
    write(storage, &folder.join("ca.pem"), identity.ca.as_bytes())?;
    write(storage, &folder.join("certificate.pem"), identity.certificate.as_bytes())?;
    write(storage, &folder.join("key.pem"), identity.key.as_bytes())
}

fn write_registry(
    storage: &dyn Storage,
    dir: &Path,
    plan: &Plan,
    fingerprint: &str,
    now: OffsetDateTime,
) -> Result<(), InitError> {
    let roles = BTreeSet::from([ADMINISTRATOR.to_owned()]);
    let now = now.format(&Rfc3339).map_err(|_| InitError::System("time that can be written down"))?;
    let user = NewUser { name: &plan.admin, roles: &roles, uid: Some(plan.admin_uid), fingerprint, now: &now };
    let path = dir.join(USERS);
    Registry::default().add(&user, &[ADMINISTRATOR.to_owned()], |bytes| write(storage, &path, bytes))?;
    Ok(())
}

fn write(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        storage.create_dir(folder).map_err(|source| file("make", folder, source))?;
    }
    Ok(write_atomic(storage, path, bytes)?)
}

/// Root gives each their own: the state folder to the service, the identity to the person. A credential stays
/// root's: systemd reads it (`LoadCredential=`) and the service never sees the file.
fn hand_over(plan: &Plan) -> Result<(), InitError> {
    let Some(service) = &plan.service else { return Ok(()) };
    if let Some(gid) = plan.admin_gid {
        give(&plan.identity, plan.admin_uid, gid)?;
    }
    give(&plan.state_dir, service.uid, service.gid)
}

fn give(path: &Path, uid: u32, gid: u32) -> Result<(), InitError> {
    let failed = |source| file("give away", path, source);
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), uid, gid)?;
        }
    }
    // Never through a link, which could point anywhere.
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| failed(errno.into()))
}

fn file(what: &'static str, path: &Path, source: std::io::Error) -> InitError {
    InitError::File { what, path: path.to_path_buf(), source }
}

impl fmt::Display for Initialised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, identity) = (self.state_dir.display(), self.identity.display());
        let start = match &self.config {
            Some(config) => format!("cloisterd --config {} run", config.display()),
            None => "systemctl start cloister, or cloisterd run".to_owned(),
        };
        writeln!(f, "1. Made an appliance in {state}, with a certificate authority of its own.")?;
        writeln!(
            f,
            "2. Administrator `{}` (uid {}) has an identity in {identity}: keep key.pem secret.",
            self.admin, self.uid
        )?;
        match &self.credential {
            Some(path) => {
                let path = path.display();
                writeln!(f, "3. {path} opens the vault: keep a copy elsewhere, without it all data is lost. Set")?;
                if self.for_service {
                    writeln!(f, "   unseal.source = \"credential\" in cloister.toml, and in a drop-in of the unit")?;
                    writeln!(
                        f,
                        "   LoadCredential=cloister-root-key:{path}, or sealed to the TPM as the unit's comment says."
                    )?;
                } else {
                    writeln!(
                        f,
                        "   unseal.source = \"credential\" and unseal.credential = \"{path}\" in cloister.toml."
                    )?;
                }
                writeln!(f, "4. Start the daemon: {start}")?;
            }
            None => {
                writeln!(f, "3. Your passphrase opens the vault: keep a copy elsewhere, without it all data is lost.")?;
                writeln!(f, "4. Start the daemon ({start}) and unseal it:")?;
                writeln!(f, "   cloister --identity {identity} unseal")?;
            }
        }
        write!(f, "5. See that all is well: cloister --identity {identity} doctor")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
