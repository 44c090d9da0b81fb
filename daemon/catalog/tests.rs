#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The catalog against lost and damaged files, a full disk and a crash at every step.

use super::*;
use cloister_vault::{Argon2Cost, Disk, Fault, Faulty, RootSource, Storage};
use cloister_wire::admin::{Dataset, Deployment};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct House {
    dir: tempfile::TempDir,
}

fn source() -> RootSource {
    RootSource::Passphrase { passphrase: "correct horse".to_owned().into(), cost: Argon2Cost::for_tests() }
}

fn deployment(adapter: &str, by: &str) -> Deployment {
    Deployment {
        adapter: adapter.to_owned(),
        base: "demo".to_owned(),
        adapter_digest: "d".to_owned(),
        approvers: vec!["ann".to_owned(), "bea".to_owned()],
        deployed_by: by.to_owned(),
        at: "2026-11-24T12:00:00Z".to_owned(),
    }
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Vault::create(Arc::new(Disk), dir.path(), &source()).unwrap();
        Self { dir }
    }

    fn open(&self) -> Catalog {
        self.open_on(Arc::new(Disk)).unwrap()
    }

    fn open_on(&self, storage: Arc<dyn Storage>) -> Result<Catalog, CatalogError> {
        Catalog::open(Vault::open(storage, self.dir.path(), &source())?)
    }

    fn with_three() -> Self {
        let house = Self::new();
        let catalog = house.open();
        for adapter in ["a", "b", "c"] {
            catalog.create(&deployment(adapter, "ann")).unwrap();
        }
        house
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir.path().join("catalog/deployments").join(id)
    }

    fn index_files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, out) } else { out.push(path) }
            }
        }
        let mut out = Vec::new();
        walk(&self.dir.path().join("index"), &mut out);
        out
    }
}

fn ids(catalog: &Catalog) -> Vec<String> {
    catalog.list::<Deployment>().unwrap().into_iter().map(|entry| entry.adapter).collect()
}

#[test]
fn entries_are_kept_across_a_restart_and_the_index_agrees() {
    let house = House::with_three();
    let catalog = house.open();
    assert_eq!(catalog.index_state(), &IndexState::Reconciled { corrected: 0 });
    assert_eq!(ids(&catalog), ["a", "b", "c"]);
    assert_eq!(catalog.get::<Deployment>("b").unwrap(), deployment("b", "ann"));
    assert_eq!(catalog.counts().unwrap()["deployments"], 3);
    assert!(catalog.list::<Dataset>().unwrap().is_empty());
    let error = catalog.get::<Deployment>("z").unwrap_err();
    assert!(matches!(error, CatalogError::NotFound { .. }));
    let error = catalog.create(&deployment("a", "bea")).unwrap_err();
    assert!(matches!(error, CatalogError::Exists { .. }));

    catalog.put(&deployment("a", "bea")).unwrap();
    assert!(catalog.remove::<Deployment>("b").unwrap());
    assert!(!catalog.remove::<Deployment>("b").unwrap());
    assert_eq!(ids(&catalog), ["a", "c"]);
    drop(catalog);
    let catalog = house.open();
    assert_eq!(ids(&catalog), ["a", "c"]);
    assert_eq!(catalog.get::<Deployment>("a").unwrap().deployed_by, "bea");
}

#[test]
fn the_catalog_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Catalog>();
}

#[test]
fn without_the_sled_folder_everything_is_still_listed() {
    let house = House::with_three();
    fs::remove_dir_all(house.dir.path().join("index")).unwrap();
    let catalog = house.open();
    assert_eq!(catalog.index_state(), &IndexState::Reconciled { corrected: 3 });
    assert_eq!(ids(&catalog), ["a", "b", "c"]);
}

#[test]
fn a_corrupt_index_is_corrected_or_rebuilt_and_never_believed() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("emptied", |_| Vec::new()),
        ("cut", |bytes| bytes[..bytes.len() / 3].to_vec()),
        ("garbled", |bytes| bytes.iter().enumerate().map(|(i, b)| b ^ (i % 251) as u8).collect()),
        ("one byte", |mut bytes| {
            let middle = bytes.len() / 2;
            bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            bytes
        }),
    ];
    for (what, damage) in damages {
        let files = House::with_three().index_files().len();
        for file in 0..files {
            let house = House::with_three();
            let Some(path) = house.index_files().get(file).cloned() else { continue };
            fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
            let catalog = house.open();
            assert_eq!(ids(&catalog), ["a", "b", "c"], "{what} {}", path.display());
            assert_eq!(catalog.get::<Deployment>("c").unwrap(), deployment("c", "ann"), "{what}");
            catalog.put(&deployment("d", "ann")).unwrap();
            assert!(catalog.damaged().is_empty());
        }
    }
}

#[test]
fn an_unfinished_snapshot_of_sled_does_not_stop_the_catalog() {
    let house = House::with_three();
    fs::write(house.dir.path().join("index/snap.0000000000000000.generating"), b"half").unwrap();
    assert_eq!(ids(&house.open()), ["a", "b", "c"]);
}

#[test]
fn an_index_that_cannot_be_had_is_done_without() {
    let house = House::with_three();
    fs::remove_dir_all(house.dir.path().join("index")).unwrap();
    fs::write(house.dir.path().join("index"), b"a file, not a folder").unwrap();
    let catalog = house.open();
    assert!(matches!(catalog.index_state(), IndexState::Off { .. }));
    assert_eq!(ids(&catalog), ["a", "b", "c"]);
    catalog.put(&deployment("d", "ann")).unwrap();
    assert_eq!(catalog.get::<Deployment>("d").unwrap().adapter, "d");
}

