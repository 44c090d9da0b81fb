//! From a connection to a [`Principal`]: what the TLS layer proved (this certificate's key is at
//! the other end) and what the kernel says (this uid opened the socket) must name one person.

use super::{Registry, fingerprint};
use std::collections::BTreeSet;
use std::io;

/// What the kernel says of the process at the other end (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its user.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Its process, where the kernel knows it.
    pub pid: Option<i32>,
}

/// Someone who is known, for the length of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Their name.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<String>,
    /// The user they come as.
    pub uid: u32,
}

/// Why a connection is not let in. The caller logs it; the peer sees a closed connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The authority signed it, and the registry does not list it.
    #[error("certificate `{0}` is not registered; use one from `cloister user add`")]
    Unknown(String),
    /// It was revoked.
    #[error("`{0}`'s certificate is revoked; an administrator can add them anew")]
    Revoked(String),
    /// Another uid holds the certificate than the one it is bound to.
    #[error("`{name}`'s certificate is bound to uid {bound} and came from uid {peer}")]
    WrongUid {
        /// Whose.
        name: String,
        /// The uid it is bound to.
        bound: u32,
        /// The uid it came from.
        peer: u32,
    },
    /// Not in any of the allowed groups.
    #[error("`{name}` (uid {uid}) is in none of the groups that may use the socket; add them to one")]
    NotInGroup {
        /// Who.
        name: String,
        /// Their uid.
        uid: u32,
    },
}

/// Says who is at the other end. `certificate` is DER, verified by TLS against our authority;
/// `allowed_groups` is empty where any group will do.
///
/// # Errors
/// [`Refusal`], for the log.
pub fn identify(
    registry: &Registry,
    allowed_groups: &[u32],
    peer: PeerCredentials,
    certificate: &[u8],
) -> Result<Principal, Refusal> {
    let fingerprint = fingerprint(certificate);
    let entry = registry.find(&fingerprint).ok_or(Refusal::Unknown(fingerprint))?;
    let name = entry.name.clone();
    if entry.revoked.is_some() {
        return Err(Refusal::Revoked(name));
    }
    if let Some(bound) = entry.uid.filter(|bound| *bound != peer.uid) {
        return Err(Refusal::WrongUid { name, bound, peer: peer.uid });
    }
    if !allowed_groups.is_empty() && !in_a_group(peer, allowed_groups) {
        return Err(Refusal::NotInGroup { name, uid: peer.uid });
    }
    Ok(Principal { name, roles: entry.roles.clone(), uid: peer.uid })
}

/// The primary group comes from the kernel with the socket. Supplementary ones are read from
/// `/proc`, where the number may by now belong to another process: its uid must be the peer's.
fn in_a_group(peer: PeerCredentials, allowed: &[u32]) -> bool {
    let among_supplementary = || {
        let groups = supplementary_groups(peer).unwrap_or_default();
        groups.iter().any(|group| allowed.contains(group))
    };
    allowed.contains(&peer.gid) || among_supplementary()
}

fn supplementary_groups(peer: PeerCredentials) -> io::Result<Vec<u32>> {
    let pid = peer.pid.ok_or(io::ErrorKind::NotFound)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = |field: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    // "Uid: real effective saved filesystem"; the socket shows the effective one.
    match numbers("Uid:").get(1) {
        Some(uid) if *uid == peer.uid => Ok(numbers("Groups:")),
        _ => Ok(Vec::new()),
    }
}
