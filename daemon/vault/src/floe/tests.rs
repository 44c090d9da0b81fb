//! Known answers of three other implementations, and what an attacker may try.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};

const AAD: &[u8] = b"This is AAD";
/// (file stem, encrypted segment length, rotation bits)
const VECTORS: [(&str, u32, u32); 10] = [
    ("cpp_GCM256_IV256_64", 64, 20),
    ("cpp_rotation", 40, 2),
    ("go_GCM256_IV256_4K", 4096, 20),
    ("go_GCM256_IV256_64", 64, 20),
    ("go_rotation", 40, 2),
    ("java_GCM256_IV256_4K", 4096, 20),
    ("java_GCM256_IV256_64", 64, 20),
    ("java_lastSegAligned", 40, 20),
    ("java_lastSegEmpty", 40, 20),
    ("java_rotation", 40, 2),
];

fn key() -> Key {
    Key::from_bytes([0; 32])
}

fn vector(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/floe");
    let text = std::fs::read_to_string(format!("{folder}/{name}.txt")).unwrap();
    crate::hex::decode(text.trim()).unwrap()
}

fn seal(plaintext: &[u8], segment_length: u32) -> Vec<u8> {
    let parameters = Parameters::new(segment_length).unwrap();
    let mut writer = SegmentWriter::new(Vec::new(), &key(), AAD, parameters).unwrap();
    writer.write_all(plaintext).unwrap();
    writer.finish().unwrap()
}

fn open(sealed: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    SegmentReader::new(sealed, &key(), AAD)?.read_to_end(&mut out)?;
    Ok(out)
}

fn open_random(sealed: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    RandomReader::new(Cursor::new(sealed), &key(), AAD)?.read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn known_answers_of_go_java_and_cpp_open() {
    for (name, length, rotation) in VECTORS {
        let sealed = vector(&format!("{name}_ct"));
        let mut reader = SegmentReader::with_rotation(&sealed[..], &key(), AAD, rotation).unwrap();
        assert_eq!(reader.cipher_segment_length(), length as usize, "{name}");
        let mut out = Vec::new();
        reader.read_to_end(&mut out).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(out, vector(&format!("{name}_pt")), "{name}");
        if rotation == ROTATION_BITS {
            assert_eq!(open_random(&sealed).unwrap(), out, "{name}");
        }
    }
}

#[test]
fn every_way_of_cutting_extending_or_reordering_is_found() {
    let plaintext: Vec<u8> = (0..100).collect();
    let sealed = seal(&plaintext, 64);
    assert_eq!(open(&sealed).unwrap(), plaintext);
    for length in 0..sealed.len() {
        assert!(open(&sealed[..length]).is_err(), "cut to {length}");
        assert!(open_random(&sealed[..length]).is_err(), "cut to {length}");
    }
    for extra in [1, 32, 64] {
        let longer = [&sealed[..], &vec![0; extra]].concat();
        assert!(open(&longer).is_err() && open_random(&longer).is_err(), "extended by {extra}");
    }
    let (header, body) = sealed.split_at(HEADER_LENGTH);
    let swapped = [header, &body[64..128], &body[..64], &body[128..]].concat();
    assert!(open(&swapped).is_err() && open_random(&swapped).is_err());
    let dropped = [header, &body[64..]].concat();
    assert!(open(&dropped).is_err() && open_random(&dropped).is_err());
}

#[test]
fn another_key_or_other_associated_data_opens_nothing() {
    let sealed = seal(b"a record", 64);
    assert!(matches!(
        SegmentReader::new(&sealed[..], &Key::from_bytes([1; 32]), AAD),
        Err(FloeError::Header)
    ));
    assert!(matches!(SegmentReader::new(&sealed[..], &key(), b"other"), Err(FloeError::Header)));
}

#[test]
fn writing_after_a_failed_write_is_refused() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.len() == HEADER_LENGTH { Ok(bytes.len()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let parameters = Parameters::new(64).unwrap();
    let mut writer = SegmentWriter::new(Full, &key(), AAD, parameters).unwrap();
    assert_eq!(writer.write_all(&[0; 100]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(writer.finish().is_err());
}

proptest! {
    #[test]
    fn what_was_sealed_opens(plaintext in proptest::collection::vec(any::<u8>(), 0..400), length in 33u32..200) {
        let sealed = seal(&plaintext, length);
        prop_assert_eq!(&open(&sealed).unwrap(), &plaintext);
        prop_assert_eq!(&open_random(&sealed).unwrap(), &plaintext);
    }

    #[test]
    fn any_part_reads_as_the_whole_does(
        plaintext in proptest::collection::vec(any::<u8>(), 1..400), from in 0usize..400, count in 0usize..400,
    ) {
        let sealed = seal(&plaintext, 48);
        let mut reader = RandomReader::new(Cursor::new(&sealed), &key(), AAD).unwrap();
        let from = from.min(plaintext.len());
        let count = count.min(plaintext.len() - from);
        reader.seek(SeekFrom::Start(from as u64)).unwrap();
        let mut out = vec![0; count];
        reader.read_exact(&mut out).unwrap();
        prop_assert_eq!(&out, &plaintext[from..from + count]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found(place in 0usize..1000, bit in 0u8..8) {
        let mut sealed = seal(&[7; 100], 64);
        let place = place % sealed.len();
        sealed[place] ^= 1 << bit;
        prop_assert!(open(&sealed).is_err());
        prop_assert!(open_random(&sealed).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(&bytes).is_err());
        prop_assert!(open_random(&bytes).is_err());
        // A good header before them, so that the segment parser is reached.
        let mut sealed = seal(b"", 64);
        sealed.truncate(HEADER_LENGTH);
        sealed.extend_from_slice(&bytes);
        prop_assert!(open(&sealed).is_err());
        prop_assert!(open_random(&sealed).is_err());
    }
}
