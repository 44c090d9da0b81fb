//! The Unix socket: taken over from systemd, or made.
//!
//! What always holds: a socket of ours appears under its name in one step and with its permissions, a
//! living daemon's socket is never taken away, a dead one's is replaced, and anything else that lies
//! there is left alone.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use rustix::fs::Gid;
use tokio::net::UnixListener;

use crate::config;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something answers there.
    #[error("another process serves the socket `{}`: stop it, or set `door.socket`", .0.display())]
    InUse(PathBuf),
    /// There is something else.
    #[error("`{}` is no socket: move it away, or set `door.socket`", .0.display())]
    NotASocket(PathBuf),
    /// systemd passed something else.
    #[error("the service manager passed no stream socket: check `ListenStream=` of cloister.socket: {0}")]
    Passed(io::Error),
    /// Anything else.
    #[error("cannot {what} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The socket's name in the file system; dropping it removes the name, unless it is another's by then.
#[derive(Debug)]
pub struct SocketFile(Option<Made>);

#[derive(Debug)]
struct Made {
    path: PathBuf,
    inode: (u64, u64),
}

/// Takes the socket that systemd passed (`LISTEN_FDS`), else makes one. To be called in a runtime.
///
/// # Errors
/// See [`SocketError`].
pub fn open(config: &config::Door) -> Result<(UnixListener, SocketFile), SocketError> {
    let passed = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(SocketError::Passed)?;
    let (listener, file) = match passed {
        Some(listener) => (listener, SocketFile(None)),
        None => make(config)?,
    };
    let failed = |source| file_error("listen on", &config.socket, source);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((UnixListener::from_std(listener).map_err(failed)?, file))
}

fn make(config: &config::Door) -> Result<(StdListener, SocketFile), SocketError> {
    let path = &config.socket;
    let dir = path.parent().unwrap_or(Path::new("/"));
    make_dir(dir, config)?;
    refuse_living(path)?;
    // Under another name first: it gets its permissions before anyone can knock.
    let temporary = dir.join(format!(".door.{}", std::process::id()));
    match std::fs::remove_file(&temporary) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(file_error("remove", &temporary, source));
        }
        _ => {}
    }
    let listener = StdListener::bind(&temporary).map_err(|source| file_error("make", &temporary, source))?;
    let made = permit(&temporary, config.socket_mode, config)
        .and_then(|()| std::fs::rename(&temporary, path).map_err(|source| file_error("make", path, source)))
        .and_then(|()| std::fs::symlink_metadata(path).map_err(|source| file_error("look at", path, source)));
    match made {
        Ok(metadata) => {
            let made = Made { path: path.clone(), inode: (metadata.dev(), metadata.ino()) };
            Ok((listener, SocketFile(Some(made))))
        }
        Err(error) => {
            let _ = std::fs::remove_file(&temporary); // the first error is the one to tell
            Err(error)
        }
    }
}

/// Makes the socket's folder where it is missing: enterable for whom the socket is open to.
fn make_dir(dir: &Path, config: &config::Door) -> Result<(), SocketError> {
    if dir.is_dir() {
        return Ok(());
    }
    let make = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make.map_err(|source| file_error("make", dir, source))?;
    let open_to = |who: u32| if config.socket_mode & who == 0 { 0 } else { who & 0o055 };
    permit(dir, 0o700 | open_to(0o070) | open_to(0o007), config)
}

fn permit(path: &Path, mode: u32, config: &config::Door) -> Result<(), SocketError> {
    if let Some(gid) = config.socket_gid {
        rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))
            .map_err(|errno| file_error("give to the group of `door.socket_group`", path, errno.into()))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|source| file_error("set the permissions of", path, source))
}

fn refuse_living(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(file_error("look at", path, source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_path_buf()));
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        // Nobody listens: left by a daemon that died.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(SocketError::InUse(path.to_path_buf())),
        // A full backlog, say: it lives, as far as one can tell.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.to_path_buf())),
        Err(source) => Err(file_error("try", path, source)),
    }
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::File { what, path: path.to_path_buf(), source }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(made) = &self.0 else { return };
        let still = std::fs::symlink_metadata(&made.path);
        if still.is_ok_and(|found| (found.dev(), found.ino()) == made.inode)
            && let Err(error) = std::fs::remove_file(&made.path)
        {
            log::warn!(path:% = made.path.display(), error:% = error; "cannot remove the socket");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> config::Door {
        let settings = config::Settings {
            door: config::DoorSettings { socket: dir.join("run/door.sock"), ..Default::default() },
            ..Default::default()
        };
        config::Config::resolve(settings, None, &config::Surroundings::of_this_process()).unwrap().door
    }

    #[tokio::test]
    async fn the_socket_and_its_folder_have_their_permissions_and_go_with_the_door() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let (_listener, file) = open(&config).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&config.socket), mode(&dir.path().join("run"))), (0o660, 0o750));
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_living_socket_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let (listener, file) = open(&config).unwrap();
        assert!(matches!(open(&config), Err(SocketError::InUse(_))));
        std::mem::forget(file); // as kill -9 would
        drop(listener);
        let (_listener, _file) = open(&config).unwrap();
    }

    #[tokio::test]
    async fn a_file_at_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::write(&config.socket, "precious").unwrap();
        assert!(matches!(open(&config), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&config.socket).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successor_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let (listener, first) = open(&config).unwrap();
        drop(listener);
        let (_listener, _second) = open(&config).unwrap();
        drop(first);
        assert!(config.socket.exists());
    }
}
