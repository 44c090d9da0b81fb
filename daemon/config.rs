//! The configuration: one TOML file, read and checked once, passed down in parts.
//!
//! Two steps. [`Settings`] is the file as written: plain types, every key optional, unknown keys
//! refused with their line. [`Config`] is what the daemon runs with: paths found, groups looked up,
//! seconds turned into durations. Nothing below `main` reads the file, the environment or a default
//! again.
//!
//! What always holds: a `Config` has passed every check in this folder, and
//! `packaging/etc/cloister.toml` shows each key with its default (a test compares them).

mod resolved;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cloister_wire::sandbox::Limits;
use serde::{Deserialize, Serialize};

pub use resolved::{Config, Door, Plugins, Policy, Serving, Surroundings, Unseal, Workers};

/// Where the file lies unless `--config` names another.
pub const DEFAULT_FILE: &str = "/etc/cloister/cloister.toml";

/// The file as written. An empty text stands for "find it yourself" where a key's comment says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Everything the daemon keeps.
    pub state_dir: PathBuf,
    /// Run as root all the same.
    pub allow_root: bool,
    /// Seconds that running requests and jobs get to end after SIGTERM.
    pub shutdown_timeout_s: u64,
    /// The socket.
    pub door: DoorSettings,
    /// Where the root key comes from.
    pub unseal: UnsealSettings,
    /// The engine and the sandbox.
    pub workers: WorkerSettings,
    /// The policies in force.
    pub policy: PolicySettings,
    /// What plugins may use.
    pub plugins: PluginSettings,
    /// Completions.
    pub serving: ServingSettings,
    /// The daemon's own log.
    pub log: LogSettings,
}

/// `[door]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoorSettings {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Its permissions.
    pub socket_mode: u32,
    /// Its group, name or number; empty for the daemon's own.
    pub socket_group: String,
    /// Groups, by name or number, one of which a peer must be in; empty: the permissions decide.
    pub allowed_groups: Vec<String>,
    /// Seconds for the TLS handshake.
    pub handshake_timeout_s: u64,
    /// Seconds for a request's head, and for an idle connection.
    pub header_timeout_s: u64,
    /// Connections at one time.
    pub max_connections: u32,
    /// Largest JSON body.
    pub max_request_bytes: u64,
    /// Largest uploaded file.
    pub max_upload_bytes: u64,
}

/// `[unseal]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnsealSettings {
    /// A person's passphrase, or a file.
    pub source: UnsealSource,
    /// The credential's file; empty for `$CREDENTIALS_DIRECTORY/cloister-root-key`.
    pub credential: PathBuf,
}

/// What opens the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsealSource {
    /// The daemon starts sealed; `cloister unseal` opens it.
    Passphrase,
    /// The daemon opens it by itself from a file, such as one that systemd decrypted.
    Credential,
}

/// `[workers]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// `cloister-engine`; empty: beside cloisterd, else in /usr/lib/cloister.
    pub engine: PathBuf,
    /// `cloister-sandbox`; the same.
    pub sandbox: PathBuf,
    /// Threads of a computing engine; 0 for all cores.
    pub threads: u32,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Seconds between two signs of life.
    pub ping_interval_s: u64,
    /// Seconds without one after which a worker is replaced.
    pub ping_timeout_s: u64,
}

/// `[policy]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySettings {
    /// The folder of the policies.
    pub dir: PathBuf,
    /// Files of it in force, without `.cedar`.
    pub regimes: Vec<String>,
}

/// `[plugins]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSettings {
    /// Records handed to a sandbox at a time.
    pub batch_records: u32,
    /// What one plugin may use.
    pub limits: Limits,
}

/// `[serving]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServingSettings {
    /// Answers computed at one time.
    pub max_concurrent: u32,
    /// Requests that may wait; further ones are answered with 429.
    pub queue: u32,
    /// Longest answer, in tokens, of a request that names none.
    pub default_max_tokens: u32,
    /// Longest answer, in tokens, that a request may name.
    pub most_max_tokens: u32,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// How much is said.
    pub level: LogLevel,
}

