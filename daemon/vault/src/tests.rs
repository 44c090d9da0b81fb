//! The vault as a whole: what opens, what must not, and what survives a fault at every step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::*;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const CANARY: &[u8] = b"canary-7f3a patient record";

fn source(passphrase: &str) -> RootSource {
    let passphrase = Zeroizing::new(passphrase.to_owned());
    RootSource::Passphrase { passphrase, cost: Argon2Cost::for_tests() }
}

fn dataset(name: &str) -> KeyInfo {
    KeyInfo { name: name.into(), kind: KeyKind::Dataset, owner: "ada".into() }
}

fn create(dir: &Path) -> Vault {
    Vault::create(Arc::new(Disk), dir, &source("correct horse")).unwrap()
}

fn open(dir: &Path) -> Vault {
    Vault::open(Arc::new(Disk), dir, &source("correct horse")).unwrap()
}

fn put(vault: &Vault, name: &str, key: &KeyId, bytes: &[u8]) -> Result<Committed, VaultError> {
    let mut writer = vault.writer(name, key)?;
    writer.write_all(bytes).map_err(|error| VaultError::object(name, error.into()))?;
    writer.commit()
}

fn take(vault: &Vault, name: &str, key: &KeyId) -> Result<Vec<u8>, VaultError> {
    let mut out = Vec::new();
    let mut reader = vault.reader(name, key)?;
    reader.read_to_end(&mut out).map_err(|error| VaultError::object(name, error.into()))?;
    Ok(out)
}

fn every_file(dir: &Path, visit: &mut dyn FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            every_file(&path, visit);
        } else {
            visit(&path, &std::fs::read(&path).unwrap());
        }
    }
}

fn assert_no_plaintext(dir: &Path) {
    every_file(dir, &mut |path, bytes| {
        let found = bytes.windows(11).any(|window| window == &CANARY[..11]);
        assert!(!found, "plaintext in {}", path.display());
    });
}

#[test]
fn what_is_committed_opens_after_a_restart_and_only_under_its_name_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let vault = create(dir.path());
    let key = vault.new_key(dataset("ward-3")).unwrap();
    let other = vault.new_key(dataset("ward-4")).unwrap();
    let committed = put(&vault, "ward-3/records", &key, CANARY).unwrap();
    assert_eq!(committed.length, CANARY.len() as u64);
    drop(vault);

    let vault = open(dir.path());
    assert_eq!(take(&vault, "ward-3/records", &key).unwrap(), CANARY);
    assert_eq!(vault.key_info(&key).unwrap(), dataset("ward-3"));
    assert_eq!(vault.list_keys().unwrap().open.len(), 2);
    assert!(matches!(take(&vault, "ward-3/records", &other), Err(VaultError::Object { .. })));
    assert!(matches!(take(&vault, "ward-9/records", &key), Err(VaultError::NoObject(_))));
    // Moved under another name, it does not open: the name is bound in.
    let objects = dir.path().join("objects");
    let file = std::fs::read_dir(&objects).unwrap().next().unwrap().unwrap().path();
    put(&vault, "decoy", &key, b"x").unwrap();
    let decoy = std::fs::read_dir(&objects).unwrap().map(|it| it.unwrap().path());
    let decoy = decoy.into_iter().find(|path| *path != file).unwrap();
    std::fs::copy(&file, &decoy).unwrap();
    assert!(matches!(take(&vault, "decoy", &key), Err(VaultError::Object { .. })));
    assert_no_plaintext(dir.path());
}

#[test]
fn a_wrong_passphrase_is_told_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let reopen = |words: &str| Vault::open(Arc::new(Disk), dir.path(), &source(words));
    assert!(matches!(reopen("wrong horse"), Err(VaultError::WrongPassphrase)));
    let credential = RootSource::Credential(Zeroizing::new(vec![1; 32]));
    let wrong_kind = Vault::open(Arc::new(Disk), dir.path(), &credential);
    assert!(matches!(wrong_kind, Err(VaultError::WrongSource { .. })));
    let again = Vault::create(Arc::new(Disk), dir.path(), &source("correct horse"));
    assert!(matches!(again, Err(VaultError::VaultExists { .. })));

    let path = dir.path().join("keyring.json");
    let good = std::fs::read(&path).unwrap();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = reopen("correct horse").err();
        assert!(matches!(error, Some(VaultError::Damaged { .. })), "byte {place}: {error:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(reopen("correct horse"), Err(VaultError::NoVault(_))));
}

#[test]
fn a_credential_opens_the_vault_and_a_passphrase_can_replace_it() {
    let dir = tempfile::tempdir().unwrap();
    let credential = RootSource::Credential(Zeroizing::new(vec![9; 40]));
    let vault = Vault::create(Arc::new(Disk), dir.path(), &credential).unwrap();
    let key = vault.new_key(dataset("a")).unwrap();
    put(&vault, "a", &key, CANARY).unwrap();
    vault.change_source(&source("correct horse")).unwrap();
    assert_eq!(take(&open(dir.path()), "a", &key).unwrap(), CANARY);
    let old = Vault::open(Arc::new(Disk), dir.path(), &credential);
    assert!(matches!(old, Err(VaultError::WrongSource { .. })));
}

