//! The log against an attacker with the disk, and against a disk that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use cloister_vault::{Argon2Cost, Disk, Fault, Faulty, RootSource, Storage, Vault};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

fn source() -> RootSource {
    let passphrase = Zeroizing::new("correct horse".to_owned());
    RootSource::Passphrase { passphrase, cost: Argon2Cost::for_tests() }
}

fn vault(storage: Arc<dyn Storage>, dir: &Path) -> Result<Vault, VaultError> {
    Vault::open(storage, dir, &source())
}

fn now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000) + Duration::seconds(seconds)
}

fn act(object: &str, routine: bool) -> Act {
    Act { principal: "ada".into(), action: "dataset.import".into(), object: object.into(), routine }
}

/// A folder in memory where there is one: these tests sync thousands of times.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn fresh(dir: &Path) -> AuditLog {
    let vault = Vault::create(Arc::new(Disk), dir, &source()).unwrap();
    AuditLog::create(&vault, now(0)).unwrap()
}

fn reopen(dir: &Path) -> Result<AuditLog, AuditError> {
    AuditLog::open(&vault(Arc::new(Disk), dir).unwrap(), now(1_000))
}

/// A log of 1 + 2 × `acts` + 1 records.
fn filled(dir: &Path, acts: usize, routine: bool) -> VerifyingKey {
    let log = fresh(dir);
    for it in 0..acts {
        let intent = log.intent(now(it as i64), act(&format!("dataset/{it}"), routine), Details::new()).unwrap();
        intent.outcome(now(it as i64), Outcome::Ok, Details::new()).unwrap();
    }
    log.close(now(900)).unwrap();
    log.public_key()
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join("audit").join(name)
}

fn lines(dir: &Path) -> Vec<String> {
    fs::read_to_string(path(dir, "log.jsonl")).unwrap().lines().map(str::to_owned).collect()
}

fn put_lines(dir: &Path, lines: &[String]) {
    fs::write(path(dir, "log.jsonl"), lines.join("\n") + "\n").unwrap();
}

fn check(dir: &Path, key: &VerifyingKey) -> Result<Report, FirstBad> {
    verify(&dir.join("audit"), key, None)
}

#[test]
fn a_sound_log_verifies_and_goes_on_after_a_restart() {
    let dir = folder();
    let key = filled(dir.path(), 3, false);
    let report = check(dir.path(), &key).unwrap();
    assert_eq!((report.records, report.open_intents.len()), (8, 0));
    assert!(report.checkpoints >= 3);
    let log = reopen(dir.path()).unwrap();
    let tail = log.tail(2).unwrap();
    assert_eq!(tail.iter().map(|it| it.action.as_str()).collect::<Vec<_>>(), ["audit.close", "audit.open"]);
    let mut out = Vec::new();
    assert_eq!(log.export(2..=3, &mut out).unwrap(), 2);
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2);
    let again = check(dir.path(), &key).unwrap();
    assert_eq!((again.records, again.head.clone()), (9, log.head()));
    // A copy of an older head still fits, a copy of a newer one tells that the log went back.
    assert!(verify(&dir.path().join("audit"), &key, Some(&report.head)).is_ok());
    let newer = Head { size: 10, ..again.head };
    assert_eq!(verify(&dir.path().join("audit"), &key, Some(&newer)).unwrap_err().sequence, 10);
    let forged = Head { root: "00".repeat(32), ..report.head };
    assert!(verify(&dir.path().join("audit"), &key, Some(&forged)).is_err());
}

#[test]
fn the_public_key_file_is_what_verifies() {
    let dir = folder();
    let key = filled(dir.path(), 1, false);
    let text = fs::read_to_string(path(dir.path(), "public-key")).unwrap();
    assert_eq!(text.parse::<VerifyingKey>().unwrap(), key);
    assert!("cloister+00000000+AA==".parse::<VerifyingKey>().is_err());
    let other = filled(folder().path(), 1, false);
    assert!(check(dir.path(), &other).is_err());
}

/// Tampers with the lines of a log of 42 records, and says which record must be named.
fn tampered(change: impl Fn(&mut Vec<String>)) -> FirstBad {
    let dir = folder();
    let key = filled(dir.path(), 20, true);
    let mut all = lines(dir.path());
    assert_eq!(all.len(), 42);
    change(&mut all);
    put_lines(dir.path(), &all);
    let bad = check(dir.path(), &key).unwrap_err();
    assert_eq!(bad.file, "log.jsonl");
    assert!(matches!(reopen(dir.path()), Err(AuditError::Tampered(same)) if same == bad));
    bad
}

