//! A disk that fails on demand: the twin of [`Disk`] that tests use from the first day.
//!
//! A crash is modelled at its worst: whatever was not made durable is undone. A file's bytes
//! become durable by its `sync`, its name by `sync_dir` of the folder; until then an undo record
//! is kept. The other extreme, where everything that was written stays, is [`Fault::Kill`].
//!
//! At run time the environment variable `CLOISTER_FAULTS` puts it under the real daemon, so that
//! a test can fill the disk of a running one. Only builds with debug assertions look at it.

use crate::error::VaultError;
use crate::storage::{Disk, Entry, ReadFile, Storage, WriteFile, open_to_erase, parent_of, write_zeros};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk reports an error (EIO), this once.
    Error,
    /// The disk is full (ENOSPC) from here on; a write in flight is half done.
    Full,
    /// A write takes half of its bytes and says so, this once.
    ShortWrite,
    /// Power is lost: nothing that was not synced survives, and every later operation fails.
    Crash,
    /// The process dies: a write in flight is half done, all before it stays, and every later
    /// operation fails.
    Kill,
    /// The process really dies (SIGABRT). For the daemon under `CLOISTER_FAULTS`.
    Abort,
}

/// A [`Disk`] with a [`Fault`] in it. Clones share the fault and the count.
#[derive(Debug, Clone)]
pub struct Faulty {
    disk: Disk,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The operation that fails, counted from 1, and how.
    plan: Option<(u64, Fault)>,
    count: u64,
    dead: bool,
    full: bool,
    /// Bytes until the disk is full; removing a file gives its bytes back.
    room: Option<u64>,
    undo: Vec<Undo>,
}

/// How to take back what is not durable yet.
#[derive(Debug)]
enum Undo {
    /// A file or folder was made in `dir`.
    Created {
        dir: PathBuf,
        path: PathBuf,
    },
    /// A file was appended to; the descriptor follows it through renames.
    Written {
        id: u64,
        file: File,
        length: u64,
    },
    Renamed {
        dir: PathBuf,
        from: PathBuf,
        to: PathBuf,
        replaced: Option<Vec<u8>>,
    },
    Removed {
        dir: PathBuf,
        path: PathBuf,
        bytes: Vec<u8>,
    },
}

impl Faulty {
    /// Fails the `operation`th operation from now, counted from 1.
    pub fn at(operation: u64, fault: Fault) -> Self {
        Self::with(State { plan: Some((operation, fault)), ..State::default() })
    }

    /// A disk with room for `bytes` more bytes.
    pub fn with_room(bytes: u64) -> Self {
        Self::with(State { room: Some(bytes), ..State::default() })
    }

    /// Never fails; counts operations.
    pub fn counting() -> Self {
        Self::with(State::default())
    }