#[test]
fn a_shredded_key_is_gone_for_good_and_no_backup_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let vault = create(dir.path());
    let (kept, gone) =
        (vault.new_key(dataset("kept")).unwrap(), vault.new_key(dataset("gone")).unwrap());
    put(&vault, "kept", &kept, CANARY).unwrap();
    put(&vault, "gone", &gone, CANARY).unwrap();
    let backup = vault.backup(&source("in the safe")).unwrap();
    vault.shred(&gone).unwrap();
    assert!(matches!(take(&vault, "gone", &gone), Err(VaultError::NoKey(_))));
    assert!(matches!(vault.shred(&gone), Err(VaultError::NoKey(_))));
    assert!(!dir.path().join("keys").join(gone.as_str()).exists());

    // The passphrase is forgotten; the backup opens with another.
    let restore = |words: &str| {
        let (disk, new) = (Arc::new(Disk), source("a new passphrase"));
        Vault::restore(disk, dir.path(), &backup, &source(words), &new)
    };
    assert!(matches!(restore("not in the safe"), Err(VaultError::Backup(_))));
    let vault = restore("in the safe").unwrap();
    assert_eq!(take(&vault, "kept", &kept).unwrap(), CANARY);
    assert!(matches!(take(&vault, "gone", &gone), Err(VaultError::NoKey(_))));
    // The object's file is still there and useless; the sweep of unlisted ones takes it.
    assert_eq!(vault.remove_unlisted(["kept"]).unwrap(), 1);
}

#[test]
fn a_backup_older_than_a_rotation_or_of_another_vault_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vault = create(dir.path());
    let key = vault.new_key(dataset("a")).unwrap();
    put(&vault, "a", &key, CANARY).unwrap();
    let backup = vault.backup(&source("in the safe")).unwrap();
    assert_eq!(vault.rotate().unwrap(), 2);
    assert_eq!(vault.status().versions, [2]);
    let (disk, safe) = (Arc::new(Disk), source("in the safe"));
    let old = Vault::restore(disk.clone(), dir.path(), &backup, &safe, &source("correct horse"));
    assert!(matches!(old, Err(VaultError::Backup(_))));
    assert_eq!(take(&open(dir.path()), "a", &key).unwrap(), CANARY, "nothing was changed");
    let elsewhere = tempfile::tempdir().unwrap();
    create(elsewhere.path());
    let foreign = Vault::restore(disk, elsewhere.path(), &backup, &safe, &source("correct horse"));
    assert!(matches!(foreign, Err(VaultError::Backup(_))));
}

#[test]
fn scratch_data_dies_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let vault = create(dir.path());
    let (key, mut writer) = vault.scratch_writer("raw", "ada").unwrap();
    writer.write_all(CANARY).unwrap();
    writer.commit().unwrap();
    assert_eq!(take(&vault, "raw", &key).unwrap(), CANARY);
    assert!(vault.list_keys().unwrap().open.is_empty(), "no file holds a scratch key");
    drop(vault);
    let vault = open(dir.path());
    assert!(matches!(take(&vault, "raw", &key), Err(VaultError::NoKey(_))));
    assert_eq!(vault.sweep().unwrap().scratch_objects, 1);
}

#[test]
fn an_uncommitted_object_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vault = create(dir.path());
    let key = vault.new_key(dataset("a")).unwrap();
    let mut writer = vault.writer("a", &key).unwrap();
    writer.write_all(CANARY).unwrap();
    drop(writer);
    assert!(matches!(take(&vault, "a", &key), Err(VaultError::NoObject(_))));
    assert_eq!(std::fs::read_dir(dir.path().join("objects")).unwrap().count(), 0);
}

#[test]
fn sealed_entries_are_bound_to_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let vault = create(dir.path());
    vault.write_sealed("catalog/a", CANARY).unwrap();
    vault.write_sealed("catalog/b", b"b").unwrap();
    assert_eq!(vault.list_sealed("catalog").unwrap(), ["a", "b"]);
    std::fs::copy(dir.path().join("catalog/a"), dir.path().join("catalog/b")).unwrap();
    let vault = open(dir.path());
    assert_eq!(&**vault.read_sealed("catalog/a").unwrap().unwrap(), CANARY);
    assert!(matches!(vault.read_sealed("catalog/b"), Err(VaultError::Object { .. })));
    assert!(vault.read_sealed("catalog/c").unwrap().is_none());
    for path in ["../a", "/etc/passwd", "a//b", "", ".tmp-1", "a/../b"] {
        assert!(matches!(vault.write_sealed(path, b""), Err(VaultError::BadName(_))), "{path}");
    }
    assert!(vault.remove_sealed("catalog/a").unwrap() && !vault.remove_sealed("catalog/a").unwrap());
    assert_no_plaintext(dir.path());
}

