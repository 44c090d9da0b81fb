//! Signed notes: what the log vouches for, as text that stands by itself.
//!
//! A note is a C2SP tlog checkpoint (<https://c2sp.org/tlog-checkpoint>) with extension lines:
//!
//! ```text
//! cloister-audit-<vault>          origin
//! 42                              records
//! <base64>                        Merkle root
//! time 2026-11-24T21:46:48.000000Z
//! last <hex>                      leaf hash of the newest record
//! checkpoints 3 <hex>             how many notes `checkpoints` held before, SHA-256 of the newest
//!
//! — cloister-audit-<vault> <base64 of key id 4, Ed25519 signature 64>
//! ```

use super::record::{Hash, hash, parse_time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cloister_vault::hex;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Type byte of an Ed25519 key in a signed note.
const ALGORITHM: u8 = 1;
const DASH: &str = "\u{2014} ";

/// How far a log had come: keep one off the machine to show later that nothing was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Records.
    pub size: u64,
    /// Merkle root over them, in hexadecimal.
    pub root: String,
}

/// The content of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) size: u64,
    pub(super) root: Hash,
    pub(super) time: String,
    pub(super) last: Hash,
    pub(super) checkpoints: u64,
    pub(super) last_checkpoint: Hash,
}

impl Note {
    pub(super) fn head(&self) -> Head {
        Head { size: self.size, root: hex::encode(self.root) }
    }

    fn body(&self, origin: &str) -> String {
        format!(
            "{origin}\n{}\n{}\ntime {}\nlast {}\ncheckpoints {} {}\n",
            self.size,
            BASE64.encode(self.root),
            self.time,
            hex::encode(self.last),
            self.checkpoints,
            hex::encode(self.last_checkpoint),
        )
    }

    fn parse(body: &str, origin: &str) -> Option<Self> {
        let mut lines = body.strip_suffix('\n')?.split('\n');
        let mut next = |prefix: &str| lines.next()?.strip_prefix(prefix);
        if next("")? != origin {
            return None;
        }
        let size = next("")?.parse().ok()?;
        let root = BASE64.decode(next("")?).ok()?.try_into().ok()?;
        let time = next("time ")?.to_owned();
        let last = hex::decode_array(next("last ")?)?;
        let (count, newest) = next("checkpoints ")?.split_once(' ')?;
        let (checkpoints, last_checkpoint) = (count.parse().ok()?, hex::decode_array(newest)?);
        parse_time(&time)?;
        lines.next().is_none().then_some(Self { size, root, time, last, checkpoints, last_checkpoint })
    }
}

/// Signs notes.
pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    pub(super) fn from_pkcs8(bytes: &[u8], origin: &str) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).ok()?;
        let bytes = pair.public_key().as_ref().try_into().ok()?;
        let public = VerifyingKey { origin: origin.to_owned(), bytes };
        Some(Self { pair, public })
    }

    pub(super) fn public(&self) -> &VerifyingKey {
        &self.public
    }

    pub(super) fn sign(&self, note: &Note) -> String {
        let origin = &self.public.origin;
        let body = note.body(origin);
        let signature = self.pair.sign(body.as_bytes());
        let signed = [&self.public.id()[..], signature.as_ref()].concat();
        format!("{body}\n{DASH}{origin} {}\n", BASE64.encode(signed))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

/// Verifies a log's notes. Its text form is a signed note's verifier key,
/// `name+key id+base64`; give it to whoever must be able to check the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    origin: String,
    bytes: [u8; 32],
}

impl VerifyingKey {
    /// The first bytes of SHA-256(name ‖ LF ‖ algorithm ‖ key).
    fn id(&self) -> [u8; 4] {
        let named = [self.origin.as_bytes(), &[b'\n', ALGORITHM], &self.bytes].concat();
        let [a, b, c, d, ..] = hash(&named);
        [a, b, c, d]
    }

    /// The note in `text`; none when it is not one, or was not signed with this key.
    pub(super) fn open(&self, text: &str) -> Option<Note> {
        let (body, signature) = text.split_once(&format!("\n\n{DASH}"))?;
        let signature = signature.strip_suffix('\n')?.strip_prefix(&self.origin)?.strip_prefix(' ')?;
        let signed = BASE64.decode(signature).ok()?;
        let (id, signature) = signed.split_first_chunk::<4>()?;
        let body = format!("{body}\n");
        if *id != self.id() {
            return None;
        }
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(body.as_bytes(), signature).ok()?;
        Note::parse(&body, &self.origin)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = [&[ALGORITHM][..], &self.bytes].concat();
        write!(f, "{}+{}+{}", self.origin, hex::encode(self.id()), BASE64.encode(typed))
    }
}

impl FromStr for VerifyingKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let parse = || {
            let (origin, rest) = text.trim().split_once('+')?;
            let (id, typed) = rest.split_once('+')?;
            let typed = BASE64.decode(typed).ok()?;
            let bytes = typed.strip_prefix(&[ALGORITHM])?;
            let key = Self { origin: origin.to_owned(), bytes: bytes.try_into().ok()? };
            (hex::encode(key.id()) == id).then_some(key)
        };
        parse().ok_or(NotAKey)
    }
}

/// The text is no verifier key.
#[derive(Debug, thiserror::Error)]
#[error("this is not an audit log's public key (`name+id+base64`); take it from `audit/public-key`")]
pub struct NotAKey;
