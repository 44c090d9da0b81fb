//! The few files that the CLI writes for its user, and how it reads small ones.
//!
//! INVARIANT: nothing is ever overwritten, and what may be secret is made with mode 0600 from its first byte.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use cloister_wire::admin::{ApiError, ErrorCode};

use crate::error;

/// Makes a new file that only its owner can read.
pub(crate) fn create(path: &Path) -> Result<File, ApiError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| error::file("write", path, &error))
}

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    let mut file = create(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a file would stand in the way of the next try.
        let _ = fs::remove_file(path);
        error::file("write", path, &error)
    })
}

/// Makes the folder if need be (mode 0700) and refuses if one of the names is taken in it.
///
/// Called before the daemon is asked for what is given out only once.
pub(crate) fn prepare_folder(folder: &Path, names: &[&str]) -> Result<(), ApiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| error::file("make the folder", folder, &error))?;
    for name in names {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(error::file("write", &path, &io::Error::from(io::ErrorKind::AlreadyExists)));
        }
    }
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
        .map_err(|error| error::file("write into", folder, &error.into()))
}

/// Refuses early where an output file stands already; [`create`] refuses again when it writes.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), ApiError> {
    if path.symlink_metadata().is_ok() {
        return Err(error::file("write", path, &io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    Ok(())
}

/// Whether a name from the daemon is that of a file in a folder, and nothing else.
pub(crate) fn plain_name(name: &str) -> Result<&str, ApiError> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(ApiError::new(
            ErrorCode::Failed,
            format!("the daemon gave a file the name `{name}`, which is no plain name"),
        )
        .remedy("nothing was written; report this"));
    }
    Ok(name)
}

/// A small text file.
pub(crate) fn read_text(path: &Path) -> Result<String, ApiError> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            error::invalid(format!("`{}` is not UTF-8 text", path.display())).remedy("save it as UTF-8")
        }
        _ => error::file("read", path, &error),
    })
}

/// A small file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ApiError> {
    fs::read(path).map_err(|error| error::file("read", path, &error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_new(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write_new(&path, b"two").unwrap_err().code, ErrorCode::Conflict);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(prepare_folder(folder.path(), &["key.pem"]).unwrap_err().code, ErrorCode::Conflict);
        assert!(prepare_folder(&folder.path().join("a/b"), &["key.pem"]).is_ok());
    }

    #[test]
    fn a_name_from_the_daemon_cannot_leave_the_folder() {
        for name in ["", "..", "../x", "/etc/passwd", ".ssh", "a/b", "a\0b"] {
            assert!(plain_name(name).is_err(), "{name}");
        }
        assert!(plain_name("adapter_model.safetensors").is_ok());
    }
}
