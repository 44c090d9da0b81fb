//! Looks for a text in every byte of a folder: how tests and the demo prove that no record reached a disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes read at a time; the end of each piece is kept, so that a text across two pieces is found.
const PIECE: usize = 1 << 20;

/// Files below the folder, or the file itself, that hold the text in content or in name.
///
/// What cannot be read is passed over: sockets, and what belongs to others or goes away meanwhile.
pub(crate) fn files_with(text: &str, place: &Path) -> Vec<PathBuf> {
    files_with_since(text, place, SystemTime::UNIX_EPOCH)
}

/// The same, among files changed at that time or later.
pub(crate) fn files_with_since(text: &str, place: &Path, since: SystemTime) -> Vec<PathBuf> {
    let mut found = Vec::new();
    visit(place, &mut |path, metadata| {
        // Names count whatever their age: a name can leak a record as well as content can.
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().contains(text));
        let recent = metadata.modified().is_ok_and(|changed| changed >= since);
        if named || (recent && metadata.is_file() && contains(path, text.as_bytes())) {
            found.push(path.to_path_buf());
        }
    });
    found
}

/// How many files the folder holds: a search that looked at nothing proves nothing.
pub(crate) fn count_files(place: &Path) -> usize {
    let mut count = 0;
    visit(place, &mut |_, metadata| count += usize::from(metadata.is_file()));
    count
}

fn visit(path: &Path, seen: &mut impl FnMut(&Path, &fs::Metadata)) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    seen(path, &metadata);
    if metadata.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| visit(&entry.path(), seen));
    }
}

fn contains(path: &Path, needle: &[u8]) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut window = Vec::with_capacity(PIECE + needle.len());
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = file.read(&mut piece) {
        window.extend_from_slice(&piece[..count]);
        if window.windows(needle.len()).any(|part| part == needle) {
            return true;
        }
        let kept = window.len().min(needle.len().saturating_sub(1));
        window.drain(..window.len() - kept);
    }
    false
}