#[test]
fn an_altered_record_is_named() {
    for target in [0, 1, 16, 39, 40, 41] {
        let bad = tampered(|all| all[target] = all[target].replacen("audit", "audiT", 1).replacen("ada", "bob", 1));
        assert_eq!((bad.sequence, bad.line), (target as u64 + 1, target as u64 + 1), "{bad}");
    }
}

#[test]
fn an_altered_link_is_named_and_not_the_record_before_it() {
    for target in [0, 1, 16, 40, 41] {
        let bad = tampered(|all| {
            let start = all[target].find("previous").unwrap() + 11;
            let digit = if &all[target][start..=start] == "0" { "1" } else { "0" };
            all[target].replace_range(start..=start, digit);
        });
        assert_eq!(bad.sequence, target as u64 + 1, "{bad}");
    }
}

#[test]
fn removed_inserted_moved_and_cut_records_are_named() {
    let removed = tampered(|all| drop(all.remove(16)));
    assert_eq!(removed.sequence, 17, "{removed}");
    let inserted = tampered(|all| {
        // As good as an intruder without the key can make it: right number, right link.
        let forged = all[16].replacen("ada", "bob", 1);
        all.insert(16, forged);
    });
    assert_eq!((inserted.sequence, inserted.line), (17, 17), "{inserted}");
    let swapped = tampered(|all| all.swap(16, 17));
    assert_eq!(swapped.sequence, 17, "{swapped}");
    let repeated = tampered(|all| all.insert(30, all[5].clone()));
    assert_eq!(repeated.sequence, 31, "{repeated}");
    let cut = tampered(|all| all.truncate(40));
    assert_eq!(cut.sequence, 41, "{cut}");
    let emptied = tampered(Vec::clear);
    assert_eq!(emptied.sequence, 1, "{emptied}");
    let added = tampered(|all| all.extend([all[40].clone(), all[41].clone()]));
    assert_eq!(added.sequence, 43, "{added}");
}

#[test]
fn a_record_cut_off_in_its_middle_is_named() {
    let dir = folder();
    let key = filled(dir.path(), 5, true);
    let file = path(dir.path(), "log.jsonl");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    let bad = check(dir.path(), &key).unwrap_err();
    assert_eq!(bad.sequence, 12, "{bad}");
    assert!(matches!(reopen(dir.path()), Err(AuditError::Tampered(_))));
}

/// An attacker who rewrites everything after a record cannot sign it.
#[test]
fn a_log_whose_chain_was_made_again_is_found_by_its_checkpoints() {
    let dir = folder();
    let key = filled(dir.path(), 50, true);
    let mut all = lines(dir.path());
    all[80] = all[80].replacen("ada", "bob", 1);
    for it in 81..all.len() {
        let mut record = Record::parse(all[it].as_bytes()).unwrap();
        record.previous = cloister_vault::hex::encode(record::hash(all[it - 1].as_bytes()));
        all[it] = String::from_utf8(record.to_line().unwrap()).unwrap();
    }
    put_lines(dir.path(), &all);
    let bad = check(dir.path(), &key).unwrap_err();
    assert_eq!(bad.sequence, 65, "the first after the last good checkpoint: {bad}");
}

#[test]
fn missing_forged_and_moved_checkpoints_are_found() {
    let cases: [fn(&str) -> String; 5] = [
        |text| text.split_inclusive("\n\u{2014}").skip(1).collect(), // the first is gone
        |text| text[..text.len() - 40].to_owned(),                   // the last is cut off
        |_| String::new(),
        |text| text.replacen("\n2\n", "\n3\n", 1).replacen("time 2", "time 1", 1),
        |text| format!("{text}{text}"),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let dir = folder();
        let key = filled(dir.path(), 3, false);
        let file = path(dir.path(), "checkpoints");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, change(&text)).unwrap();
        let bad = check(dir.path(), &key).unwrap_err();
        assert_eq!(bad.file, "checkpoints", "case {number}: {bad}");
    }
    let dir = folder();
    let key = filled(dir.path(), 3, false);
    fs::remove_file(path(dir.path(), "checkpoints")).unwrap();
    assert!(check(dir.path(), &key).is_err());
    fs::remove_file(path(dir.path(), "head")).unwrap();
    assert_eq!(check(dir.path(), &key).unwrap_err().file, "head");
}

#[test]
fn one_record_is_proved_without_the_others() {
    let dir = folder();
    let key = filled(dir.path(), 10, true);
    let log = reopen(dir.path()).unwrap();
    for sequence in 1..=log.head().size {
        let proof = log.prove(sequence).unwrap();
        assert_eq!(proof.verify(&key).unwrap().sequence, sequence);
        let forged = Proof { record: proof.record.replacen("audit", "audiT", 1).replacen("ada", "bob", 1), ..proof };
        assert!(forged.verify(&key).is_err());
    }
    assert!(matches!(log.prove(0), Err(AuditError::NoRecord(0))));
    assert!(matches!(log.prove(100), Err(AuditError::NoRecord(100))));
}