    /// Operations so far.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    fn with(state: State) -> Self {
        Self { disk: Disk, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation; an error is what the caller sees, a fault is the caller's to apply.
    fn step(&self, needs_room: bool) -> io::Result<Option<Fault>> {
        let mut state = self.state();
        if state.dead {
            return Err(gone());
        }
        state.count += 1;
        let fault = state.plan.filter(|(at, _)| *at == state.count).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Error) => return Err(io::Error::from_raw_os_error(5)), // EIO
            Some(Fault::Crash) => {
                state.crash();
                return Err(gone());
            }
            Some(Fault::Abort) => std::process::abort(),
            Some(Fault::Kill) => state.dead = true,
            Some(Fault::Full) => state.full = true,
            Some(Fault::ShortWrite) | None => {
                if needs_room && (state.full || state.room == Some(0)) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        Ok(fault)
    }

    /// As [`step`](Self::step) for operations that cannot be half done.
    fn whole(&self, needs_room: bool) -> io::Result<()> {
        match self.step(needs_room)? {
            Some(Fault::Kill) => Err(gone()),
            Some(Fault::Full) if needs_room => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn note(&self, undo: Undo) {
        let mut state = self.state();
        if matches!(state.plan, Some((_, Fault::Crash))) {
            state.undo.push(undo);
        }
    }

    fn give_back(&self, bytes: u64) {
        if let Some(room) = &mut self.state().room {
            *room += bytes;
        }
    }

    fn file(&self, path: &Path, inner: Box<dyn WriteFile>) -> io::Result<Box<dyn WriteFile>> {
        let real = OpenOptions::new().write(true).open(path)?;
        Ok(Box::new(FaultyFile { inner, real, owner: self.clone() }))
    }
}

impl Storage for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.whole(true)?;
        self.disk.create_dir(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.whole(true)?;
        let inner = self.disk.create_new(path)?;
        self.note(Undo::Created { dir: parent_of(path).into(), path: path.into() });
        self.file(path, inner)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.whole(false)?;
        let existed = path.exists();
        let inner = self.disk.append(path)?;
        if !existed {
            self.note(Undo::Created { dir: parent_of(path).into(), path: path.into() });
        }
        self.file(path, inner)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.whole(false)?;
        self.disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole(false)?;
        let replaced = fs::read(to).ok();
        self.disk.rename(from, to)?;
        self.give_back(replaced.as_ref().map_or(0, |bytes| bytes.len() as u64));
        let (dir, from, to) = (parent_of(to).into(), from.into(), to.into());
        self.note(Undo::Renamed { dir, from, to, replaced });
        Ok(())
    }

    fn supersede(&self, from: &Path, to: &Path) -> io::Result<()> {
        let old = open_to_erase(to)?;
        self.rename(from, to)?;
        self.sync_dir(parent_of(to))?;
        self.whole(false)?;
        old.map_or(Ok(()), |old| write_zeros(&old))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.whole(false)?;
        self.disk.sync_dir(path)?;
        self.state().undo.retain(|undo| undo.dir() != Some(path));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.whole(false)?;
        self.disk.list(path)
    }

    // Only folders of public weights are removed; a crash may leave or take them, both are swept.
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.whole(false)?;
        self.disk.remove_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole(false)?;
        let bytes = fs::read(path)?;
        self.disk.remove(path)?;
        self.give_back(bytes.len() as u64);
        self.note(Undo::Removed { dir: parent_of(path).into(), path: path.into(), bytes });
        Ok(())
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.whole(false)?;
        let before = fs::metadata(path)?.len();
        self.disk.truncate(path, length)?;
        self.give_back(before.saturating_sub(length));
        // Durable at once, so an older undo record must not shorten or lengthen the file again.
        let id = identity(&File::open(path)?)?;
        self.state().undo.retain(|undo| undo.file() != Some(id));
        Ok(())
    }

    fn erase(&self, path: &Path) -> io::Result<()> {
        if self.step(false)? == Some(Fault::Kill) {
            let bytes = fs::read(path)?;
            let half = bytes.len() / 2;
            fs::write(path, [&vec![0; half][..], &bytes[half..]].concat())?;
            return Err(gone());
        }
        self.disk.erase(path)
    }
}

struct FaultyFile {
    inner: Box<dyn WriteFile>,
    /// The same file, for its length and for undoing.
    real: File,
    owner: Faulty,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = self.owner.step(true)?;
        let half = bytes.len().div_ceil(2);
        let mut count = if fault.is_some() { half } else { bytes.len() };
        let room = self.owner.state().room;
        count = room.map_or(count, |room| count.min(usize::try_from(room).unwrap_or(count)));
        let (id, length) = (identity(&self.real)?, self.real.metadata()?.len());
        self.owner.note(Undo::Written { id, file: self.real.try_clone()?, length });
        self.inner.write_all(&bytes[..count])?;
        if let Some(room) = &mut self.owner.state().room {
            *room -= count as u64;
        }
        if fault == Some(Fault::Kill) { Err(gone()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl WriteFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.owner.whole(false)?;
        self.inner.sync()?;
        let id = identity(&self.real)?;
        self.owner.state().undo.retain(|undo| undo.file() != Some(id));
        Ok(())
    }
}

impl State {
    /// Takes back everything that is not durable, newest first.
    fn crash(&mut self) {
        self.dead = true;
        while let Some(undo) = self.undo.pop() {
            // A step may be moot (its file is gone by an older undo): that is not an error.
            let _ = match undo {
                Undo::Created { path, .. } => fs::remove_file(path),
                Undo::Written { file, length, .. } => file.set_len(length),
                Undo::Removed { path, bytes, .. } => fs::write(path, bytes),
                Undo::Renamed { from, to, replaced, .. } => {
                    fs::rename(&to, from).and_then(|()| replaced.map_or(Ok(()), |bytes| fs::write(to, bytes)))
                }
            };
        }
    }
}

impl Undo {
    /// The folder whose sync makes this durable.
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Created { dir, .. } | Self::Renamed { dir, .. } | Self::Removed { dir, .. } => Some(dir),
            Self::Written { .. } => None,
        }
    }

