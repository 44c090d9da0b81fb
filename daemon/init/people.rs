//! Whose the new appliance is: the user that the daemon runs as, and the person who sets it up.
//!
//! Both matter when root runs `cloisterd init`: the state folder must end up the service's, and the
//! identity the person's, who is behind `sudo`. Accounts are looked up in /etc/passwd; one that only a
//! directory service knows is given by `--admin`, `--admin-uid` and `--identity-out`.

use std::path::PathBuf;

/// A line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: PathBuf,
}

/// All local accounts.
pub(super) struct Accounts(Vec<Account>);

impl Accounts {
    pub(super) fn of_this_machine() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    /// `name:password:uid:gid:comment:home:shell`; other lines are skipped.
    fn parse(passwd: &str) -> Self {
        let account = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let &[name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
            Some(Account { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
        };
        Self(passwd.lines().filter_map(account).collect())
    }

    pub(super) fn named(&self, name: &str) -> Option<&Account> {
        self.0.iter().find(|account| account.name == name)
    }

    pub(super) fn with_uid(&self, uid: u32) -> Option<&Account> {
        self.0.iter().find(|account| account.uid == uid)
    }
}

/// The uid of the person who asked: the one behind `sudo`, else our own.
pub(super) fn asking_uid() -> u32 {
    let own = rustix::process::getuid();
    // Anyone can set the variable, but only root gets to use it, and root may say what it likes.
    let behind_sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    behind_sudo.filter(|_| own.is_root()).unwrap_or(own.as_raw())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_uid_and_nonsense_is_skipped() {
        let accounts = Accounts::parse("+::::::\n\nada:x:1000:1001:Ada,,,:/home/ada:/bin/sh\nbroken:x:one\n");
        let ada = accounts.named("ada").unwrap();
        assert_eq!((ada.gid, accounts.with_uid(1000)), (1001, Some(ada)));
        assert_eq!(ada.home, PathBuf::from("/home/ada"));
        assert!(accounts.named("broken").is_none());
    }
}
