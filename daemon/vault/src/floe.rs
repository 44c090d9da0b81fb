//! FLOE: one large object as a row of AES-256-GCM segments, each bound to its place.
//!
//! Why: a dataset or an adapter does not fit into one AEAD message, and a home-made chunking
//! scheme is where truncation and reordering attacks come in. FLOE is specified and proven
//! (<https://c2sp.org/FLOE>, <https://eprint.iacr.org/2025/2275>) and has known answers, which
//! the tests here check.
//!
//! What always holds: no byte of plaintext is handed out before its segment's tag was verified;
//! an object that was cut, extended, reordered or altered anywhere is an error; the header's tag
//! is verified before any length in the header is used. Layout:
//!
//! ```text
//! header   aead id 1 | kdf id 1 | segment length 4 | iv length 4 | iv 32 | tag 32
//! segment  0xFFFFFFFF, or the last segment's whole length, 4 | nonce 12 | ciphertext | tag 16
//! ```

mod reader;
mod writer;

#[cfg(test)]
mod tests;

use crate::secret::Key;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA384, KeyType, Prk};
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

pub use reader::{RandomReader, SegmentReader};
pub use writer::SegmentWriter;

/// Length of a FLOE header: 10 bytes of parameters, the IV, the header tag.
pub const HEADER_LENGTH: usize = 10 + IV_LENGTH + 32;
/// Bytes that each segment adds to its plaintext: length field, nonce, tag.
pub const SEGMENT_OVERHEAD: usize = 4 + NONCE_LENGTH + TAG_LENGTH;

const IV_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 12;
const TAG_LENGTH: usize = 16;
/// The specification's bound on the segments of one object for AES-256-GCM.
const MAX_SEGMENTS: u64 = 1 << 40;
/// `AEAD_ROTATION_MASK` of AES-256-GCM: a key seals at most 2^20 segments.
const ROTATION_BITS: u32 = 20;
/// Larger segments are refused on reading: a reader holds one in memory.
const MAX_SEGMENT_LENGTH: u32 = 1 << 26;
const NOT_LAST: u32 = u32::MAX;

