//! Seals a stream of unknown length, one segment of memory at a time.

use super::{Cipher, FloeError, NONCE_LENGTH, Parameters, TAG_LENGTH};
use crate::secret::Key;
use std::io::{self, Write};
use zeroize::Zeroizing;

const PAYLOAD_START: usize = 4 + NONCE_LENGTH;

/// Encrypts what is written to it into `inner`. Nothing is complete before [`finish`].
///
/// [`finish`]: SegmentWriter::finish
pub struct SegmentWriter<W> {
    inner: W,
    cipher: Cipher,
    position: u64,
    /// One segment, laid out as it goes to disk; sealed in place. Zeroed when dropped.
    segment: Zeroizing<Vec<u8>>,
    /// Plaintext bytes waiting in `segment`.
    filled: usize,
    /// A failed write leaves half a segment behind: nothing may follow it.
    failed: bool,
}

impl<W: Write> SegmentWriter<W> {
    /// Writes the header. `aad` is what the object is bound to: its name, kind, owner.
    ///
    /// # Errors
    /// `Io` when the header cannot be written, `Random` without random bytes.
    pub fn new(
        mut inner: W,
        key: &Key,
        aad: &[u8],
        parameters: Parameters,
    ) -> Result<Self, FloeError> {
        let (cipher, header) = Cipher::start_encryption(key, aad, parameters)?;
        inner.write_all(&header)?;
        Ok(Self {
            inner,
            cipher,
            position: 0,
            segment: Zeroizing::new(vec![0; parameters.segment_length()]),
            filled: 0,
            failed: false,
        })
    }

    /// Seals the last segment and returns what was written to, for its owner to sync.
    ///
    /// # Errors
    /// `Io` when this or an earlier write failed; the object is then unusable.
    pub fn finish(mut self) -> Result<W, FloeError> {
        self.seal(true)?;
        Ok(self.inner)
    }

    fn seal(&mut self, last: bool) -> Result<(), FloeError> {
        if self.failed {
            return Err(io::Error::other("an earlier write to this object failed").into());
        }
        self.failed = true; // until the whole segment is out
        let segment = &mut self.segment[..PAYLOAD_START + self.filled + TAG_LENGTH];
        self.cipher.seal(self.position, last, segment)?;
        self.inner.write_all(segment)?;
        self.failed = false;
        self.position += 1;
        self.filled = 0;
        Ok(())
    }
}

impl<W: Write> Write for SegmentWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let payload = self.cipher.parameters.payload_length();
        if bytes.is_empty() {
            return Ok(0);
        }
        // A full segment waits until more comes: only then is it known not to be the last.
        if self.filled == payload {
            self.seal(false)?;
        }
        let count = bytes.len().min(payload - self.filled);
        let start = PAYLOAD_START + self.filled;
        self.segment[start..start + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        Ok(count)
    }

    /// Does not flush half a segment: the format only has whole ones.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
