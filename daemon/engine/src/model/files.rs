//! The files of one model folder, as descriptors that the daemon opened. The engine itself may not open
//! anything, so a model reaches it as a map from file name to `File`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::ModelError;

/// Text files of a model (configuration, tokenizer) are small; more is refused before it is read.
const TEXT_LIMIT: u64 = 256 << 20;

/// A model folder as opened files: name → descriptor, read-only.
#[derive(Debug, Default)]
pub struct ModelFiles {
    files: BTreeMap<String, File>,
}

impl ModelFiles {
    /// Takes the descriptors of a folder's files, by name.
    pub fn new(files: impl IntoIterator<Item = (String, File)>) -> Self {
        ModelFiles { files: files.into_iter().collect() }
    }

    /// Opens every plain file of a folder; for tests and benches, which have no daemon to open for them.
    pub fn open_folder(folder: &Path) -> std::io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().is_file() {
                files.insert(entry.file_name().to_string_lossy().into_owned(), File::open(entry.path())?);
            }
        }
        Ok(ModelFiles { files })
    }

    /// The names there are, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether a file of this name was handed over.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The descriptor of a file.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.get(name)
    }

    /// A text file, if there is one of that name.
    pub fn text(&self, name: &str) -> Result<Option<String>, ModelError> {
        let Some(file) = self.files.get(name) else { return Ok(None) };
        let io = |source| ModelError::Io { file: name.to_owned(), source };
        let length = file_length(file).map_err(io)?;
        if length > TEXT_LIMIT {
            let error = std::io::Error::other(format!("{length} bytes are too many for a text file"));
            return Err(io(error));
        }
        let mut text = String::new();
        AtStart { file, position: 0 }.read_to_string(&mut text).map_err(io)?;
        Ok(Some(text))
    }

    /// A text file that has to be there.
    pub fn required_text(&self, name: &str, remedy: &'static str) -> Result<String, ModelError> {
        self.text(name)?.ok_or_else(|| ModelError::MissingFile { file: name.to_owned(), remedy })
    }
}

/// How long an opened file is, by `fstat`: the standard library asks `statx`, which takes a path as well and is
/// therefore denied to a confined engine.
pub(super) fn file_length(file: &File) -> std::io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0))
}

/// Reads by position, so that a descriptor shared with another process keeps its own offset.
struct AtStart<'a> {
    file: &'a File,
    position: u64,
}

impl Read for AtStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}
