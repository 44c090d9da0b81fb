//! Opens objects: in order from a pipe, or anywhere in a file.

use super::{
    Cipher, FloeError, HEADER_LENGTH, NONCE_LENGTH, NOT_LAST, ROTATION_BITS, SEGMENT_OVERHEAD,
    length_field,
};
use crate::secret::Key;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use zeroize::Zeroizing;

const PAYLOAD_START: usize = 4 + NONCE_LENGTH;

/// Decrypts a stream in order, holding one segment. The end is only reported once the last
/// segment has verified and nothing follows it.
pub struct SegmentReader<R> {
    inner: R,
    cipher: Cipher,
    position: u64,
    segment: Zeroizing<Vec<u8>>,
    /// Verified plaintext in `segment` that was not handed out yet.
    ready: Range<usize>,
    done: bool,
}

impl<R: Read> SegmentReader<R> {
    /// Reads and verifies the header.
    ///
    /// # Errors
    /// `Header` for another key or other associated data, `Parameters`, `Truncated`, `Io`.
    pub fn new(inner: R, key: &Key, aad: &[u8]) -> Result<Self, FloeError> {
        Self::with_rotation(inner, key, aad, ROTATION_BITS)
    }

    pub(super) fn with_rotation(
        mut inner: R,
        key: &Key,
        aad: &[u8],
        rotation_bits: u32,
    ) -> Result<Self, FloeError> {
        let cipher = read_header(&mut inner, key, aad, rotation_bits)?;
        let segment = Zeroizing::new(vec![0; cipher.parameters.segment_length()]);
        Ok(Self { inner, cipher, position: 0, segment, ready: 0..0, done: false })
    }

    fn next_segment(&mut self) -> Result<(), FloeError> {
        let position = self.position;
        let full = self.segment.len();
        let count = read_full(&mut self.inner, &mut self.segment)?;
        if count < SEGMENT_OVERHEAD {
            return Err(FloeError::Truncated { position });
        }
        let length = length_field(&self.segment);
        let last = length != NOT_LAST;
        match (last, length as usize) {
            (false, _) if count < full => return Err(FloeError::Truncated { position }),
            (true, length) if length > count => return Err(FloeError::Truncated { position }),
            (true, length) if length < count => return Err(FloeError::Trailing),
            _ => {}
        }
        let opened = self.cipher.open(position, last, &mut self.segment[..count])?.len();
        if last && read_full(&mut self.inner, &mut [0])? != 0 {
            return Err(FloeError::Trailing);
        }
        self.ready = PAYLOAD_START..PAYLOAD_START + opened;
        self.position += 1;
        self.done = last;
        Ok(())
    }
}

impl<R: Read> Read for SegmentReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() && !self.done && !out.is_empty() {
            self.next_segment()?;
        }
        let count = out.len().min(self.ready.len());
        let start = self.ready.start;
        out[..count].copy_from_slice(&self.segment[start..start + count]);
        self.ready.start += count;
        Ok(count)
    }
}

/// Decrypts any part of a file. The last segment is verified when the object is opened, so the
/// length is authentic from the start and a truncated file never opens.
pub struct RandomReader<R> {
    inner: R,
    cipher: Cipher,
    segments: u64,
    /// Encrypted length of the last segment.
    last_length: usize,
    plaintext_length: u64,
    /// Where the next read starts, in plaintext.
    cursor: u64,
    /// Which segment lies verified in `segment`.
    loaded: Option<u64>,
    segment: Zeroizing<Vec<u8>>,
}