    /// The file whose sync makes this durable.
    fn file(&self) -> Option<u64> {
        match self {
            Self::Written { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// The inode number.
fn identity(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.ino())
}

fn gone() -> io::Error {
    io::Error::other("the disk is gone (injected)")
}

/// The disk, or, in a build with debug assertions and with `CLOISTER_FAULTS` set, a faulty one:
///
/// - `enospc-after=BYTES`: the disk is full once so many bytes were written;
/// - `eio-at=N`: the Nth operation fails;
/// - `abort-at=N`: the process dies at the Nth operation.
///
/// A release build ignores the variable: whoever sets a daemon's environment must not be able to
/// break its disk.
///
/// # Errors
/// `Faults` when the variable is not understood.
pub fn storage_from_environment() -> Result<Arc<dyn Storage>, VaultError> {
    let wish = if cfg!(debug_assertions) { std::env::var("CLOISTER_FAULTS").ok() } else { None };
    match wish {
        None => Ok(Arc::new(Disk)),
        Some(wish) => Ok(Arc::new(parse(&wish).ok_or(VaultError::Faults(wish))?)),
    }
}

fn parse(wish: &str) -> Option<Faulty> {
    let (what, number) = wish.split_once('=')?;
    let number = number.parse().ok()?;
    match what {
        "enospc-after" => Some(Faulty::with_room(number)),
        "eio-at" => Some(Faulty::at(number, Fault::Error)),
        "abort-at" => Some(Faulty::at(number, Fault::Abort)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::storage::{read_small, write_atomic};

    #[test]
    fn a_crash_drops_what_was_not_synced() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&b, b"old").unwrap();
        // create, write, sync, rename, then the crash instead of sync_dir
        let faulty = Faulty::at(5, Fault::Crash);
        let mut file = faulty.create_new(&a).unwrap();
        file.write_all(b"new").unwrap();
        file.sync().unwrap();
        faulty.rename(&a, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"new");
        assert!(faulty.sync_dir(dir.path()).is_err());
        assert_eq!(fs::read(&b).unwrap(), b"old");
        assert!(!a.exists());
        assert!(faulty.open(&b).is_err(), "nothing works after a crash");
    }

    #[test]
    fn an_atomic_write_is_old_or_new_at_every_fault() {
        for fault in [Fault::Error, Fault::Full, Fault::ShortWrite, Fault::Crash, Fault::Kill] {
            for at in 1..=6 {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("f");
                fs::write(&path, b"old").unwrap();
                let done = write_atomic(&Faulty::at(at, fault), &path, b"newer").is_ok();
                let found = read_small(&Disk, &path, 10).unwrap().unwrap();
                assert!(found == b"newer" || (!done && found == b"old"), "{fault:?} at {at}");
            }
        }
    }

    #[test]
    fn a_full_disk_has_room_again_after_a_removal() {
        let dir = tempfile::tempdir().unwrap();
        let faulty = Faulty::with_room(10);
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write_atomic(&faulty, &a, &[0; 8]).unwrap();
        assert!(write_atomic(&faulty, &b, &[0; 8]).unwrap_err().is_no_room());
        faulty.remove(&a).unwrap();
        write_atomic(&faulty, &b, &[0; 8]).unwrap();
    }

    #[test]
    fn the_environment_is_understood_or_refused() {
        assert!(parse("enospc-after=4096").is_some());
        assert!(parse("eio-at=x").is_none() && parse("else=1").is_none());
    }
}