/// How much is said; [`log::LevelFilter`] by its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/cloister".into(),
            allow_root: false,
            shutdown_timeout_s: 60,
            door: DoorSettings::default(),
            unseal: UnsealSettings::default(),
            workers: WorkerSettings::default(),
            policy: PolicySettings::default(),
            plugins: PluginSettings::default(),
            serving: ServingSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for DoorSettings {
    fn default() -> Self {
        Self {
            socket: "/run/cloister/cloister.sock".into(),
            socket_mode: 0o660,
            socket_group: String::new(),
            allowed_groups: Vec::new(),
            handshake_timeout_s: 5,
            header_timeout_s: 30,
            max_connections: 128,
            max_request_bytes: 4 << 20,
            max_upload_bytes: 64 << 30,
        }
    }
}

impl Default for UnsealSettings {
    fn default() -> Self {
        Self { source: UnsealSource::Passphrase, credential: PathBuf::new() }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            engine: PathBuf::new(),
            sandbox: PathBuf::new(),
            threads: 0,
            device: "auto".into(),
            ping_interval_s: 5,
            ping_timeout_s: 30,
        }
    }
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self { dir: "/usr/share/cloister/policies".into(), regimes: vec!["baseline".into(), "hipaa".into()] }
    }
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self { batch_records: 64, limits: Limits::default() }
    }
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self { max_concurrent: 4, queue: 32, default_max_tokens: 1024, most_max_tokens: 8192 }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: LogLevel::Info }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or may not be read.
    #[error("cannot read the configuration `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type; toml's message names line and key.
    #[error("the configuration `{path}` does not parse: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// toml's words.
        message: String,
    },
    /// A value that cannot work.
    #[error("`{key}` in the configuration {why}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// What is wrong and what would do.
        why: String,
    },
}

impl ConfigError {
    fn value(key: &'static str, why: impl Into<String>) -> Self {
        Self::Value { key, why: why.into() }
    }
}

impl Settings {
    /// Reads a file. Without a name, [`DEFAULT_FILE`] where it exists and the defaults where not;
    /// a file that was named must exist.
    ///
    /// # Errors
    /// `Read`, `Parse`, `Value`.
    pub fn read(named: Option<&Path>) -> Result<(Self, Option<PathBuf>), ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((Self::parse(&text, path)?, Some(path.to_path_buf()))),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok((Self::default(), None))
            }
            Err(source) => Err(ConfigError::Read { path: path.to_path_buf(), source }),
        }
    }

    /// Parses and checks a file's text; `path` is only named in errors.
    ///
    /// # Errors
    /// `Parse`, `Value`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let settings: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_path_buf(),
            message: error.to_string().trim().to_owned(),
        })?;
        settings.validate()?;
        Ok(settings)
    }

    /// Refuses what cannot work, before anything is opened.
    ///
    /// # Errors
    /// `Value`, naming the first key that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self { door, workers, plugins, serving, .. } = self;
        let limits = &plugins.limits;
        let rules: [(&'static str, bool, &str); 17] = [
            ("state_dir", self.state_dir.is_absolute(), "must be an absolute path"),
            ("shutdown_timeout_s", within(self.shutdown_timeout_s, 1, 3600), "must lie between 1 and 3600"),
            ("door.socket", door.socket.is_absolute(), "must be an absolute path"),
            (
                "door.socket",
                // sun_path has 108 bytes; the name under which the socket is made takes 16 beside the folder's.
                door.socket.as_os_str().len() < 92,
                "is too long for a Unix socket; at most 91 bytes",
            ),
            (
                "door.socket_mode",
                door.socket_mode & !0o777 == 0 && door.socket_mode & 0o600 == 0o600,
                "must be permissions with reading and writing for the owner, such as 0o660",
            ),
            ("door.handshake_timeout_s", within(door.handshake_timeout_s, 1, 60), "must lie between 1 and 60"),
            ("door.header_timeout_s", within(door.header_timeout_s, 1, 600), "must lie between 1 and 600"),
            ("door.max_connections", within(door.max_connections, 1, 65_536), "must lie between 1 and 65536"),
            (
                "door.max_request_bytes",
                within(door.max_request_bytes, 4096, 1 << 30),
                "must lie between 4096 and 1073741824",
            ),
            ("door.max_upload_bytes", door.max_upload_bytes >= 4096, "must be at least 4096"),
            ("workers.device", valid_device(&workers.device), "must be \"auto\", \"cpu\" or \"cuda:N\""),
            ("workers.ping_interval_s", within(workers.ping_interval_s, 1, 600), "must lie between 1 and 600"),
            (
                "workers.ping_timeout_s",
                workers.ping_timeout_s > workers.ping_interval_s,
                "must be above `workers.ping_interval_s`",
            ),
            ("plugins.batch_records", within(plugins.batch_records, 1, 65_536), "must lie between 1 and 65536"),
            (
                "plugins.limits",
                limits.fuel_per_record > 0
                    && limits.deadline_ms > 0
                    && limits.memory_bytes >= 1 << 20
                    && limits.output_bytes >= 1024,
                "must leave a plugin some fuel and time, 1 MiB of memory and 1 KiB of output",
            ),
            ("serving.max_concurrent", within(serving.max_concurrent, 1, 1024), "must lie between 1 and 1024"),
            (
                "serving.default_max_tokens",
                within(serving.default_max_tokens, 1, serving.most_max_tokens),
                "must lie between 1 and `serving.most_max_tokens`",
            ),
        ];
        if let Some((key, _, why)) = rules.into_iter().find(|(_, holds, _)| !holds) {
            return Err(ConfigError::value(key, why));
        }
        self.validate_regimes()
    }

    fn validate_regimes(&self) -> Result<(), ConfigError> {
        let key = "policy.regimes";
        let regimes = &self.policy.regimes;
        if regimes.is_empty() {
            return Err(ConfigError::value(key, "is empty; without a policy nothing is allowed: try [\"baseline\"]"));
        }
        if let Some(bad) = regimes.iter().find(|name| cloister_wire::recipe::valid_name(name).is_err()) {
            return Err(ConfigError::value(key, format!("holds `{bad}`, which is no file's name without its ending")));
        }
        if regimes.iter().collect::<BTreeSet<_>>().len() < regimes.len() {
            return Err(ConfigError::value(key, "names a regime twice"));
        }
        Ok(())
    }
}