/// Why an object could not be sealed or opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FloeError {
    /// The header names another cipher, IV length or an unusable segment length.
    #[error("the object is not a FLOE object of this version")]
    Parameters,
    /// The header tag does not match: another key, another name or owner, or an altered header.
    #[error("the object's header does not verify: it belongs to another key or name, or was altered")]
    Header,
    /// A segment does not verify.
    #[error("segment {position} of the object was altered or moved")]
    Segment {
        /// Which segment, from 0.
        position: u64,
    },
    /// The object ends before its last segment does.
    #[error("the object is cut off at segment {position}")]
    Truncated {
        /// Which segment, from 0.
        position: u64,
    },
    /// Something follows the last segment.
    #[error("the object goes on after its last segment")]
    Trailing,
    /// More than 2^40 segments.
    #[error("the object is too long for its segment length; use longer segments")]
    TooLong,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// Reading or writing failed underneath.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<FloeError> for io::Error {
    fn from(error: FloeError) -> Self {
        match error {
            FloeError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// What both sides of an object agree on. Only the segment length varies in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    segment_length: u32,
    /// A new AES key every `2^rotation_bits` segments; 20 but in the known answers.
    rotation_bits: u32,
}

impl Parameters {
    /// Objects whose encrypted segments are `segment_length` bytes.
    ///
    /// # Errors
    /// `Parameters` when a segment would hold nothing, or more than a reader accepts (64 MiB).
    pub fn new(segment_length: u32) -> Result<Self, FloeError> {
        if segment_length as usize <= SEGMENT_OVERHEAD || segment_length > MAX_SEGMENT_LENGTH {
            return Err(FloeError::Parameters);
        }
        Ok(Self { segment_length, rotation_bits: ROTATION_BITS })
    }

    /// The encrypted length of every segment but the last.
    pub fn segment_length(self) -> usize {
        self.segment_length as usize
    }

    /// Plaintext bytes in every segment but the last.
    pub fn payload_length(self) -> usize {
        self.segment_length() - SEGMENT_OVERHEAD
    }

    /// `PARAM_ENCODE` of the specification.
    fn encode(self) -> [u8; 10] {
        let mut out = [0; 10]; // AEAD_ID 0 = AES-256-GCM, KDF_ID 0 = HKDF-Expand-SHA-384
        out[2..6].copy_from_slice(&self.segment_length.to_be_bytes());
        out[6..].copy_from_slice(&(IV_LENGTH as u32).to_be_bytes());
        out
    }
}

/// The state that `startEncryption` and `startDecryption` of the specification make.
struct Cipher {
    parameters: Parameters,
    iv: [u8; IV_LENGTH],
    aad: Vec<u8>,
    message_key: Prk,
    /// The AES key in use and the first segment of the run it serves.
    segment_key: Option<(u64, LessSafeKey)>,
}

impl Cipher {
    fn start_encryption(
        key: &Key,
        aad: &[u8],
        parameters: Parameters,
    ) -> Result<(Self, [u8; HEADER_LENGTH]), FloeError> {
        let iv = random()?;
        let (cipher, tag) = Self::derive(key, iv, aad, parameters)?;
        let mut header = [0; HEADER_LENGTH];
        header[..10].copy_from_slice(&parameters.encode());
        header[10..10 + IV_LENGTH].copy_from_slice(&iv);
        header[10 + IV_LENGTH..].copy_from_slice(&tag);
        Ok((cipher, header))
    }

    fn start_decryption(
        key: &Key,
        aad: &[u8],
        header: &[u8; HEADER_LENGTH],
        rotation_bits: u32,
    ) -> Result<Self, FloeError> {
        let (encoded, rest) = header.split_at(10);
        let (iv, tag) = rest.split_at(IV_LENGTH);
        let length = [encoded[2], encoded[3], encoded[4], encoded[5]];
        let mut parameters = Parameters::new(u32::from_be_bytes(length))?;
        parameters.rotation_bits = rotation_bits;
        if encoded != parameters.encode() {
            return Err(FloeError::Parameters);
        }
        let iv: [u8; IV_LENGTH] = iv.try_into().map_err(|_| FloeError::Parameters)?;
        let (cipher, expected) = Self::derive(key, iv, aad, parameters)?;
        // The tag covers the parameters, so the segment length is only trusted after this.
        if !bool::from(expected.ct_eq(tag)) {
            return Err(FloeError::Header);
        }
        Ok(cipher)
    }

    fn derive(
        key: &Key,
        iv: [u8; IV_LENGTH],
        aad: &[u8],
        parameters: Parameters,
    ) -> Result<(Self, [u8; 32]), FloeError> {
        // FLOE keys are uniform already, so the specification uses HKDF-Expand without Extract;
        // `new_less_safe` is ring's name for exactly that.
        let key = Prk::new_less_safe(HKDF_SHA384, key.bytes());
        let mut tag = [0; 32];
        expand(&key, &parameters, &iv, &[b"HEADER_TAG:"], aad, &mut tag)?;
        let mut message_key = Zeroizing::new([0; 48]);
        expand(&key, &parameters, &iv, &[b"MESSAGE_KEY:"], aad, &mut message_key[..])?;
        let message_key = Prk::new_less_safe(HKDF_SHA384, &message_key[..]);
        Ok((Self { parameters, iv, aad: aad.to_vec(), message_key, segment_key: None }, tag))
    }

    /// The AES key of the segment at `position` (`DERIVE_KEY`), remembered for its whole run.
    fn segment_key(&mut self, position: u64) -> Result<&LessSafeKey, FloeError> {
        let first = position >> self.parameters.rotation_bits << self.parameters.rotation_bits;
        let key = match self.segment_key.take() {
            Some((known, key)) if known == first => key,
            _ => self.derive_segment_key(first)?,
        };
        Ok(&self.segment_key.insert((first, key)).1)
    }

    fn derive_segment_key(&self, first: u64) -> Result<LessSafeKey, FloeError> {
        let mut bytes = Zeroizing::new([0; 32]);
        let purpose: [&[u8]; 2] = [b"DEK:", &first.to_be_bytes()];
        expand(&self.message_key, &self.parameters, &self.iv, &purpose, &self.aad, &mut bytes[..])?;
        aes_key(&bytes)
    }

    /// Seals in place. `segment` is overhead and plaintext: `[4 | 12 | plaintext | 16]`.
    fn seal(&mut self, position: u64, last: bool, segment: &mut [u8]) -> Result<(), FloeError> {
        if position >= MAX_SEGMENTS || (position == MAX_SEGMENTS - 1 && !last) {
            return Err(FloeError::TooLong);
        }
        let length = if last { segment.len() as u32 } else { NOT_LAST };
        let nonce: [u8; NONCE_LENGTH] = random()?;
        let key = self.segment_key(position)?;
        let (head, body) = segment.split_at_mut(4 + NONCE_LENGTH);
        let (plaintext, tag) = body.split_at_mut(body.len() - TAG_LENGTH);
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4..].copy_from_slice(&nonce);
        let sealed = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(position, last)),
                plaintext,
            )
            .map_err(|_| FloeError::Segment { position })?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// Opens in place and returns the plaintext. The caller says whether it must be the last.
    fn open<'a>(&mut self, position: u64, last: bool, segment: &'a mut [u8]) -> Result<&'a mut [u8], FloeError> {
        if position >= MAX_SEGMENTS {
            return Err(FloeError::TooLong);
        }
        let altered = || FloeError::Segment { position };
        if segment.len() < SEGMENT_OVERHEAD {
            return Err(FloeError::Truncated { position });
        }
        let expected = if last { segment.len() as u32 } else { NOT_LAST };
        if length_field(segment) != expected {
            return Err(altered());
        }
        let (head, body) = segment.split_at_mut(4 + NONCE_LENGTH);
        let nonce = Nonce::try_assume_unique_for_key(&head[4..]).map_err(|_| altered())?;
        self.segment_key(position)?.open_in_place(nonce, Aad::from(place(position, last)), body).map_err(|_| altered())
    }
}