#[test]
fn an_intent_without_outcome_is_closed_as_interrupted() {
    let dir = folder();
    let log = fresh(dir.path());
    let dropped = log.intent(now(1), act("a", false), Details::new()).unwrap();
    let dropped_sequence = dropped.sequence();
    drop(dropped);
    let killed = log.intent(now(2), act("b", false), Details::new()).unwrap();
    let killed_sequence = killed.sequence();
    std::mem::forget(killed); // as a killed daemon would
    drop(log);
    let log = reopen(dir.path()).unwrap();
    let interrupted: Vec<_> = log
        .tail(100)
        .unwrap()
        .into_iter()
        .filter(|it| it.outcome == Some(Outcome::Interrupted))
        .filter_map(|it| it.intent)
        .collect();
    assert_eq!(interrupted, [dropped_sequence, killed_sequence]);
    assert!(check(dir.path(), &log.public_key()).unwrap().open_intents.is_empty());
}

#[test]
fn a_clock_that_goes_back_does_not_reorder_the_log() {
    let dir = folder();
    let log = fresh(dir.path());
    let intent = log.intent(now(50), act("a", true), Details::new()).unwrap();
    intent.outcome(now(-50), Outcome::Denied { rule: "no-phi".into() }, Details::new()).unwrap();
    let tail = log.tail(2).unwrap();
    assert_eq!(tail[0].time, tail[1].time);
    check(dir.path(), &log.public_key()).unwrap();
}

#[test]
fn what_a_crash_left_at_the_end_is_removed_and_said() {
    let dir = folder();
    let key = filled(dir.path(), 3, true);
    let file = path(dir.path(), "log.jsonl");
    let sound = fs::read(&file).unwrap();
    for tail in [&b"{\"sequence\":9,\"ti"[..], b"\0\0\0\0", b"{\"sequence\":9}\n"] {
        fs::write(&file, [&sound[..], tail].concat()).unwrap();
        assert_eq!(check(dir.path(), &key).unwrap().unacknowledged_bytes, tail.len() as u64);
    }
    let log = reopen(dir.path()).unwrap();
    let repair = &log.tail(2).unwrap()[0];
    assert_eq!(repair.action, "audit.repair");
    assert_eq!(repair.details["unacknowledged_bytes_removed"], 15);
    assert_eq!(check(dir.path(), &key).unwrap().unacknowledged_bytes, 0);
}

#[test]
fn a_log_that_is_removed_or_cut_while_it_is_open_takes_no_further_record() {
    for spoil in [fs::remove_file as fn(PathBuf) -> std::io::Result<()>, |file| fs::write(file, "")] {
        let dir = folder();
        let log = fresh(dir.path());
        spoil(path(dir.path(), "log.jsonl")).unwrap();
        let refused = log.intent(now(1), act("dataset/1", true), Details::new());
        assert!(matches!(refused, Err(AuditError::NotRecorded(_))), "{refused:?}");
        assert!(matches!(reopen(dir.path()), Err(AuditError::Tampered(_))));
    }
}

#[test]
fn a_second_log_and_a_missing_one_are_refused() {
    let dir = folder();
    filled(dir.path(), 1, true);
    let vault = vault(Arc::new(Disk), dir.path()).unwrap();
    assert!(matches!(AuditLog::create(&vault, now(0)), Err(AuditError::Exists(_))));
    fs::remove_file(path(dir.path(), "log.jsonl")).unwrap();
    assert!(matches!(AuditLog::open(&vault, now(0)), Err(AuditError::Tampered(_))));
    fs::remove_file(path(dir.path(), "signing-key")).unwrap();
    assert!(matches!(AuditLog::open(&vault, now(0)), Err(AuditError::Missing(_))));
}

#[test]
fn a_full_disk_refuses_the_act_and_room_brings_the_log_back() {
    let dir = folder();
    let key = filled(dir.path(), 1, true);
    let ballast = dir.path().join("ballast");
    let storage = Arc::new(Faulty::with_room(30_000));
    cloister_vault::write_atomic(&*storage, &ballast, &[0; 20_000]).unwrap();
    let log = AuditLog::open(&vault(storage.clone(), dir.path()).unwrap(), now(1_000)).unwrap();
    let mut acts = 0;
    let error = loop {
        match log.intent(now(1_000), act("a", false), Details::new()) {
            Ok(intent) => drop(intent.outcome(now(1_000), Outcome::Ok, Details::new())),
            Err(error) => break error,
        }
        acts += 1;
        assert!(acts < 100);
    };
    assert!(matches!(&error, AuditError::NotRecorded(source) if source.is_no_room()), "{error}");
    check(dir.path(), &key).unwrap();
    storage.remove(&ballast).unwrap();
    let intent = log.intent(now(1_001), act("b", false), Details::new()).unwrap();
    intent.outcome(now(1_001), Outcome::Ok, Details::new()).unwrap();
    assert!(check(dir.path(), &key).unwrap().open_intents.is_empty());
}

