//! Reading a request's body up to a limit, whether or not it says its length beforehand.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use super::upload::STALLED;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than allowed.
    #[error("the request's body is larger than {limit} bytes")]
    TooLarge {
        /// The most that is allowed.
        limit: u64,
    },
    /// The client stopped sending.
    #[error("the request's body stopped coming; send it again")]
    Stalled,
    /// The client went away.
    #[error("the request's body ended early: {0}")]
    Broken(warp::Error),
}

/// Collects a body (`warp::body::stream()`), holding at most `limit` bytes of it.
///
/// # Errors
/// `TooLarge` as soon as the limit is passed, `Broken`.
pub async fn read<S, B>(body: S, limit: u64) -> Result<Bytes, BodyError>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = BytesMut::new();
    while let Some(piece) = timeout(STALLED, body.next()).await.map_err(|_| BodyError::Stalled)? {
        let piece = piece.map_err(BodyError::Broken)?;
        if (bytes.len() + piece.remaining()) as u64 > limit {
            return Err(BodyError::TooLarge { limit });
        }
        bytes.put(piece);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    async fn read_pieces(pieces: &'static [&'static str], limit: u64) -> Result<Bytes, BodyError> {
        let pieces = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        read(futures_util::stream::iter(pieces), limit).await
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        assert_eq!(read_pieces(&["ab", "cd"], 4).await.unwrap(), "abcd");
        assert!(matches!(read_pieces(&["ab", "cde"], 4).await, Err(BodyError::TooLarge { limit: 4 })));
    }
}