impl<R: Read + Seek> RandomReader<R> {
    /// Verifies the header and the last segment.
    ///
    /// # Errors
    /// As [`SegmentReader::new`], and `Segment` or `Truncated` for the last segment.
    pub fn new(mut inner: R, key: &Key, aad: &[u8]) -> Result<Self, FloeError> {
        let total = inner.seek(SeekFrom::End(0))?;
        inner.seek(SeekFrom::Start(0))?;
        let cipher = read_header(&mut inner, key, aad, ROTATION_BITS)?;
        let full = cipher.parameters.segment_length() as u64;
        let body = total.saturating_sub(HEADER_LENGTH as u64);
        let segments = body.div_ceil(full);
        let Some(last) = segments.checked_sub(1) else {
            return Err(FloeError::Truncated { position: 0 });
        };
        let last_length = (body - last * full) as usize;
        if last_length < SEGMENT_OVERHEAD {
            return Err(FloeError::Truncated { position: last });
        }
        let payload = cipher.parameters.payload_length() as u64;
        let plaintext_length = last * payload + (last_length - SEGMENT_OVERHEAD) as u64;
        let segment = Zeroizing::new(vec![0; full as usize]);
        let mut reader = Self {
            inner,
            cipher,
            segments,
            last_length,
            plaintext_length,
            cursor: 0,
            loaded: None,
            segment,
        };
        reader.load(last)?;
        Ok(reader)
    }

    /// The object's length in plaintext bytes; authentic.
    pub fn plaintext_length(&self) -> u64 {
        self.plaintext_length
    }

    /// Verified plaintext of the segment at `position`.
    ///
    /// # Errors
    /// `Segment` when it does not verify, `Truncated` past the last one.
    pub fn segment(&mut self, position: u64) -> Result<&[u8], FloeError> {
        if position >= self.segments {
            return Err(FloeError::Truncated { position });
        }
        self.load(position)?;
        let length = self.encrypted_length(position) - SEGMENT_OVERHEAD;
        Ok(&self.segment[PAYLOAD_START..PAYLOAD_START + length])
    }

    fn encrypted_length(&self, position: u64) -> usize {
        if position + 1 == self.segments { self.last_length } else { self.segment.len() }
    }

    fn load(&mut self, position: u64) -> Result<(), FloeError> {
        if self.loaded == Some(position) {
            return Ok(());
        }
        self.loaded = None; // what a failed load leaves in the buffer is not verified
        let start = HEADER_LENGTH as u64 + position * self.segment.len() as u64;
        let length = self.encrypted_length(position);
        self.inner.seek(SeekFrom::Start(start))?;
        let segment = &mut self.segment[..length];
        if read_full(&mut self.inner, segment)? != length {
            return Err(FloeError::Truncated { position });
        }
        self.cipher.open(position, position + 1 == self.segments, segment)?;
        self.loaded = Some(position);
        Ok(())
    }
}

impl<R: Read + Seek> Read for RandomReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.cursor >= self.plaintext_length || out.is_empty() {
            return Ok(0);
        }
        let payload = self.cipher.parameters.payload_length() as u64;
        let offset = (self.cursor % payload) as usize;
        let plaintext = self.segment(self.cursor / payload)?;
        let count = out.len().min(plaintext.len() - offset);
        out[..count].copy_from_slice(&plaintext[offset..offset + count]);
        self.cursor += count as u64;
        Ok(count)
    }
}

impl<R: Read + Seek> Seek for RandomReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(offset) => {
                self.cursor = offset;
                return Ok(offset);
            }
            SeekFrom::End(offset) => (self.plaintext_length, offset),
            SeekFrom::Current(offset) => (self.cursor, offset),
        };
        self.cursor =
            base.checked_add_signed(offset).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.cursor)
    }
}

fn read_header(
    inner: &mut impl Read,
    key: &Key,
    aad: &[u8],
    rotation_bits: u32,
) -> Result<Cipher, FloeError> {
    let mut header = [0; HEADER_LENGTH];
    if read_full(inner, &mut header)? != HEADER_LENGTH {
        return Err(FloeError::Truncated { position: 0 });
    }
    Cipher::start_decryption(key, aad, &header, rotation_bits)
}

/// Reads until `out` is full or the input ends; returns the count.
fn read_full(inner: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match inner.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
impl<R> SegmentReader<R> {
    pub(super) fn cipher_segment_length(&self) -> usize {
        self.segment.len()
    }
}
