//! The appliance as a whole: its state, policy, audit log, keys and people.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Whether the vault is sealed: nothing confidential can be read until it is opened.
    pub sealed: bool,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Who is asking.
    pub principal: String,
    /// With these roles.
    pub roles: BTreeSet<String>,
    /// How many of each kind exist; empty while sealed.
    pub counts: BTreeMap<String, u64>,
    /// Jobs that are not at rest.
    pub running: Vec<String>,
    /// Names of the deployed adapters.
    pub deployed: Vec<String>,
    /// SHA-256 of the policies in force.
    pub policy_digest: String,
    /// Records in the audit log.
    pub audit_records: u64,
}

/// Opens the vault.
#[derive(Debug, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Unseal {
    /// The passphrase.
    pub passphrase: String,
}

/// One line of `cloister doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do, unless all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All is well.
    Ok,
    /// It works, and could be better.
    Warning,
    /// Something does not work.
    Error,
}

/// The policies in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// SHA-256 over all files.
    pub digest: String,
    /// Every rule.
    pub rules: Vec<RuleInfo>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Its `@id`.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// Its `@reason`.
    pub reason: String,
    /// Its `@remedy`.
    pub remedy: String,
    /// File it stands in.
    pub file: String,
}

/// Asks why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainSpec {
    /// A verb of the policy, such as `Train` or `Serve`.
    pub action: String,
    /// A dataset's, adapter's or model's name; absent for the appliance.
    #[serde(default)]
    pub object: Option<String>,
    /// Another user than the one asking.
    #[serde(default)]
    pub principal: Option<String>,
    /// For training.
    #[serde(default)]
    pub purpose: Option<String>,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The answer.
    pub allowed: bool,
    /// The rules that decided.
    pub rules: Vec<String>,
    /// One line.
    pub reason: String,
    /// What to do; empty when allowed.
    pub remedy: String,
    /// The facts that were used.
    pub facts: BTreeMap<String, String>,
}

/// One policy case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its name.
    pub case: String,
    /// Whether it came out as written.
    pub passed: bool,
    /// Expected and found.
    pub message: String,
}

/// What verifying the audit log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Whether all is as it was written.
    pub verified: bool,
    /// Records read.
    pub records: u64,
    /// Signed checkpoints that matched.
    pub checkpoints: u64,
    /// Hex of the Merkle root.
    pub root: String,
    /// The first bad record and why, otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<String>,
}

/// The keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Version of the key that wraps all others.
    pub version: u32,
    /// Where the root key comes from: `passphrase` or `credential`.
    pub root: String,
    /// Data keys, by id.
    pub keys: Vec<String>,
}

/// A passphrase.
#[derive(Debug, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase {
    /// The passphrase.
    pub passphrase: String,
}

/// A keyring sealed to a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBackup {
    /// Base64.
    pub backup: String,
}

/// Brings a keyring back.
#[derive(Debug, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct KeyRestore {
    /// Base64.
    pub backup: String,
    /// The backup's passphrase.
    pub passphrase: String,
}

/// A person who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name, as in the certificate.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<String>,
    /// The only uid from which the certificate is taken, if bound.
    pub uid: Option<u32>,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// Whether it still opens the door.
    pub revoked: bool,
}

/// A new person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Name.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<String>,
    /// The only uid from which the certificate is taken; absent for the asker's own.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// A person's certificate and key, given out once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// PEM.
    pub certificate: String,
    /// PEM; the daemon keeps no copy.
    pub key: String,
    /// PEM.
    pub ca: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("fingerprint", &self.fingerprint).finish()
    }
}