/// Opens, records two acts and closes; returns the intents that were acknowledged.
fn scenario(storage: Arc<Faulty>, dir: &Path, told: &mut Vec<u64>) -> Result<(), AuditError> {
    let log = AuditLog::open(&vault(storage, dir)?, now(1_000))?;
    for it in 0..2 {
        let intent = log.intent(now(1_001 + it), act("a", it == 0), Details::new())?;
        told.push(intent.sequence());
        told.push(intent.outcome(now(1_001 + it), Outcome::Ok, Details::new())?);
    }
    log.close(now(1_010))
}

#[test]
fn a_fault_at_any_operation_loses_no_acknowledged_record() {
    let run = |storage: Arc<Faulty>, case: &str| {
        let dir = folder();
        let key = filled(dir.path(), 2, true);
        let mut told = Vec::new();
        let done = scenario(storage, dir.path(), &mut told);
        let case = format!("{case}: {done:?}");
        let before = check(dir.path(), &key).unwrap_or_else(|bad| panic!("{case}: {bad}"));
        assert!(told.iter().all(|sequence| *sequence <= before.records), "{case}");
        let log = reopen(dir.path()).unwrap_or_else(|error| panic!("{case}: {error}"));
        let report = check(dir.path(), &key).unwrap();
        assert!(report.records > before.records && report.open_intents.is_empty(), "{case}");
        assert_eq!((report.head, report.unacknowledged_bytes), (log.head(), 0), "{case}");
    };
    let counting = Arc::new(Faulty::counting());
    run(counting.clone(), "none");
    let count = counting.count();
    assert!(count > 30, "{count}");
    for fault in [Fault::Error, Fault::Full, Fault::ShortWrite, Fault::Crash, Fault::Kill] {
        for at in 1..=count {
            run(Arc::new(Faulty::at(at, fault)), &format!("{fault:?} at {at}"));
        }
    }
}

/// After an error the same log must go on, once the disk does.
#[test]
fn a_passing_fault_at_any_operation_does_not_stop_the_log() {
    for at in 1..80 {
        let dir = folder();
        let key = filled(dir.path(), 1, true);
        let vault = vault(Arc::new(Faulty::at(at, Fault::Error)), dir.path());
        let Ok(log) = vault.map_err(AuditError::from).and_then(|vault| AuditLog::open(&vault, now(1_000))) else {
            continue;
        };
        for it in 0..4 {
            if let Ok(intent) = log.intent(now(1_001), act("a", it % 2 == 0), Details::new()) {
                drop(intent.outcome(now(1_001), Outcome::Ok, Details::new()));
            }
        }
        log.close(now(1_002)).or_else(|_| log.close(now(1_003))).unwrap();
        let report = check(dir.path(), &key).unwrap_or_else(|bad| panic!("{at}: {bad}"));
        assert_eq!((report.open_intents.len(), report.unacknowledged_bytes), (0, 0), "{at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_flipped_bit_in_any_file_is_found(acts in 1usize..6, places in proptest::collection::vec((any::<usize>(), 0u8..8), 20)) {
        let dir = folder();
        let key = filled(dir.path(), acts, acts % 2 == 0);
        for name in ["log.jsonl", "checkpoints", "head"] {
            let sound = fs::read(path(dir.path(), name)).unwrap();
            for (place, bit) in &places {
                let mut bytes = sound.clone();
                let place = place % bytes.len();
                bytes[place] ^= 1 << bit;
                fs::write(path(dir.path(), name), &bytes).unwrap();
                let line = 1 + sound[..place].iter().filter(|byte| **byte == b'\n').count() as u64;
                match check(dir.path(), &key) {
                    Ok(_) => prop_assert!(false, "bit {} of byte {} of {} was not found", bit, place, name),
                    Err(bad) if name == "log.jsonl" => prop_assert_eq!(bad.sequence, line, "{}", bad),
                    Err(bad) => prop_assert_eq!(bad.file.as_str(), name),
                }
            }
            fs::write(path(dir.path(), name), &sound).unwrap();
        }
        prop_assert!(check(dir.path(), &key).is_ok());
    }
}
