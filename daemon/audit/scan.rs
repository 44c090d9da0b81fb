//! One pass over the log that checks everything: what the verifier and the daemon's start share.
//!
//! What always holds: it needs memory for one line and one note, and it stops at the first thing
//! that is wrong.

use super::merkle::{self, GrowingTree};
use super::note::{Head, Note, VerifyingKey};
use super::reader::{CHECKPOINTS, HEAD, LOG, Line, Lines, NoteText, Notes};
use super::record::{Hash, NO_PREDECESSOR, Phase, Record, hash};
use super::verify::FirstBad;
use cloister_vault::{Storage, VaultError, hex, read_small};
use std::collections::BTreeMap;
use std::path::Path;

/// What a sound log turned out to hold. All of it is about the records that the head signed.
pub(super) struct Scan {
    pub(super) head: Note,
    pub(super) tree: GrowingTree,
    /// SHA-256 of the newest line.
    pub(super) last_hash: Hash,
    pub(super) first_time: String,
    pub(super) last_time: String,
    /// Bytes of the signed records.
    pub(super) length: u64,
    /// Bytes after them: of a record that was never acknowledged.
    pub(super) unacknowledged: u64,
    /// Intents without an outcome.
    pub(super) open: BTreeMap<u64, Record>,
    pub(super) checkpoints: Checkpoints,
}

/// What `checkpoints` holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Checkpoints {
    pub(super) count: u64,
    pub(super) last: Hash,
    /// Records that the newest one signs.
    pub(super) size: u64,
    /// Bytes of the whole notes.
    pub(super) length: u64,
    /// Whether a crash left half a note after them.
    pub(super) torn: bool,
}

/// Why a scan ended early.
pub(super) enum Stop {
    Bad(FirstBad),
    /// The file system failed: nothing is said about the log.
    Storage(VaultError),
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        Self::Storage(error)
    }
}

pub(super) fn scan(
    storage: &dyn Storage,
    dir: &Path,
    key: &VerifyingKey,
    expected: Option<&Head>,
) -> Result<Scan, Stop> {
    let head = read_head(storage, dir, key)?;
    let mut pass = Pass {
        key,
        expected,
        notes: Notes::open(storage, dir)?,
        next_note: None,
        line: 0,
        hash: NO_PREDECESSOR,
        hash_before: NO_PREDECESSOR,
        suspect: None,
        newest: None,
        good: 0,
        scan: Scan {
            head,
            tree: GrowingTree::default(),
            last_hash: NO_PREDECESSOR,
            first_time: String::new(),
            last_time: String::new(),
            length: 0,
            unacknowledged: 0,
            open: BTreeMap::new(),
            checkpoints: Checkpoints::default(),
        },
    };
    pass.take_note()?;
    pass.run(storage, dir)
}

/// The signed head.
pub(super) fn read_head(storage: &dyn Storage, dir: &Path, key: &VerifyingKey) -> Result<Note, Stop> {
    let bad = |why: &str| Stop::Bad(FirstBad::new(HEAD, 1, 0, why));
    let bytes = read_small(storage, &dir.join(HEAD), 1 << 16)?.ok_or_else(|| bad("the signed head is missing"))?;
    let text = String::from_utf8(bytes).ok();
    text.and_then(|text| key.open(&text)).ok_or_else(|| bad("the head is not signed by this key, or was altered"))
}

struct Pass<'a> {
    key: &'a VerifyingKey,
    expected: Option<&'a Head>,
    notes: Notes,
    /// The checkpoint that the records have not reached yet.
    next_note: Option<(Note, u64)>,
    /// Lines read.
    line: u64,
    hash: Hash,
    hash_before: Hash,
    /// The newest record does not name its predecessor's hash; the next one tells which of the
    /// two was altered.
    suspect: Option<u64>,
    /// Leaf of the newest record, which `scan.tree` does not have yet: to tell whether the newest
    /// alone differs from what was signed, the tree before it is needed.
    newest: Option<Hash>,
    /// Records up to here are what was signed.
    good: u64,
    scan: Scan,
}

