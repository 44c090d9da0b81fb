//! Cross-entropy of the learnt tokens, in chunks: the final norm and the output layer run only on the
//! positions whose next token is learnt, and never are all logits held (a vocabulary of 150,000 costs
//! 0.6 MB a position). Each chunk's gradient is taken at once and its logits are freed.

use tch::{Kind, Reduction, TchError, Tensor};

use crate::model::Decoder;

/// Logits of one chunk are at most so many numbers (128 MiB of float32).
const CHUNK_LOGITS: i64 = 32 << 20;

/// Which positions of a packed batch predict a learnt token, and which token.
#[derive(Debug)]
pub struct Targets {
    /// `[learnt]` rows of the batch.
    pub rows: Tensor,
    /// `[learnt]` the tokens after them.
    pub tokens: Tensor,
}

impl Targets {
    fn chunks(&self, vocabulary: i64) -> Vec<(i64, i64)> {
        let total = self.rows.size()[0];
        let most = (CHUNK_LOGITS / vocabulary).max(16);
        (0..total).step_by(most as usize).map(|start| (start, most.min(total - start))).collect()
    }
}

/// Summed negative log-likelihood, from the last block's output `[tokens, hidden]`.
pub fn total(decoder: &Decoder, last: &Tensor, targets: &Targets) -> Result<f64, TchError> {
    let mut sum = 0.0;
    for (start, len) in targets.chunks(decoder.config().vocab_size) {
        let hidden = last.f_index_select(0, &targets.rows.narrow(0, start, len))?;
        sum += chunk(decoder, &hidden, &targets.tokens.narrow(0, start, len))?.f_double_value(&[])?;
    }
    Ok(sum)
}

/// The same divided by `divisor`, and its gradient at the last block's output `[tokens, hidden]`.
pub fn with_gradient(
    decoder: &Decoder,
    last: &Tensor,
    targets: &Targets,
    divisor: f64,
) -> Result<(f64, Tensor), TchError> {
    let last = last.detach();
    let mut gradient = last.f_zeros_like()?;
    let mut sum = 0.0;
    for (start, len) in targets.chunks(decoder.config().vocab_size) {
        let rows = targets.rows.narrow(0, start, len);
        let hidden = last.f_index_select(0, &rows)?.set_requires_grad(true);
        let loss = chunk(decoder, &hidden, &targets.tokens.narrow(0, start, len))? / divisor;
        loss.f_backward()?;
        sum += loss.f_double_value(&[])?;
        // Every row predicts one token, so no row is written twice.
        let _ = gradient.f_index_copy_(0, &rows, &hidden.f_grad()?)?;
    }
    Ok((sum, gradient))
}

fn chunk(decoder: &Decoder, hidden: &Tensor, tokens: &Tensor) -> Result<Tensor, TchError> {
    let logits = decoder.logits(&decoder.final_norm(hidden)).to_kind(Kind::Float);
    logits.f_cross_entropy_loss(tokens, None::<Tensor>, Reduction::Sum, -100, 0.0)
}
