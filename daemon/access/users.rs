//! The registry `access/users.json`: which certificate is whose. Not secret, and readable while
//! the vault is sealed: someone must be let in to unseal it.
//!
//! What always holds: entries are never removed, only revoked, so that a name in the audit log can
//! always be traced; at least one administrator is left; what is in memory is what is on disk (a
//! change is written first, and forgotten if the writing fails).

use cloister_wire::admin;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The role of which one holder must always be left.
pub const ADMINISTRATOR: &str = "administrator";

const LONGEST_NAME: usize = 64;
const VERSION: u32 = 1;

/// Everyone who was ever let in, by the fingerprint of their certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    version: u32,
    users: BTreeMap<String, Entry>,
}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The person. Two certificates with one name are one person.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<String>,
    /// The only uid from which the certificate is taken, if bound.
    #[serde(default)]
    pub uid: Option<u32>,
    /// When it was made (RFC 3339).
    pub created: String,
    /// When it was revoked (RFC 3339), if it was.
    #[serde(default)]
    pub revoked: Option<String>,
}

/// A person to let in.
#[derive(Debug, Clone)]
pub struct NewUser<'a> {
    /// Their name.
    pub name: &'a str,
    /// What they may do.
    pub roles: &'a BTreeSet<String>,
    /// The only uid from which the certificate is taken, if bound.
    pub uid: Option<u32>,
    /// The certificate's fingerprint.
    pub fingerprint: &'a str,
    /// The time, RFC 3339.
    pub now: &'a str,
}

/// The registry was not read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The file is not a registry.
    #[error("`access/users.json` is damaged: {0}; restore it from a backup")]
    Damaged(String),
    /// A name that could be mistaken on a command line or in a log.
    #[error("`{0}` is not a name: use 1 to 64 of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit")]
    BadName(String),
    /// A role that the policy schema does not know.
    #[error("there is no role `{role}`; use one of {known}")]
    UnknownRole {
        /// What was asked for.
        role: String,
        /// What there is.
        known: String,
    },
    /// No role at all.
    #[error("`{0}` needs at least one role")]
    NoRole(String),
    /// Someone is let in under that name already.
    #[error("there is a user `{0}` already; revoke them first to give them a new certificate")]
    Exists(String),
    /// Nobody of that name can come in.
    #[error("there is no user `{0}`, or they are revoked already; see `cloister user list`")]
    Unknown(String),
    /// Nobody would be left to let people in.
    #[error("`{0}` is the last administrator; add another first")]
    LastAdministrator(String),
    /// The change could not be written, and was not made.
    #[error("cannot write the registry: {0}")]
    Write(String),
}

impl Default for Registry {
    fn default() -> Self {
        Self { version: VERSION, users: BTreeMap::new() }
    }
}

impl Registry {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// [`UserError::Damaged`], with the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, UserError> {
        let registry: Self =
            serde_json::from_slice(bytes).map_err(|error| UserError::Damaged(error.to_string()))?;
        match registry.version {
            VERSION => Ok(registry),
            other => Err(UserError::Damaged(format!("version {other} is not known here"))),
        }
    }

    /// Lets a person in. `known_roles` are those of the policy schema; `write` stores the file's
    /// new bytes, and the change is made only if it succeeds.
    ///
    /// # Errors
    /// [`UserError`]; the registry is then as it was.
    pub fn add<E: std::fmt::Display>(
        &mut self,
        user: &NewUser<'_>,
        known_roles: &[String],
        write: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<(), UserError> {
        check_name(user.name)?;
        check_roles(user, known_roles)?;
        if self.active(user.name).next().is_some() || self.users.contains_key(user.fingerprint) {
            return Err(UserError::Exists(user.name.to_owned()));
        }
        let entry = Entry {
            name: user.name.to_owned(),
            roles: user.roles.clone(),
            uid: user.uid,
            created: user.now.to_owned(),
            revoked: None,
        };
        let mut next = self.clone();
        next.users.insert(user.fingerprint.to_owned(), entry);
        self.replace(next, write)
    }

    /// Revokes every certificate of a person; returns their fingerprints.
    ///
    /// # Errors
    /// [`UserError`]; the registry is then as it was.
    pub fn revoke<E: std::fmt::Display>(
        &mut self,
        name: &str,
        now: &str,
        write: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<Vec<String>, UserError> {
        let revoked: Vec<String> = self.active(name).map(|(fingerprint, _)| fingerprint.clone()).collect();
        if revoked.is_empty() {
            return Err(UserError::Unknown(name.to_owned()));
        }
        if self.is_last_administrator(name) {
            return Err(UserError::LastAdministrator(name.to_owned()));
        }
        let mut next = self.clone();
        for entry in next.users.values_mut() {
            if entry.name == name && entry.revoked.is_none() {
                entry.revoked = Some(now.to_owned());
            }
        }
        self.replace(next, write)?;
        Ok(revoked)
    }

    /// The entry of a certificate, revoked or not.
    pub fn find(&self, fingerprint: &str) -> Option<&Entry> {
        self.users.get(fingerprint)
    }

    /// The roles a person who can come in holds; none if nobody of that name can.
    pub fn roles_of(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.active(name).next().map(|(_, entry)| &entry.roles)
    }

    /// Everyone, revoked ones too, by name.
    pub fn list(&self) -> Vec<admin::User> {
        let user = |(fingerprint, entry): (&String, &Entry)| admin::User {
            name: entry.name.clone(),
            roles: entry.roles.clone(),
            uid: entry.uid,
            fingerprint: fingerprint.clone(),
            revoked: entry.revoked.is_some(),
        };
        let mut users: Vec<admin::User> = self.users.iter().map(user).collect();
        users.sort_by(|a, b| (&a.name, a.revoked, &a.fingerprint).cmp(&(&b.name, b.revoked, &b.fingerprint)));
        users
    }

    fn active<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        self.users.iter().filter(move |(_, entry)| entry.name == name && entry.revoked.is_none())
    }

    fn is_last_administrator(&self, name: &str) -> bool {
        let mut administrators = self
            .users
            .values()
            .filter(|entry| entry.revoked.is_none() && entry.roles.contains(ADMINISTRATOR))
            .peekable();
        administrators.peek().is_some() && administrators.all(|entry| entry.name == name)
    }

    fn replace<E: std::fmt::Display>(
        &mut self,
        next: Self,
        write: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<(), UserError> {
        let bytes = serde_json::to_vec_pretty(&next).map_err(|error| UserError::Write(error.to_string()))?;
        write(&bytes).map_err(|error| UserError::Write(error.to_string()))?;
        *self = next;
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), UserError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.len() <= LONGEST_NAME
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
    if fits { Ok(()) } else { Err(UserError::BadName(name.chars().take(LONGEST_NAME).collect())) }
}

fn check_roles(user: &NewUser<'_>, known: &[String]) -> Result<(), UserError> {
    if user.roles.is_empty() {
        return Err(UserError::NoRole(user.name.to_owned()));
    }
    match user.roles.iter().find(|role| !known.contains(role)) {
        None => Ok(()),
        Some(role) => Err(UserError::UnknownRole { role: role.clone(), known: known.join(", ") }),
    }
}
