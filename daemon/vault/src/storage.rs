//! The one seam to the disk. Whatever Cloister stores of a user passes through [`Storage`], so
//! that a full disk, a failing one and a crash can be put in its place ([`Faulty`]).
//!
//! What always holds for [`Disk`]: folders are 0700 and files 0600 whatever the umask says; a
//! file is only ever created new; no symbolic link is followed in a path's last part; no
//! descriptor is inherited by a worker.
//!
//! [`Faulty`]: crate::Faulty

use crate::error::{At, VaultError};
use crate::hex;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::OFlags;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names of unfinished files start so; [`crate::Vault::sweep`] removes them.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// What the vault and the audit log need of a file system.
pub trait Storage: Debug + Send + Sync {
    /// Makes the folder and its missing parents, durably. No error if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that must not exist yet.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file for appending, and makes it if need be.
    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Replaces `to` by `from` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames durably, then writes zeros over the bytes of the file that was replaced.
    fn supersede(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// What lies in a folder, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Cuts a file to `length` bytes, durably.
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()>;
    /// Writes zeros over a file's bytes where they lie, durably.
    fn erase(&self, path: &Path) -> io::Result<()>;
}

/// A file being written.
pub trait WriteFile: Write + Send + Sync {
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file being read.
pub trait ReadFile: Read + Seek + Send + Sync {}

impl WriteFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl ReadFile for File {}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the folder. A name that is not UTF-8 is not ours and is left out.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Its length in bytes.
    pub length: u64,
}

/// The file system itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_dir(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        // The umask may have taken bits away, never added them; 0700 is what we promise.
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        self.sync_dir(parent_of(path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(options().write(true).create_new(true).open(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(options().append(true).create(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(options().read(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn supersede(&self, from: &Path, to: &Path) -> io::Result<()> {
        let old = open_to_erase(to)?;
        self.rename(from, to)?;
        // Zeros before the new name is durable would, in a crash, be all that is left.
        self.sync_dir(parent_of(to))?;
        old.map_or(Ok(()), |old| write_zeros(&old))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            out.push(Entry { name, is_dir: metadata.is_dir(), length: metadata.len() });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = options().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn erase(&self, path: &Path) -> io::Result<()> {
        write_zeros(&options().write(true).open(path)?)
    }
}

/// A file that is about to be replaced; none if there is no such file.
pub(crate) fn open_to_erase(path: &Path) -> io::Result<Option<File>> {
    match options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

pub(crate) fn write_zeros(file: &File) -> io::Result<()> {
    let zeros = vec![0; file.metadata()?.len() as usize];
    file.write_all_at(&zeros, 0)?;
    file.sync_all()
}

/// Options that every open shares; std adds `O_CLOEXEC`.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

/// The folder that holds `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name in the folder of `path` that nobody else uses.
pub(crate) fn temporary_beside(path: &Path) -> Result<PathBuf, VaultError> {
    let mut noise = [0; 8];
    SystemRandom::new().fill(&mut noise).map_err(|_| VaultError::Random)?;
    Ok(parent_of(path).join(format!("{TEMPORARY_PREFIX}{}", hex::encode(noise))))
}

/// Writes a small file so that a crash leaves the old bytes or the new, never a mixture:
/// temporary file, write, fsync, rename, fsync of the folder.
///
/// # Errors
/// `Storage`; the old file is then still in place unless the very last step failed.
pub fn write_atomic(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    write_then(storage, path, bytes, |temporary| publish(storage, temporary, path))
}

/// As [`write_atomic`], and overwrites the old bytes once the new ones are in place: for wrapped
/// keys, of which no older wrapping should outlive its replacement.
pub(crate) fn write_superseding(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    write_then(storage, path, bytes, |temporary| storage.supersede(temporary, path).at("replace", path))
}

fn write_then(
    storage: &dyn Storage,
    path: &Path,
    bytes: &[u8],
    publish: impl FnOnce(&Path) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let temporary = temporary_beside(path)?;
    let written = write_temporary(storage, &temporary, bytes).and_then(|()| publish(&temporary));
    if written.is_err() {
        let _ = storage.remove(&temporary); // best effort: the sweep at start does it otherwise
    }
    written
}

fn write_temporary(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    let mut file = storage.create_new(path).at("create", path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync().at("sync", path)
}

/// Gives a synced temporary file its name, durably.
pub(crate) fn publish(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), VaultError> {
    storage.rename(from, to).at("rename to", to)?;
    storage.sync_dir(parent_of(to)).at("sync the folder of", to)
}

/// Reads a small file; none if there is no such file.
///
/// # Errors
/// `Storage`, also when the file is longer than `limit` bytes.
pub fn read_small(storage: &dyn Storage, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, VaultError> {
    let file = match storage.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at("open", path)?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(VaultError::damaged(path, format!("it is longer than {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_private_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        Disk.create_dir(&folder).unwrap();
        let file = folder.join("f");
        write_atomic(&Disk, &file, b"one").unwrap();
        write_atomic(&Disk, &file, b"two").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        assert_eq!(read_small(&Disk, &file, 10).unwrap().unwrap(), b"two");
        assert!(read_small(&Disk, &file, 2).is_err());
        assert_eq!(Disk.list(&folder).unwrap().len(), 1, "no temporary file is left");
        std::os::unix::fs::symlink(&file, folder.join("link")).unwrap();
        assert!(Disk.open(&folder.join("link")).is_err());
        assert!(Disk.append(&folder.join("link")).is_err());
        assert!(Disk.create_new(&file).is_err());
    }

    #[test]
    fn a_superseded_file_is_overwritten_where_it_lay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_superseding(&Disk, &path, b"wrapped before").unwrap();
        let mut old = File::open(&path).unwrap();
        write_superseding(&Disk, &path, b"wrapped after").unwrap();
        let mut bytes = Vec::new();
        old.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [0; 14]);
        assert_eq!(fs::read(&path).unwrap(), b"wrapped after");
    }
}