#[test]
fn an_index_that_remembers_another_state_is_corrected() {
    let house = House::with_three();
    let vault = Vault::open(Arc::new(Disk), house.dir.path(), &source()).unwrap();
    // Behind the index's back: one entry changed, one gone.
    let json = serde_json::to_vec(&deployment("a", "bea")).unwrap();
    vault.write_sealed("catalog/deployments/a", &json).unwrap();
    vault.remove_sealed("catalog/deployments/b").unwrap();
    let catalog = house.open();
    assert_eq!(catalog.index_state(), &IndexState::Reconciled { corrected: 2 });
    assert_eq!(catalog.get::<Deployment>("a").unwrap().deployed_by, "bea");
    assert_eq!(ids(&catalog), ["a", "c"]);
}

#[test]
fn a_flipped_byte_is_reported_and_the_id_is_not_free() {
    let length = fs::metadata(House::with_three().file("b")).unwrap().len() as usize;
    for at in [0, length / 2, length - 1] {
        let house = House::with_three();
        let mut bytes = fs::read(house.file("b")).unwrap();
        bytes[at] ^= 1;
        fs::write(house.file("b"), bytes).unwrap();
        let catalog = house.open();
        assert_eq!(ids(&catalog), ["a", "c"]);
        let damaged = catalog.damaged();
        assert_eq!((damaged[0].kind.as_str(), damaged[0].id.as_str()), ("deployments", "b"));
        assert!(!damaged[0].reason.is_empty());
        assert!(matches!(catalog.get::<Deployment>("b"), Err(CatalogError::Damaged { .. })));
        assert!(matches!(catalog.put(&deployment("b", "x")), Err(CatalogError::Damaged { .. })));
        assert!(matches!(catalog.create(&deployment("b", "x")), Err(CatalogError::Damaged { .. })));
        assert!(house.file("b").exists(), "what is damaged stays for whoever can mend it");

        assert!(catalog.remove::<Deployment>("b").unwrap());
        assert!(catalog.damaged().is_empty());
        catalog.create(&deployment("b", "x")).unwrap();
    }
}

#[test]
fn an_entry_under_another_name_or_kind_is_refused() {
    let house = House::with_three();
    fs::rename(house.file("a"), house.file("z")).unwrap();
    fs::create_dir_all(house.dir.path().join("catalog/datasets")).unwrap();
    fs::copy(house.file("b"), house.dir.path().join("catalog/datasets/b")).unwrap();
    let catalog = house.open();
    assert_eq!(ids(&catalog), ["b", "c"]);
    let damaged: Vec<String> = catalog.damaged().into_iter().map(|it| format!("{}/{}", it.kind, it.id)).collect();
    assert_eq!(damaged, ["datasets/b", "deployments/z"]);
}

#[test]
fn an_entry_of_another_form_is_reported_without_its_content() {
    let house = House::with_three();
    let vault = Vault::open(Arc::new(Disk), house.dir.path(), &source()).unwrap();
    vault.write_sealed("catalog/deployments/q", br#"{"adapter":"SECRET","base":7}"#).unwrap();
    let mut other = deployment("other", "ann");
    other.adapter = "else".to_owned();
    vault.write_sealed("catalog/deployments/r", &serde_json::to_vec(&other).unwrap()).unwrap();
    vault.write_sealed("catalog/deployments/s", b"not json").unwrap();
    let catalog = house.open();
    assert_eq!(ids(&catalog), ["a", "b", "c"]);
    let damaged = catalog.damaged();
    assert_eq!(damaged.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["q", "r", "s"]);
    assert!(damaged.iter().all(|it| !it.reason.contains("SECRET")), "{damaged:?}");
}

#[test]
fn a_name_that_leaves_the_folder_is_refused() {
    let catalog = House::with_three().open();
    for id in ["../keyring.json", "a/b", "", ".hidden", "a b"] {
        assert!(matches!(catalog.put(&deployment(id, "x")), Err(CatalogError::BadId(_))), "{id}");
        assert!(catalog.get::<Deployment>(id).is_err(), "{id}");
    }
}

#[test]
fn a_change_is_whole_or_absent_whatever_fails_and_when() {
    let faults = [Fault::Error, Fault::Full, Fault::Crash, Fault::Kill];
    for (fault, step) in faults.iter().flat_map(|fault| (1..12).map(move |step| (*fault, step))) {
        let house = House::with_three();
        let before = house.open();
        drop(before);
        let base = {
            let counting = Faulty::counting();
            drop(house.open_on(Arc::new(counting.clone())).unwrap());
            counting.count()
        };
        let catalog = house.open_on(Arc::new(Faulty::at(base + step, fault))).unwrap();
        let changed = catalog.put(&deployment("a", "bea")).is_ok();
        drop(catalog);
        let catalog = house.open();
        let by = catalog.get::<Deployment>("a").unwrap().deployed_by;
        assert!(by == "bea" || (by == "ann" && !changed), "{fault:?} at {step}: {by}, {changed}");
        assert!(catalog.damaged().is_empty(), "{fault:?} at {step}");
        assert_eq!(ids(&catalog), ["a", "b", "c"]);
    }
}

#[test]
fn neither_files_nor_index_hold_an_entrys_words() {
    let house = House::new();
    let catalog = house.open();
    catalog.create(&deployment("a", "CANARY-7f3a")).unwrap();
    drop(catalog);
    let files = house.index_files().into_iter().chain([house.file("a")]);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"CANARY-7f3a"), "{}", file.display());
    }
}
