//! A Merkle tree over the log's lines, after RFC 6962 section 2.1: a leaf is SHA-256(0x00 ‖ line),
//! a node SHA-256(0x01 ‖ left ‖ right), the left subtree the largest power of two.
//!
//! Why, beside the hash chain: one signed root vouches for every record, and a single record can
//! be proved to an outsider by a handful of hashes, without showing the others.

use ring::digest::{Context, SHA256};
use std::ops::Range;

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The hash of a leaf.
pub fn leaf_hash(line: &[u8]) -> Hash {
    hash(&[&[0], line])
}

/// The hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[1], left, right])
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A tree that only grows: it keeps the roots of its full subtrees, at most 64 hashes.
#[derive(Debug, Clone, Default)]
pub struct GrowingTree {
    size: u64,
    /// Roots of the full subtrees, largest first: one a set bit of `size`.
    full: Vec<Hash>,
}

impl GrowingTree {
    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.full.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.full.push(node);
        self.size += 1;
    }

    /// The root (`MTH` of RFC 6962).
    pub fn root(&self) -> Hash {
        let mut nodes = self.full.iter().rev();
        let Some(last) = nodes.next() else { return hash(&[]) };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Collects the inclusion proof of one leaf in a single pass over all leaves.
#[derive(Debug)]
pub struct PathBuilder {
    /// The sibling subtrees from the leaf up, each with the leaves that it spans.
    siblings: Vec<(Range<u64>, GrowingTree)>,
}

impl PathBuilder {
    /// The path of leaf `index` (from 0) in a tree of `size` leaves; none if there is no such leaf.
    pub fn new(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let mut siblings = Vec::new();
        let mut span = 0..size;
        while span.end - span.start > 1 {
            let split = span.start + split(span.end - span.start);
            let (inside, sibling) =
                if index < split { (span.start..split, split..span.end) } else { (split..span.end, span.start..split) };
            siblings.push((sibling, GrowingTree::default()));
            span = inside;
        }
        siblings.reverse();
        Some(Self { siblings })
    }

    /// Takes the next leaf; call it for every leaf of the tree, in order.
    pub fn push(&mut self, index: u64, leaf: Hash) {
        if let Some((_, tree)) = self.siblings.iter_mut().find(|(span, _)| span.contains(&index)) {
            tree.push(leaf);
        }
    }

    /// The path, from the leaf up.
    pub fn finish(self) -> Vec<Hash> {
        self.siblings.into_iter().map(|(_, tree)| tree.root()).collect()
    }
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// The root that a leaf and its path lead to (RFC 9162 section 2.1.3.2); none when the path has
/// the wrong length for that place.
pub fn root_from_path(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut place, mut last, mut root) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            root = node_hash(sibling, &root);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            root = node_hash(&root, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// `MTH` word for word as RFC 6962 defines it.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => hash(&[]),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(&root_by_definition(left), &root_by_definition(right))
            }
        }
    }

    #[test]
    fn roots_and_paths_agree_with_the_definition() {
        let leaves: Vec<Hash> = (0..40u8).map(|it| leaf_hash(&[it])).collect();
        for size in 1..=leaves.len() {
            let mut tree = GrowingTree::default();
            leaves[..size].iter().for_each(|leaf| tree.push(*leaf));
            let root = root_by_definition(&leaves[..size]);
            assert_eq!(tree.root(), root);
            for index in 0..size as u64 {
                let mut builder = PathBuilder::new(index, size as u64).unwrap();
                (0..size).for_each(|it| builder.push(it as u64, leaves[it]));
                let path = builder.finish();
                let leaf = leaves[index as usize];
                assert_eq!(root_from_path(index, size as u64, leaf, &path), Some(root));
                assert_ne!(root_from_path(index, size as u64, [0; 32], &path), Some(root));
                let longer = [&path[..], &[[0; 32]]].concat();
                assert_eq!(root_from_path(index, size as u64, leaf, &longer), None);
            }
        }
    }

    /// Known answers of the certificate-transparency project for these eight leaves.
    #[test]
    fn the_reference_tree_has_its_known_root() {
        let leaves =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let mut tree = GrowingTree::default();
        for leaf in leaves {
            tree.push(leaf_hash(&cloister_vault::hex::decode(leaf).unwrap()));
        }
        let root = cloister_vault::hex::encode(tree.root());
        assert_eq!(root, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }
}