/// What the daemon had been told when the fault struck.
#[derive(Default, Debug)]
struct Acknowledged {
    key: Option<KeyId>,
    committed: bool,
    entry: bool,
    shredded: bool,
}

/// Every kind of write once, under a storage that may fail.
fn scenario(
    storage: Arc<Faulty>,
    dir: &Path,
    doomed: &KeyId,
    told: &mut Acknowledged,
) -> Result<(), VaultError> {
    let vault = Vault::open(storage, dir, &source("correct horse"))?;
    let key = vault.new_key(dataset("new"))?;
    told.key = Some(key.clone());
    put(&vault, "new", &key, CANARY)?;
    told.committed = true;
    vault.write_sealed("catalog/entry", b"after")?;
    told.entry = true;
    vault.rotate()?;
    vault.shred(doomed)?;
    told.shredded = true;
    vault.rotate()?;
    Ok(())
}

fn prepare(dir: &Path) -> (KeyId, KeyId) {
    let vault = create(dir);
    let (kept, doomed) =
        (vault.new_key(dataset("kept")).unwrap(), vault.new_key(dataset("doomed")).unwrap());
    put(&vault, "kept", &kept, b"kept").unwrap();
    put(&vault, "doomed", &doomed, b"doomed").unwrap();
    vault.write_sealed("catalog/entry", b"before").unwrap();
    (kept, doomed)
}

#[test]
fn a_fault_at_any_operation_loses_nothing_committed_and_shows_nothing_half_written() {
    let count = {
        let dir = tempfile::tempdir().unwrap();
        let (_, doomed) = prepare(dir.path());
        let storage = Arc::new(Faulty::counting());
        scenario(Arc::clone(&storage), dir.path(), &doomed, &mut Acknowledged::default()).unwrap();
        storage.count()
    };
    assert!(count > 50, "{count}");
    let faults = [Fault::Error, Fault::Full, Fault::ShortWrite, Fault::Crash, Fault::Kill];
    for (fault, at) in faults.into_iter().flat_map(|fault| (1..=count).map(move |at| (fault, at))) {
        let dir = tempfile::tempdir().unwrap();
        let (kept, doomed) = prepare(dir.path());
        let mut told = Acknowledged::default();
        let storage = Arc::new(Faulty::at(at, fault));
        let done = scenario(storage, dir.path(), &doomed, &mut told);
        check_after(dir.path(), &kept, &doomed, &told, &format!("{fault:?} at {at}: {done:?}"));
    }
}

fn check_after(dir: &Path, kept: &KeyId, doomed: &KeyId, told: &Acknowledged, case: &str) {
    let vault = open(dir);
    vault.sweep().unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(vault.status().versions.len(), 1, "{case}");
    assert_eq!(take(&vault, "kept", kept).unwrap(), b"kept", "{case}");
    if let Some(key) = &told.key {
        match take(&vault, "new", key) {
            Ok(found) => assert_eq!(found, CANARY, "{case}"),
            Err(VaultError::NoObject(_)) => assert!(!told.committed, "{case}"),
            Err(error) => panic!("{case}: {error}"),
        }
    }
    match take(&vault, "doomed", doomed) {
        Ok(found) => assert!(found == b"doomed" && !told.shredded, "{case}"),
        Err(error) => assert!(matches!(error, VaultError::NoKey(_)), "{case}: {error}"),
    }
    let entry = vault.read_sealed("catalog/entry").unwrap().unwrap();
    assert!(&**entry == b"after" || (&**entry == b"before" && !told.entry), "{case}");
    assert!(vault.list_keys().unwrap().damaged.is_empty(), "{case}");
    every_file(dir, &mut |path, _| {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(!name.starts_with(TEMPORARY_PREFIX), "{case}: {name} is left");
    });
    assert_no_plaintext(dir);
}

#[test]
fn a_full_disk_is_named_as_such_and_a_removal_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _) = prepare(dir.path());
    let storage = Arc::new(Faulty::with_room(300_000));
    let vault = Vault::open(storage, dir.path(), &source("correct horse")).unwrap();
    let key = vault.new_key(dataset("big")).unwrap();
    let error = put(&vault, "big", &key, &vec![1; 1 << 20]).unwrap_err();
    assert!(error.is_no_room(), "{error}");
    put(&vault, "small", &key, b"fits").unwrap();
    assert_eq!(take(&vault, "small", &key).unwrap(), b"fits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_content_and_name_come_back(name in ".{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let dir = tempfile::tempdir().unwrap();
        let vault = create(dir.path());
        let key = vault.new_key(dataset("a")).unwrap();
        put(&vault, &name, &key, &bytes).unwrap();
        prop_assert_eq!(take(&vault, &name, &key).unwrap(), bytes.clone());
        let sealed = vault.seal_small(&name, &bytes).unwrap();
        prop_assert_eq!(&**vault.open_small(&name, &sealed).unwrap(), &bytes);
    }
}
