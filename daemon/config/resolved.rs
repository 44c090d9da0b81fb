//! What the daemon runs with: [`Settings`] after its paths, groups and times were looked up.
//!
//! What always holds: every path is absolute or was named by the administrator, every group is a
//! number. What the look-up depends on is a [`Surroundings`], so that a test decides it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_wire::sandbox::Limits;

use super::{ConfigError, DoorSettings, LogLevel, Settings, UnsealSettings, UnsealSource, WorkerSettings};

/// Where packages put the workers.
const LIBRARY_DIR: &str = "/usr/lib/cloister";
/// The credential's name in `LoadCredential=`.
const CREDENTIAL: &str = "cloister-root-key";

/// The configuration that the daemon runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it was read from; none when there was none. SIGHUP reads it again.
    pub file: Option<PathBuf>,
    /// Everything the daemon keeps.
    pub state_dir: PathBuf,
    /// Run as root all the same.
    pub allow_root: bool,
    /// What running requests and jobs get to end after SIGTERM.
    pub shutdown_timeout: Duration,
    /// The socket.
    pub door: Door,
    /// Where the root key comes from.
    pub unseal: Unseal,
    /// The engine and the sandbox.
    pub workers: Workers,
    /// The policies in force.
    pub policy: Policy,
    /// What plugins may use.
    pub plugins: Plugins,
    /// Completions.
    pub serving: Serving,
    /// How much is logged.
    pub log_level: log::LevelFilter,
}

/// The socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Its path; unused when systemd hands the socket over.
    pub socket: PathBuf,
    /// Its permissions.
    pub socket_mode: u32,
    /// Its group; none for the daemon's own.
    pub socket_gid: Option<u32>,
    /// Groups one of which a peer must be in; empty: the permissions decide.
    pub allowed_gids: Vec<u32>,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For a request's head, and for an idle connection.
    pub header_timeout: Duration,
    /// Connections at one time.
    pub max_connections: usize,
    /// Largest JSON body.
    pub max_request_bytes: u64,
    /// Largest uploaded file.
    pub max_upload_bytes: u64,
}

/// Where the root key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseal {
    /// The daemon starts sealed; `cloister unseal` opens it.
    Passphrase,
    /// The daemon opens the vault by itself with this file.
    Credential(PathBuf),
}

/// The engine and the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// `cloister-engine`.
    pub engine: PathBuf,
    /// `cloister-sandbox`.
    pub sandbox: PathBuf,
    /// Threads of a computing engine; 0 for all cores.
    pub threads: u32,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Between two signs of life.
    pub ping_interval: Duration,
    /// Without a sign of life for so long, a worker is replaced.
    pub ping_timeout: Duration,
}

/// The policies in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The folder.
    pub dir: PathBuf,
    /// Files of it in force, without `.cedar`.
    pub regimes: Vec<String>,
}

/// What plugins may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// Records handed to a sandbox at a time.
    pub batch_records: usize,
    /// What one plugin may use.
    pub limits: Limits,
}

/// Completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Answers computed at one time.
    pub max_concurrent: usize,
    /// Requests that may wait; further ones are refused.
    pub queue: usize,
    /// Longest answer of a request that names none.
    pub default_max_tokens: u32,
    /// Longest answer that a request may name.
    pub most_max_tokens: u32,
}

