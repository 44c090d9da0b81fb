//! The writer. One log has one writer, behind a lock: records have an order.
//!
//! What always holds: a call that returns `Ok` left a durable record and a durable signed head;
//! a call that returns an error left the log such that the next call, or the next start, puts it
//! right. Calls block on fsync: on an async thread use `spawn_blocking`.

use super::AuditError;
use super::merkle::{self, GrowingTree};
use super::note::{Head, Note, SigningKey, VerifyingKey};
use super::proof::{self, Proof};
use super::reader::{CHECKPOINTS, HEAD, LOG, PUBLIC_KEY, failed, for_each_record, still_there};
use super::record::{Act, Details, Hash, NO_PREDECESSOR, Outcome, Phase, Record, format_time, hash};
use super::scan::{Checkpoints, Scan, Stop, scan};
use cloister_vault::{Storage, Vault, VaultError, WriteFile, hex, write_atomic};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use serde_json::json;
use std::collections::VecDeque;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use time::OffsetDateTime;

/// The log's folder in the state folder.
pub const FOLDER: &str = "audit";
/// The sealed signing key.
const SIGNING_KEY: &str = "audit/signing-key";
/// A checkpoint at least every so many records.
const RECORDS_PER_CHECKPOINT: u64 = 64;
/// The principal of what the log itself says.
const SELF: &str = "cloisterd";

/// The audit log, open for writing. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct AuditLog(Arc<Mutex<Writer>>);

/// An act that was announced and must be concluded. Dropped without an outcome, it is recorded as
/// interrupted.
#[must_use = "say how the act ended"]
#[derive(Debug)]
pub struct Intent {
    log: AuditLog,
    sequence: u64,
    /// Taken by the outcome.
    act: Option<Act>,
}

/// A record without its place in the log.
#[derive(Debug, Clone)]
struct Entry {
    act: Act,
    phase: Phase,
    intent: Option<u64>,
    outcome: Option<Outcome>,
    details: Details,
}

struct Writer {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    key: SigningKey,
    file: Option<Box<dyn WriteFile>>,
    /// Bytes of whole records.
    length: u64,
    tree: GrowingTree,
    last_hash: Hash,
    last_leaf: Hash,
    last_time: OffsetDateTime,
    checkpoints: Checkpoints,
    /// A failed write may have left bytes after `length` that could not be removed yet.
    dirty: bool,
    /// The newest record is not signed yet.
    unsigned: bool,
    /// A checkpoint could not be written when it was due.
    checkpoint_due: bool,
    /// Outcomes that are owed: of dropped intents, and of acts that ended while the disk was full.
    owed: VecDeque<Entry>,
}

// ---- opening ----