fn within<N: PartialOrd>(value: N, least: N, most: N) -> bool {
    (least..=most).contains(&value)
}

fn valid_device(device: &str) -> bool {
    let digits = |n: &str| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    matches!(device, "auto" | "cpu") || device.strip_prefix("cuda:").is_some_and(digits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, ConfigError> {
        Settings::parse(text, Path::new("cloister.toml"))
    }

    #[test]
    fn the_packaged_file_shows_every_key_with_its_default() {
        let text = include_str!("../packaging/etc/cloister.toml");
        assert_eq!(parse(text).unwrap(), Settings::default());
        let shown: toml::Table = toml::from_str(text).unwrap();
        let expected = toml::Table::try_from(Settings::default()).unwrap();
        assert_eq!(shown, expected, "a key is missing from packaging/etc/cloister.toml");
    }

    #[test]
    fn every_key_of_the_packaged_file_is_explained() {
        let lines: Vec<_> = include_str!("../packaging/etc/cloister.toml").lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, l)| l.contains(" = ") && !l.starts_with('#')) {
            assert!(at > 0 && lines[at - 1].starts_with('#'), "`{line}` has no comment above it");
        }
    }

    #[test]
    fn the_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = parse("allow_root = true\n[door]\nsokcet = \"/x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("sokcet"), "{error}");
    }

    #[test]
    fn a_value_that_cannot_work_is_refused_by_key() {
        for (text, key) in [
            ("state_dir = \"here\"", "state_dir"),
            ("[door]\nsocket_mode = 0o7777", "door.socket_mode"),
            ("[door]\nmax_connections = 0", "door.max_connections"),
            ("[workers]\ndevice = \"tpu\"", "workers.device"),
            ("[workers]\nping_interval_s = 40", "workers.ping_timeout_s"),
            ("[policy]\nregimes = []", "policy.regimes"),
            ("[policy]\nregimes = [\"../x\"]", "policy.regimes"),
            ("[serving]\ndefault_max_tokens = 9000", "serving.default_max_tokens"),
            ("[plugins.limits]\nmemory_bytes = 10", "plugins.limits"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(&error, ConfigError::Value { key: k, .. } if *k == key), "{text}: {error}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = Settings::read(Some(Path::new("/nonexistent/cloister.toml"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/cloister.toml"), "{error}");
    }
}
