//! What the daemon does to itself before it reads a key: no memory that another process may read, no
//! core dump, no new privileges, nothing readable by others, one daemon a state folder.
//!
//! Why here and not in the unit file alone: the demo, a laptop and a test run without systemd, and the
//! keys are as secret there.
//!
//! What always holds: [`process`] runs before the first thread starts, so every thread and child has
//! its limits; whoever holds a [`StateDir`] is the only daemon on that folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// It is root.
    #[error("will not run as root: start it as a user of its own (`User=` of the unit), or set `allow_root = true`")]
    Root,
    /// A limit could not be set.
    #[error("cannot {what}: {source}")]
    Limit {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The state folder is not there.
    #[error("there is no state folder `{}`: make it with `cloisterd init`", .0.display())]
    NoStateDir(PathBuf),
    /// The state folder is somebody else's, or open to others.
    #[error("the state folder `{}` {why}", path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what would do.
        why: String,
    },
    /// Another daemon has the folder.
    #[error("another cloisterd (process {holder}) runs on `{}`: stop it first", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The other's process id, as far as it is known.
        holder: String,
    },
    /// Something else went wrong with a file.
    #[error("cannot {what} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Limits this process; to be called once, before any thread starts.
///
/// # Errors
/// `Root` unless allowed, `Limit`.
pub fn process(allow_root: bool) -> Result<(), HardenError> {
    if rustix::process::geteuid().is_root() && !allow_root {
        return Err(HardenError::Root);
    }
    let limit = |what| move |errno: Errno| HardenError::Limit { what, source: errno.into() };
    // Not dumpable: no core, no ptrace and no /proc/PID/mem for processes of the same user.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(limit("keep its memory from other processes"))?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(limit("forbid core dumps"))?;
    rustix::thread::set_no_new_privs(true).map_err(limit("give up new privileges"))?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    Ok(())
}

/// The state folder, locked: it is ours, 0700, and no other daemon's. Dropping it lets the lock go.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked as long as it is open; the kernel lets go when the process dies, however it dies.
    _lock: File,
}

impl StateDir {
    /// Checks and locks an existing folder.
    ///
    /// # Errors
    /// `NoStateDir`, `StateDir`, `Locked`, `File`.
    pub fn lock(path: &Path) -> Result<Self, HardenError> {
        Self::lock_owned_by(path, &[rustix::process::geteuid().as_raw()])
    }

    /// Makes the folder, 0700, if it is not there; then checks and locks it. It may also belong to
    /// `owner` already: root makes it for the service's user.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn create(path: &Path, owner: Option<u32>) -> Result<Self, HardenError> {
        match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(file("make", path, source)),
            _ => {
                let own = rustix::process::geteuid().as_raw();
                Self::lock_owned_by(path, &[own, owner.unwrap_or(own)])
            }
        }
    }

    fn lock_owned_by(path: &Path, owners: &[u32]) -> Result<Self, HardenError> {
        check(path, owners)?;
        let lock = lock(path)?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn check(path: &Path, owners: &[u32]) -> Result<(), HardenError> {
    // Not followed: a link would let whoever owns it exchange the folder below a running daemon.
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(HardenError::NoStateDir(path.to_path_buf()));
        }
        Err(source) => return Err(file("look at", path, source)),
    };
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let why = if !metadata.is_dir() {
        "is no folder".to_owned()
    } else if !owners.contains(&uid) {
        format!("belongs to uid {uid} and not to uid {}, which runs this: chown it", owners[0])
    } else if mode != 0o700 {
        format!("has mode {mode:04o}, and must be closed to others: chmod 0700")
    } else {
        return Ok(());
    };
    Err(HardenError::StateDir { path: path.to_path_buf(), why })
}

fn lock(dir: &Path) -> Result<File, HardenError> {
    let path = dir.join("lock");
    // Never removed: a lock file that is unlinked can be held twice, once by name and once by inode.
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| file("open", &path, source))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(HardenError::Locked { path: dir.to_path_buf(), holder: holder(&mut lock) });
        }
        Err(errno) => return Err(file("lock", &path, errno.into())),
    }
    write_pid(&mut lock).map_err(|source| file("write", &path, source))?;
    Ok(lock)
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.take(32).read_to_string(&mut text);
    let pid = text.trim();
    let known = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if known { pid.to_owned() } else { "unknown".to_owned() }
}

fn file(what: &'static str, path: &Path, source: io::Error) -> HardenError {
    HardenError::File { what, path: path.to_path_buf(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_daemon_is_told_who_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::create(&path, None).unwrap();
        let error = StateDir::lock(&path).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        StateDir::lock(&path).unwrap();
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        drop(StateDir::create(&path, None).unwrap());
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let error = StateDir::lock(&path).unwrap_err().to_string();
        assert!(error.contains("0750") && error.contains("chmod"), "{error}");
    }

    #[test]
    fn a_link_to_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDir::create(&dir.path().join("state"), None).unwrap());
        std::os::unix::fs::symlink(dir.path().join("state"), dir.path().join("link")).unwrap();
        assert!(matches!(StateDir::lock(&dir.path().join("link")), Err(HardenError::StateDir { .. })));
    }

    #[test]
    fn a_missing_folder_says_how_to_make_it() {
        let error = StateDir::lock(Path::new("/nonexistent/cloister")).unwrap_err().to_string();
        assert!(error.contains("cloisterd init"), "{error}");
    }
}
