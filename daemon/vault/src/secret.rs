//! A 256-bit key in memory, and AES-256-GCM for wrapping one key under another.
//!
//! What always holds: a [`Key`] is zeroed when dropped and never printed. (`ring` keeps its
//! expanded AES and HMAC state in memory of its own, which it does not zero: what keeps that from
//! a disk is that the daemon makes itself undumpable.)

use crate::error::VaultError;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA384, KeyType, Prk};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a [`Key`].
pub const KEY_LENGTH: usize = 32;

/// A 256-bit secret.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LENGTH]>);

impl Key {
    /// A key of the operating system's randomness.
    ///
    /// # Errors
    /// `Random` when it has none to give.
    pub fn random() -> Result<Self, VaultError> {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        SystemRandom::new().fill(&mut bytes[..]).map_err(|_| VaultError::Random)?;
        Ok(Self(bytes))
    }

    /// A key from bytes that are already uniform.
    pub fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut out = Zeroizing::new([0; KEY_LENGTH]);
        if bytes.len() != KEY_LENGTH {
            return None;
        }
        out.copy_from_slice(bytes);
        Some(Self(out))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// A key for one purpose (HKDF-Expand with SHA-384, RFC 5869 section 2.3).
    pub(crate) fn derive(&self, purpose: &str) -> Result<Self, VaultError> {
        let mut out = Zeroizing::new([0; KEY_LENGTH]);
        Prk::new_less_safe(HKDF_SHA384, self.bytes())
            .expand(&[purpose.as_bytes()], Length)
            .and_then(|okm| okm.fill(&mut out[..]))
            .map_err(|_| VaultError::Internal("HKDF refused"))?;
        Ok(Self(out))
    }

    /// AES-256-GCM with a random nonce: `nonce 12 | ciphertext | tag 16`.
    pub(crate) fn wrap(&self, aad: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| VaultError::Random)?;
        // Sealed in a buffer that is zeroed: growing a plain one could leave plaintext behind.
        let mut body = Zeroizing::new(Vec::with_capacity(secret.len() + AES_256_GCM.tag_len()));
        body.extend_from_slice(secret);
        let aad = Aad::from(aad.as_bytes());
        self.aes()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *body)
            .map_err(|_| VaultError::Internal("AES-GCM refused"))?;
        Ok([&nonce[..], &body[..]].concat())
    }

    /// The inverse of [`wrap`](Self::wrap); none when it does not verify.
    pub(crate) fn unwrap(&self, aad: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = wrapped.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = Zeroizing::new(body.to_vec());
        let aad = Aad::from(aad.as_bytes());
        let length = self.aes().ok()?.open_in_place(nonce, aad, &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }

    pub(crate) fn unwrap_key(&self, aad: &str, wrapped: &[u8]) -> Option<Self> {
        Self::from_slice(&self.unwrap(aad, wrapped)?)
    }

    fn aes(&self) -> Result<LessSafeKey, VaultError> {
        UnboundKey::new(&AES_256_GCM, self.bytes())
            .map(LessSafeKey::new)
            .map_err(|_| VaultError::Internal("AES-GCM refused its key"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_LENGTH
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let key = Key::from_bytes([0xAB; 32]);
        assert_eq!(format!("{key:?}"), "Key(…)");
    }

    #[test]
    fn a_wrapped_key_opens_only_under_its_key_and_context() {
        let (a, b) = (Key::random().unwrap(), Key::random().unwrap());
        let wrapped = a.wrap("context", b.bytes()).unwrap();
        assert_eq!(a.unwrap_key("context", &wrapped).unwrap().bytes(), b.bytes());
        assert!(a.unwrap_key("other", &wrapped).is_none());
        assert!(b.unwrap_key("context", &wrapped).is_none());
        assert!(a.unwrap_key("context", &wrapped[..wrapped.len() - 1]).is_none());
        assert!(a.unwrap_key("context", b"short").is_none());
    }
}