impl Pass<'_> {
    fn run(mut self, storage: &dyn Storage, dir: &Path) -> Result<Scan, Stop> {
        let mut lines = Lines::open(storage, &dir.join(LOG))?;
        while self.line < self.scan.head.size {
            match lines.next()? {
                Some(Line::Whole(line)) => self.record(&line)?,
                Some(Line::TooLong) => return self.bad(self.line + 1, "it is not a record"),
                Some(Line::Torn(_)) => return self.missing("it is cut off"),
                None => return self.missing("it is missing"),
            }
        }
        self.end_of_signed()?;
        self.unacknowledged(&mut lines, storage, dir)?;
        self.end_of_notes()?;
        self.scan.tree = self.tree();
        Ok(self.scan)
    }

    /// Checks one line against everything known so far.
    fn record(&mut self, line: &[u8]) -> Result<(), Stop> {
        let sequence = self.line + 1;
        let Some(record) = Record::parse(line) else {
            self.settle_suspect(None)?;
            return self.bad(sequence, "it is not a record");
        };
        self.settle_suspect(Some(&record.previous))?;
        self.check_place(sequence, &record)?;
        if record.previous != hex::encode(self.hash) {
            if sequence == 1 {
                return self.bad(1, "it names a record before the first");
            }
            self.suspect = Some(sequence);
        } else if record.time < self.scan.last_time {
            return self.bad(sequence, "its time is before that of the record before");
        }
        self.accept(record, line);
        self.check_roots()
    }

    /// A suspicion about records `n - 1` and `n` ends with the next record, or with the head: if
    /// that vouches for `n`, then `n - 1` is not the record that `n` was written after.
    fn settle_suspect(&mut self, next_names: Option<&str>) -> Result<(), Stop> {
        let Some(sequence) = self.suspect.take() else { return Ok(()) };
        if next_names.is_some_and(|named| named == hex::encode(self.hash)) {
            self.bad(sequence - 1, "it was altered: the next record names another hash")
        } else {
            self.bad(sequence, "it was altered: its hashes match neither neighbour")
        }
    }

    fn check_place(&self, sequence: u64, record: &Record) -> Result<(), Stop> {
        if record.sequence == sequence {
            return Ok(());
        }
        if record.sequence > sequence {
            let found = format!("it is missing or was moved: record {} stands here", record.sequence);
            return self.bad(sequence, &found);
        }
        if record.sequence + 1 == sequence && record.previous == hex::encode(self.hash_before) {
            let line = sequence - 1; // the original follows the intruder
            let why = "it was inserted: another record of this number follows";
            return Err(Stop::Bad(FirstBad::new(LOG, line, record.sequence, why)));
        }
        let found = format!("record {} stands in its place", record.sequence);
        self.bad(sequence, &found)
    }

    fn accept(&mut self, record: Record, line: &[u8]) {
        self.line += 1;
        self.hash_before = std::mem::replace(&mut self.hash, hash(line));
        if let Some(leaf) = self.newest.replace(merkle::leaf_hash(line)) {
            self.scan.tree.push(leaf);
        }
        self.scan.length += line.len() as u64 + 1;
        self.scan.last_hash = self.hash;
        self.scan.last_time.clone_from(&record.time);
        if self.line == 1 {
            self.scan.first_time.clone_from(&record.time);
        }
        match (record.phase, record.intent) {
            (Phase::Intent, _) => drop(self.scan.open.insert(record.sequence, record)),
            (Phase::Outcome, Some(intent)) => drop(self.scan.open.remove(&intent)),
            _ => {}
        }
    }

    /// Compares the tree with every signature over this many records.
    fn check_roots(&mut self) -> Result<(), Stop> {
        let kept = self.expected.filter(|head| head.size == self.line && self.suspect.is_none());
        if kept.is_some_and(|head| head.root != hex::encode(self.tree().root())) {
            return self.differs("the head that was kept elsewhere");
        }
        while let Some((note, line)) = self.next_note.take_if(|(note, _)| note.size == self.line) {
            // With a suspect the root cannot match, and the chain tells more exactly which record it is.
            if self.suspect.is_none() {
                self.compare(&note, &format!("the checkpoint at line {line}"))?;
                self.good = self.line;
            }
            self.take_note()?;
        }
        Ok(())
    }

    /// All signed records are read: the head decides.
    fn end_of_signed(&mut self) -> Result<(), Stop> {
        let head = self.scan.head.clone();
        if head.root == self.tree().root() && self.suspect.is_none() {
            return self.check_expected();
        }
        if let Some(sequence) = self.suspect {
            // The root cannot match, but the head names the newest record's own leaf hash.
            let bad = if self.newest == Some(head.last) { sequence - 1 } else { sequence };
            return self.bad(bad, "it was altered: its hashes do not match its neighbours");
        }
        self.compare(&head, "the head")
    }

    /// Compares the tree with what a note signs over as many records.
    fn compare(&self, note: &Note, what: &str) -> Result<(), Stop> {
        if note.root == self.tree().root() {
            return Ok(());
        }
        if self.only_newest_differs(note) {
            return self.bad(self.line, &format!("it is not the record that {what} signs"));
        }
        self.differs(what)
    }

    fn check_expected(&self) -> Result<(), Stop> {
        match self.expected {
            Some(head) if head.size > self.line => {
                let why = format!("it is missing: a head that was kept elsewhere counts {}", head.size);
                self.bad(self.line + 1, &why)
            }
            _ => Ok(()),
        }
    }

    /// Whether the records before the newest are what was signed: their tree with the signed leaf
    /// of the newest has the signed root.
    fn only_newest_differs(&self, note: &Note) -> bool {
        let mut tree = self.scan.tree.clone();
        tree.push(note.last);
        tree.size() == note.size && tree.root() == note.root
    }

    /// The tree over every line read.
    fn tree(&self) -> GrowingTree {
        let mut tree = self.scan.tree.clone();
        if let Some(leaf) = self.newest {
            tree.push(leaf);
        }
        tree
    }

    /// At most one record may follow the head, whole or torn: the one being written in a crash.
    fn unacknowledged(&mut self, lines: &mut Lines, storage: &dyn Storage, dir: &Path) -> Result<(), Stop> {
        let mut whole = 0;
        while let Some(line) = lines.next()? {
            match line {
                Line::Whole(line) => {
                    whole += 1;
                    self.scan.unacknowledged += line.len() as u64 + 1;
                }
                Line::Torn(bytes) => self.scan.unacknowledged += bytes,
                Line::TooLong => return self.bad(self.line + 1, "it is not a record"),
            }
            if whole > 1 {
                return self.beyond_head(storage, dir);
            }
        }
        Ok(())
    }

    /// Either records were added by somebody who cannot sign, or the daemon is at work meanwhile.
    fn beyond_head(&mut self, storage: &dyn Storage, dir: &Path) -> Result<(), Stop> {
        if read_head(storage, dir, self.key)?.size > self.scan.head.size {
            self.scan.unacknowledged = 0;
            return Ok(());
        }
        self.bad(self.line + 1, "it and others after it follow the signed head: they were added")
    }

    /// Reads and checks the next checkpoint.
    fn take_note(&mut self) -> Result<(), Stop> {
        let known = self.scan.checkpoints;
        let (text, line) = match self.notes.next()? {
            None => return Ok(()),
            Some(NoteText::Torn { line }) => {
                self.scan.checkpoints.torn = true;
                return if known.count < self.scan.head.checkpoints {
                    self.bad_note(line, "this checkpoint is cut off")
                } else {
                    Ok(())
                };
            }
            Some(NoteText::Whole { text, line }) => (text, line),
        };
        let Some(note) = self.key.open(&text) else {
            return self.bad_note(line, "this checkpoint is not signed by this key, or was altered");
        };
        if note.checkpoints != known.count || note.last_checkpoint != known.last || note.size < known.size {
            return self.bad_note(line, "a checkpoint before this one is missing or was moved");
        }
        if note.size > self.scan.head.size {
            return self.bad_note(line, "this checkpoint signs more records than the head");
        }
        self.scan.checkpoints = Checkpoints {
            count: known.count + 1,
            last: hash(text.as_bytes()),
            size: note.size,
            length: known.length + text.len() as u64,
            torn: false,
        };
        self.next_note = Some((note, line));
        Ok(())
    }

    fn end_of_notes(&mut self) -> Result<(), Stop> {
        let (found, signed) = (self.scan.checkpoints, self.scan.head.checkpoints);
        let same = found.count != signed || found.last == self.scan.head.last_checkpoint;
        if found.count < signed || !same {
            return self.bad_note(0, &format!("{} checkpoints are left of {signed}", found.count));
        }
        Ok(())
    }

    fn bad<T>(&self, sequence: u64, why: &str) -> Result<T, Stop> {
        Err(Stop::Bad(FirstBad::new(LOG, sequence, sequence, why)))
    }

    fn bad_note<T>(&self, line: u64, why: &str) -> Result<T, Stop> {
        Err(Stop::Bad(FirstBad::new(CHECKPOINTS, line, self.scan.checkpoints.size, why)))
    }

    fn missing<T>(&self, what: &str) -> Result<T, Stop> {
        let why = format!("{what}, though the head signs {} records", self.scan.head.size);
        self.bad(self.line + 1, &why)
    }

    fn differs<T>(&self, what: &str) -> Result<T, Stop> {
        let why = format!("a record from here to {} is not what {what} signs", self.line);
        self.bad(self.good + 1, &why)
    }
}
