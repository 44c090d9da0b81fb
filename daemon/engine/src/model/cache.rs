//! What a sequence keeps of the tokens it has read, so that the next one costs one row and not all of them.

use tch::Tensor;

/// The keys and values of one sequence, per layer, `[kv_heads, capacity, head_dim]`.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Option<(Tensor, Tensor)>>,
    len: i64,
}

impl KvCache {
    pub(super) fn new(layers: usize) -> Self {
        KvCache { layers: (0..layers).map(|_| None).collect(), len: 0 }
    }

    /// Tokens whose keys and values every layer holds.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the cache occupies.
    pub fn bytes(&self) -> u64 {
        let size = |t: &Tensor| (t.numel() * t.kind().elt_size_in_bytes()) as u64;
        self.layers.iter().flatten().map(|(k, v)| size(k) + size(v)).sum()
    }

    /// Appends the keys and values of new tokens and returns those of the whole sequence,
    /// `[kv_heads, start + new, head_dim]`.
    pub(super) fn extend(&mut self, layer: usize, start: i64, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let total = start + k.size()[1];
        self.len = self.len.max(total);
        let slot = &mut self.layers[layer];
        let (keys, values) = match slot.take() {
            Some((keys, values)) if keys.size()[1] >= total => (keys, values),
            old => grown(old, start, total, k),
        };
        let new = k.size()[1];
        keys.narrow(1, start, new).copy_(k);
        values.narrow(1, start, new).copy_(v);
        let whole = (keys.narrow(1, 0, total), values.narrow(1, 0, total));
        *slot = Some((keys, values));
        whole
    }
}

/// Room for at least `total` tokens, doubling so that appending stays linear overall.
fn grown(old: Option<(Tensor, Tensor)>, start: i64, total: i64, like: &Tensor) -> (Tensor, Tensor) {
    let capacity = (total as u64).next_power_of_two().max(64) as i64;
    let size = like.size();
    let room = |old: Option<&Tensor>| {
        let room = Tensor::empty([size[0], capacity, size[2]], (like.kind(), like.device()));
        if let Some(old) = old {
            room.narrow(1, 0, start).copy_(&old.narrow(1, 0, start));
        }
        room
    };
    (room(old.as_ref().map(|o| &o.0)), room(old.as_ref().map(|o| &o.1)))
}