impl AuditLog {
    /// Makes the log of a new vault, and its signing key.
    ///
    /// # Errors
    /// `Exists`, `NotRecorded`, `Vault`.
    pub fn create(vault: &Vault, now: OffsetDateTime) -> Result<Self, AuditError> {
        let dir = vault.dir().join(FOLDER);
        // The head is written last: without one, an earlier attempt did not get to its end.
        if vault.list_sealed(FOLDER)?.iter().any(|name| name == HEAD) {
            return Err(AuditError::Exists(dir.display().to_string()));
        }
        for name in [LOG, CHECKPOINTS] {
            vault.remove_sealed(&format!("{FOLDER}/{name}"))?;
        }
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| AuditError::SigningKey)?;
        vault.write_sealed(SIGNING_KEY, pkcs8.as_ref())?;
        let key = signing_key(vault)?;
        let public = format!("{}\n", key.public());
        write_atomic(vault.storage(), &dir.join(PUBLIC_KEY), public.as_bytes())?;
        let mut writer = Writer::new(vault, key);
        writer.append(now, &Entry::event("audit.create", Details::new()))?;
        Ok(Self(Arc::new(Mutex::new(writer))))
    }

    /// Whether a state folder has a log that was made to its end.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(FOLDER).join(HEAD).exists()
    }

    /// Opens the log: verifies all of it, removes what a crash left unacknowledged at its end and
    /// closes intents without outcome as interrupted. Both are said in records.
    ///
    /// # Errors
    /// `Missing`, `SigningKey`; `Tampered` for anything that a crash cannot explain, which is
    /// reported and never repaired; `NotRecorded`, `Vault`.
    pub fn open(vault: &Vault, now: OffsetDateTime) -> Result<Self, AuditError> {
        let key = signing_key(vault)?;
        let dir = vault.dir().join(FOLDER);
        let scan = match scan(vault.storage(), &dir, key.public(), None) {
            Ok(scan) => scan,
            Err(Stop::Bad(bad)) => return Err(AuditError::Tampered(bad)),
            Err(Stop::Storage(error)) => return Err(AuditError::Vault(error)),
        };
        let mut writer = Writer::new(vault, key);
        writer.resume(now, scan)?;
        Ok(Self(Arc::new(Mutex::new(writer))))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The signing key from the vault.
fn signing_key(vault: &Vault) -> Result<SigningKey, AuditError> {
    let pkcs8 = vault.read_sealed(SIGNING_KEY)?;
    let Some(pkcs8) = pkcs8 else {
        return Err(AuditError::Missing(vault.dir().join(FOLDER).display().to_string()));
    };
    let origin = format!("cloister-audit-{}", vault.status().vault);
    SigningKey::from_pkcs8(&pkcs8, &origin).ok_or(AuditError::SigningKey)
}

// ---- recording ----

impl AuditLog {
    /// Announces an act. It may be done once this returned `Ok`, and not otherwise.
    ///
    /// # Errors
    /// `NotRecorded`: refuse the act. `TooLong` for details past 64 KiB.
    pub fn intent(&self, now: OffsetDateTime, act: Act, details: Details) -> Result<Intent, AuditError> {
        let mut writer = self.writer();
        let entry = Entry { act: act.clone(), phase: Phase::Intent, intent: None, outcome: None, details };
        let before = writer.tree.size();
        let result = writer.append(now, &entry);
        let sequence = writer.tree.size();
        if result.is_err() && sequence > before {
            // It stands in the log, unsigned, and the act is refused all the same.
            writer.owed.push_back(Entry::interrupted(act.clone(), sequence));
        }
        result.map(|()| Intent { log: self.clone(), sequence, act: Some(act) })
    }

    /// Writes what is owed and a last checkpoint. Call it at shutdown.
    ///
    /// # Errors
    /// `NotRecorded`; the next start then says what is missing.
    pub fn close(&self, now: OffsetDateTime) -> Result<(), AuditError> {
        let mut writer = self.writer();
        writer.append(now, &Entry::event("audit.close", Details::new()))?;
        writer.checkpoint().map_err(AuditError::NotRecorded)
    }

    /// The signed head so far; keep a copy off the machine.
    pub fn head(&self) -> Head {
        let writer = self.writer();
        Head { size: writer.tree.size(), root: hex::encode(writer.tree.root()) }
    }

    /// What verifies this log.
    pub fn public_key(&self) -> VerifyingKey {
        self.writer().key.public().clone()
    }

    /// The newest `count` records, oldest first.
    ///
    /// # Errors
    /// `Vault` when the log cannot be read.
    pub fn tail(&self, count: usize) -> Result<Vec<Record>, AuditError> {
        let (storage, dir, size) = self.place();
        let first = size.saturating_sub(count as u64) + 1;
        let mut out = Vec::new();
        for_each_record(&*storage, &dir, |record, _| {
            let sequence = record.sequence;
            if (first..=size).contains(&sequence) {
                out.push(record);
            }
            sequence < size
        })?;
        Ok(out)
    }

    /// Copies the lines of a range of records into `out`, to the byte.
    ///
    /// # Errors
    /// `Vault` when the log cannot be read or `out` cannot be written.
    pub fn export(&self, range: RangeInclusive<u64>, out: &mut dyn Write) -> Result<u64, AuditError> {
        let (storage, dir, size) = self.place();
        let (mut count, mut result) = (0, Ok(()));
        for_each_record(&*storage, &dir, |record, line| {
            if range.contains(&record.sequence) && record.sequence <= size {
                result = out.write_all(line).and_then(|()| out.write_all(b"\n"));
                count += 1;
            }
            result.is_ok() && record.sequence < size
        })?;
        result.map_err(|source| failed("export", &dir.join(LOG), source))?;
        Ok(count)
    }

    /// A proof that the record `sequence` is in the log, for somebody who may not see the rest.
    ///
    /// # Errors
    /// `NoRecord`, `Tampered`, `Vault`.
    pub fn prove(&self, sequence: u64) -> Result<Proof, AuditError> {
        let writer = self.writer(); // held: the head must not move on meanwhile
        proof::prove(&*writer.storage, &writer.dir, writer.key.public(), sequence)
    }

    fn place(&self) -> (Arc<dyn Storage>, PathBuf, u64) {
        let writer = self.writer();
        (Arc::clone(&writer.storage), writer.dir.clone(), writer.tree.size())
    }
}

impl Intent {
    /// The intent's record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Says how the act ended; reply to whoever asked for it after this returned.
    ///
    /// # Errors
    /// `NotRecorded`: say so in the reply. The outcome is kept and written before the next record.
    pub fn outcome(mut self, now: OffsetDateTime, outcome: Outcome, details: Details) -> Result<u64, AuditError> {
        let Some(act) = self.act.take() else { return Ok(self.sequence) };
        let important = !act.routine;
        let entry = Entry { act, phase: Phase::Outcome, intent: Some(self.sequence), outcome: Some(outcome), details };
        let mut writer = self.log.writer();
        let before = writer.tree.size();
        if let Err(error) = writer.append(now, &entry) {
            if writer.tree.size() == before {
                writer.owed.push_back(entry);
            }
            return Err(error);
        }
        if important {
            writer.checkpoint_due = true;
        }
        writer.checkpoint_if_due();
        Ok(writer.tree.size())
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        if let Some(act) = self.act.take() {
            self.log.writer().owed.push_back(Entry::interrupted(act, self.sequence));
        }
    }
}

impl Entry {
    fn event(action: &str, details: Details) -> Self {
        let act = Act { principal: SELF.into(), action: action.into(), object: FOLDER.into(), routine: false };
        Self { act, phase: Phase::Event, intent: None, outcome: None, details }
    }

    fn interrupted(act: Act, intent: u64) -> Self {
        let (phase, intent, outcome) = (Phase::Outcome, Some(intent), Some(Outcome::Interrupted));
        Self { act, phase, intent, outcome, details: Details::new() }
    }
}

// ---- the writer ----

impl Writer {
    fn new(vault: &Vault, key: SigningKey) -> Self {
        Self {
            storage: vault.shared_storage(),
            dir: vault.dir().join(FOLDER),
            key,
            file: None,
            length: 0,
            tree: GrowingTree::default(),
            last_hash: NO_PREDECESSOR,
            last_leaf: NO_PREDECESSOR,
            last_time: OffsetDateTime::UNIX_EPOCH,
            checkpoints: Checkpoints::default(),
            dirty: false,
            unsigned: false,
            checkpoint_due: false,
            owed: VecDeque::new(),
        }
    }

    /// Goes on where a verified log ends.
    fn resume(&mut self, now: OffsetDateTime, scan: Scan) -> Result<(), AuditError> {
        let torn = scan.unacknowledged > 0 || scan.checkpoints.torn;
        if scan.unacknowledged > 0 {
            self.truncate(LOG, scan.length)?;
        }
        if scan.checkpoints.torn {
            self.truncate(CHECKPOINTS, scan.checkpoints.length)?;
        }
        self.length = scan.length;
        self.tree = scan.tree;
        self.last_hash = scan.last_hash;
        self.last_leaf = scan.head.last;
        self.last_time = super::record::parse_time(&scan.last_time).unwrap_or(self.last_time);
        self.checkpoints = Checkpoints { torn: false, ..scan.checkpoints };
        if torn {
            let mut details = Details::new();
            details.insert("unacknowledged_bytes_removed".into(), json!(scan.unacknowledged));
            details.insert("torn_checkpoint_removed".into(), json!(scan.checkpoints.torn));
            self.append(now, &Entry::event("audit.repair", details))?;
        }
        for (sequence, record) in scan.open {
            let Record { principal, action, object, .. } = record;
            let act = Act { principal, action, object, routine: false };
            self.owed.push_back(Entry::interrupted(act, sequence));
        }
        self.append(now, &Entry::event("audit.open", Details::new()))?;
        self.checkpoint_due = true;
        self.checkpoint_if_due();
        Ok(())
    }

    /// Writes a record, after everything that is owed.
    fn append(&mut self, now: OffsetDateTime, entry: &Entry) -> Result<(), AuditError> {
        self.heal().map_err(AuditError::NotRecorded)?;
        if self.file.is_some() {
            still_there(&*self.storage, &self.dir.join(LOG), self.length).map_err(AuditError::NotRecorded)?;
        }
        while let Some(owed) = self.owed.pop_front() {
            let before = self.tree.size();
            if let Err(error) = self.append_one(now, &owed) {
                if self.tree.size() == before {
                    self.owed.push_front(owed);
                }
                return Err(error);
            }
        }
        self.append_one(now, entry)?;
        self.checkpoint_if_due();
        Ok(())
    }

    fn append_one(&mut self, now: OffsetDateTime, entry: &Entry) -> Result<(), AuditError> {
        // A clock that was set back must not reorder the log.
        let time = now.max(self.last_time);
        let record = Record {
            sequence: self.tree.size() + 1,
            time: format_time(time),
            principal: entry.act.principal.clone(),
            action: entry.act.action.clone(),
            object: entry.act.object.clone(),
            phase: entry.phase,
            intent: entry.intent,
            outcome: entry.outcome.clone(),
            details: entry.details.clone(),
            previous: hex::encode(self.last_hash),
        };
        let mut line = record.to_line()?;
        let (line_hash, leaf) = (hash(&line), merkle::leaf_hash(&line));
        line.push(b'\n');
        self.write_line(&line).map_err(AuditError::NotRecorded)?;
        self.length += line.len() as u64;
        self.tree.push(leaf);
        (self.last_hash, self.last_leaf, self.last_time) = (line_hash, leaf, time);
        self.unsigned = true;
        self.sign_head().map_err(AuditError::NotRecorded)
    }

    /// Appends durably, or takes back what was written of it.
    fn write_line(&mut self, line: &[u8]) -> Result<(), VaultError> {
        let path = self.dir.join(LOG);
        let result = self.try_write(&path, line);
        if result.is_err() {
            // After a failed fsync nobody knows what is on the disk: cut back to what is known.
            self.dirty = true;
            self.file = None;
            let _ = self.heal(); // if this fails too, the next append tries again first
        }
        result
    }

    fn try_write(&mut self, path: &Path, line: &[u8]) -> Result<(), VaultError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = self.storage.append(path).map_err(|source| failed("open", path, source))?;
                // A log made just now must have a durable name as well.
                self.storage.sync_dir(&self.dir).map_err(|source| failed("sync the folder of", path, source))?;
                none.insert(file)
            }
        };
        file.write_all(line).map_err(|source| failed("append to", path, source))?;
        file.sync().map_err(|source| failed("sync", path, source))
    }

    /// Removes half-written bytes and signs a record that could not be signed.
    fn heal(&mut self) -> Result<(), VaultError> {
        if self.dirty {
            self.truncate(LOG, self.length)?;
            self.dirty = false;
        }
        if self.unsigned { self.sign_head() } else { Ok(()) }
    }

    /// Cuts a file back; one that was never made is short enough.
    fn truncate(&self, name: &str, length: u64) -> Result<(), VaultError> {
        let path = self.dir.join(name);
        match self.storage.truncate(&path, length) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && length == 0 => Ok(()),
            other => other.map_err(|source| failed("cut back", &path, source)),
        }
    }

    fn note(&self) -> Note {
        Note {
            size: self.tree.size(),
            root: self.tree.root(),
            time: format_time(self.last_time),
            last: self.last_leaf,
            checkpoints: self.checkpoints.count,
            last_checkpoint: self.checkpoints.last,
        }
    }

    fn sign_head(&mut self) -> Result<(), VaultError> {
        let text = self.key.sign(&self.note());
        write_atomic(&*self.storage, &self.dir.join(HEAD), text.as_bytes())?;
        self.unsigned = false;
        Ok(())
    }

    /// A checkpoint that fails costs nothing yet: the head signs the same records. It stays due.
    fn checkpoint_if_due(&mut self) {
        let since = self.tree.size() - self.checkpoints.size;
        if self.checkpoint_due || since >= RECORDS_PER_CHECKPOINT {
            self.checkpoint_due = self.checkpoint().is_err();
        }
    }

    fn checkpoint(&mut self) -> Result<(), VaultError> {
        self.heal()?;
        if self.checkpoints.size == self.tree.size() {
            return Ok(());
        }
        let text = self.key.sign(&self.note());
        let path = self.dir.join(CHECKPOINTS);
        if self.checkpoints.torn {
            self.truncate(CHECKPOINTS, self.checkpoints.length)?;
        }
        self.checkpoints.torn = true; // until the whole note is durable
        let write = || -> std::io::Result<()> {
            let mut file = self.storage.append(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync()?;
            self.storage.sync_dir(&self.dir)
        };
        write().map_err(|source| failed("append to", &path, source))?;
        self.checkpoints = Checkpoints {
            count: self.checkpoints.count + 1,
            last: hash(text.as_bytes()),
            size: self.tree.size(),
            length: self.checkpoints.length + text.len() as u64,
            torn: false,
        };
        // The head counts the checkpoints, so that the newest cannot be cut off unnoticed.
        self.unsigned = true;
        self.sign_head()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("dir", &self.dir).field("size", &self.tree.size()).finish_non_exhaustive()
    }
}