/// What resolving depends on.
pub struct Surroundings {
    /// The folder of the running `cloisterd`.
    pub executable_dir: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`, which systemd sets.
    pub credentials_dir: Option<PathBuf>,
    /// The content of /etc/group. Groups of a directory service are given by number.
    pub groups: String,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self {
            executable_dir: std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)),
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            groups: std::fs::read_to_string("/etc/group").unwrap_or_default(),
        }
    }

    fn gid(&self, key: &'static str, group: &str) -> Result<u32, ConfigError> {
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        // group(5): name:password:gid:members
        let mut entries = self.groups.lines().map(|line| line.split(':'));
        let gid = entries.find_map(|mut fields| {
            (fields.next() == Some(group)).then(|| fields.nth(1).and_then(|gid| gid.parse().ok())).flatten()
        });
        gid.ok_or_else(|| {
            ConfigError::value(
                key,
                format!("names the group `{group}`, which is not in /etc/group; create it or give a number"),
            )
        })
    }

    fn worker(&self, named: &Path, binary: &str) -> PathBuf {
        if !named.as_os_str().is_empty() {
            return named.to_path_buf();
        }
        let beside = self.executable_dir.as_ref().map(|dir| dir.join(binary));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new(LIBRARY_DIR).join(binary))
    }
}

impl Config {
    /// Reads, checks and resolves: what `cloisterd` calls at start and on SIGHUP.
    ///
    /// # Errors
    /// As [`Settings::read`] and [`Config::resolve`].
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let (settings, file) = Settings::read(named)?;
        Self::resolve(settings, file, &Surroundings::of_this_process())
    }

    /// Turns settings into what the daemon runs with.
    ///
    /// # Errors
    /// `Value` for a group that does not exist, or a credential that is nowhere.
    pub fn resolve(
        settings: Settings,
        file: Option<PathBuf>,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        settings.validate()?;
        Ok(Self {
            file,
            state_dir: settings.state_dir,
            allow_root: settings.allow_root,
            shutdown_timeout: Duration::from_secs(settings.shutdown_timeout_s),
            door: door(settings.door, surroundings)?,
            unseal: unseal(settings.unseal, surroundings)?,
            workers: workers(settings.workers, surroundings),
            policy: Policy { dir: settings.policy.dir, regimes: settings.policy.regimes },
            plugins: Plugins {
                batch_records: settings.plugins.batch_records as usize,
                limits: settings.plugins.limits,
            },
            serving: Serving {
                max_concurrent: settings.serving.max_concurrent as usize,
                queue: settings.serving.queue as usize,
                default_max_tokens: settings.serving.default_max_tokens,
                most_max_tokens: settings.serving.most_max_tokens,
            },
            log_level: level(settings.log.level),
        })
    }
}

fn door(settings: DoorSettings, surroundings: &Surroundings) -> Result<Door, ConfigError> {
    let socket_gid = match settings.socket_group.as_str() {
        "" => None,
        group => Some(surroundings.gid("door.socket_group", group)?),
    };
    let allowed = settings.allowed_groups.iter().map(|group| surroundings.gid("door.allowed_groups", group));
    Ok(Door {
        socket_gid,
        allowed_gids: allowed.collect::<Result<_, _>>()?,
        socket: settings.socket,
        socket_mode: settings.socket_mode,
        handshake_timeout: Duration::from_secs(settings.handshake_timeout_s),
        header_timeout: Duration::from_secs(settings.header_timeout_s),
        max_connections: settings.max_connections as usize,
        max_request_bytes: settings.max_request_bytes,
        max_upload_bytes: settings.max_upload_bytes,
    })
}

fn unseal(settings: UnsealSettings, surroundings: &Surroundings) -> Result<Unseal, ConfigError> {
    if settings.source == UnsealSource::Passphrase {
        return Ok(Unseal::Passphrase);
    }
    if !settings.credential.as_os_str().is_empty() {
        return Ok(Unseal::Credential(settings.credential));
    }
    match &surroundings.credentials_dir {
        Some(dir) => Ok(Unseal::Credential(dir.join(CREDENTIAL))),
        None => Err(ConfigError::value(
            "unseal.credential",
            "is empty and systemd passed no credential; name a file of 32 random bytes or set `LoadCredential=`",
        )),
    }
}

fn workers(settings: WorkerSettings, surroundings: &Surroundings) -> Workers {
    Workers {
        engine: surroundings.worker(&settings.engine, "cloister-engine"),
        sandbox: surroundings.worker(&settings.sandbox, "cloister-sandbox"),
        threads: settings.threads,
        device: settings.device,
        ping_interval: Duration::from_secs(settings.ping_interval_s),
        ping_timeout: Duration::from_secs(settings.ping_timeout_s),
    }
}

fn level(level: LogLevel) -> log::LevelFilter {
    match level {
        LogLevel::Off => log::LevelFilter::Off,
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warn => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Trace => log::LevelFilter::Trace,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings {
            executable_dir: None,
            credentials_dir: Some("/run/credentials/cloister.service".into()),
            groups: "root:x:0:\nresearch:x:4711:ada,bo\n".into(),
        }
    }

    fn resolve(text: &str) -> Result<Config, ConfigError> {
        let settings = Settings::parse(text, Path::new("cloister.toml"))?;
        Config::resolve(settings, None, &surroundings())
    }

    #[test]
    fn groups_are_found_by_name_and_by_number() {
        let config = resolve("[door]\nallowed_groups = [\"research\", \"12\"]\nsocket_group = \"research\"").unwrap();
        assert_eq!((config.door.allowed_gids, config.door.socket_gid), (vec![4711, 12], Some(4711)));
    }

    #[test]
    fn an_unknown_group_is_refused_by_name() {
        let error = resolve("[door]\nallowed_groups = [\"reserch\"]").unwrap_err().to_string();
        assert!(error.contains("`reserch`") && error.contains("door.allowed_groups"), "{error}");
    }

    #[test]
    fn the_credential_comes_from_systemd_unless_a_file_is_named() {
        let found = |text: &str| resolve(text).unwrap().unseal;
        assert_eq!(found(""), Unseal::Passphrase);
        let source = "[unseal]\nsource = \"credential\"\n";
        let passed = "/run/credentials/cloister.service/cloister-root-key";
        assert_eq!(found(source), Unseal::Credential(passed.into()));
        assert_eq!(found(&format!("{source}credential = \"/k\"")), Unseal::Credential("/k".into()));
    }

    #[test]
    fn workers_lie_beside_the_daemon_or_in_the_library_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cloister-engine"), "").unwrap();
        let beside = Surroundings { executable_dir: Some(dir.path().into()), ..surroundings() };
        let config = Config::resolve(Settings::default(), None, &beside).unwrap();
        assert_eq!(config.workers.engine, dir.path().join("cloister-engine"));
        assert_eq!(config.workers.sandbox, Path::new("/usr/lib/cloister/cloister-sandbox"));
    }
}