/// The first four bytes of a segment.
fn length_field(segment: &[u8]) -> u32 {
    segment.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A segment's associated data: its position, and whether it is the last.
fn place(position: u64, last: bool) -> [u8; 9] {
    let mut out = [0; 9];
    out[..8].copy_from_slice(&position.to_be_bytes());
    out[8] = u8::from(last);
    out
}

fn random<const N: usize>() -> Result<[u8; N], FloeError> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|_| FloeError::Random)?;
    Ok(out)
}

fn aes_key(bytes: &[u8; 32]) -> Result<LessSafeKey, FloeError> {
    let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| FloeError::Parameters)?;
    Ok(LessSafeKey::new(key))
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `FLOE_KDF`: HKDF-Expand over the parameters, the IV, the purpose and the associated data.
fn expand(
    key: &Prk,
    parameters: &Parameters,
    iv: &[u8],
    purpose: &[&[u8]],
    aad: &[u8],
    out: &mut [u8],
) -> Result<(), FloeError> {
    let encoded = parameters.encode();
    let mut info: Vec<&[u8]> = vec![&encoded, iv];
    info.extend_from_slice(purpose);
    info.push(aad);
    // Expand only fails past 255 hash lengths (12 kB); at most 48 bytes are asked for here.
    key.expand(&info, Length(out.len())).and_then(|okm| okm.fill(out)).map_err(|_| FloeError::Parameters)
}
