//! Reads the log's files as streams, so that a log of any size needs little memory.

use super::record::{MOST_BYTES, Record};
use cloister_vault::{ReadFile, Storage, VaultError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub(super) const LOG: &str = "log.jsonl";
pub(super) const HEAD: &str = "head";
pub(super) const CHECKPOINTS: &str = "checkpoints";
pub(super) const PUBLIC_KEY: &str = "public-key";

/// One line, or what stands where a line should.
pub(super) enum Line {
    /// A line without its line feed.
    Whole(Vec<u8>),
    /// The file ends without a line feed after so many bytes.
    Torn(u64),
    /// No record is that long.
    TooLong,
}

/// The lines of a file.
pub(super) struct Lines {
    path: PathBuf,
    input: Option<BufReader<Box<dyn ReadFile>>>,
}

impl Lines {
    /// A file that does not exist has no lines.
    pub(super) fn open(storage: &dyn Storage, path: &Path) -> Result<Self, VaultError> {
        let input = match storage.open(path) {
            Ok(file) => Some(BufReader::with_capacity(1 << 18, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed("open", path, source)),
        };
        Ok(Self { path: path.to_owned(), input })
    }

    pub(super) fn next(&mut self) -> Result<Option<Line>, VaultError> {
        let Some(input) = &mut self.input else { return Ok(None) };
        let mut line = Vec::new();
        let limit = MOST_BYTES as u64 + 1;
        let count = input.by_ref().take(limit).read_until(b'\n', &mut line);
        let count = count.map_err(|source| failed("read", &self.path, source))?;
        Ok(match line.last() {
            None => None,
            Some(b'\n') => {
                line.pop();
                Some(Line::Whole(line))
            }
            Some(_) if count as u64 == limit => Some(Line::TooLong),
            Some(_) => Some(Line::Torn(count as u64)),
        })
    }
}

/// The notes in `checkpoints`, each with the line it starts at.
pub(super) struct Notes {
    lines: Lines,
    line: u64,
}

/// One note's text, or the bytes of an unfinished one at the end of the file.
pub(super) enum NoteText {
    Whole { text: String, line: u64 },
    Torn { line: u64 },
}

impl Notes {
    pub(super) fn open(storage: &dyn Storage, dir: &Path) -> Result<Self, VaultError> {
        Ok(Self { lines: Lines::open(storage, &dir.join(CHECKPOINTS))?, line: 0 })
    }

    pub(super) fn next(&mut self) -> Result<Option<NoteText>, VaultError> {
        let first = self.line + 1;
        let mut text = String::new();
        loop {
            match self.lines.next()? {
                None if text.is_empty() => return Ok(None),
                Some(Line::Whole(bytes)) if text.len() < MOST_BYTES => {
                    self.line += 1;
                    let part = String::from_utf8_lossy(&bytes);
                    text.push_str(&part);
                    text.push('\n');
                    // The signature is a note's last line.
                    if part.starts_with('\u{2014}') {
                        return Ok(Some(NoteText::Whole { text, line: first }));
                    }
                }
                _ => return Ok(Some(NoteText::Torn { line: first })),
            }
        }
    }
}

/// Calls `visit` with every whole record and its line, in order; stops early when it says so.
pub(super) fn for_each_record(
    storage: &dyn Storage,
    dir: &Path,
    mut visit: impl FnMut(Record, &[u8]) -> bool,
) -> Result<(), VaultError> {
    let mut lines = Lines::open(storage, &dir.join(LOG))?;
    while let Some(Line::Whole(line)) = lines.next()? {
        let Some(record) = Record::parse(&line) else { break };
        if !visit(record, &line) {
            break;
        }
    }
    Ok(())
}

pub(super) fn failed(act: &'static str, path: &Path, source: io::Error) -> VaultError {
    VaultError::Storage { act, path: path.to_owned(), source }
}

/// A log that somebody removed, replaced or cut while it was open takes no further record: what was acknowledged is
/// gone, and writing on into an unlinked file would hide that until the next start.
pub(super) fn still_there(storage: &dyn Storage, path: &Path, written: u64) -> Result<(), VaultError> {
    match storage.open(path).and_then(|mut file| file.seek(SeekFrom::End(0))) {
        Ok(length) if length == written => Ok(()),
        Ok(length) => {
            let why = format!("it is {length} bytes long where {written} were written; somebody changed it");
            Err(VaultError::Damaged { path: path.to_owned(), why })
        }
        Err(source) => Err(failed("open", path, source)),
    }
}
