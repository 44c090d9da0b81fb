//! ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin 2004), as Google's `rouge_score` computes them without
//! stemming: lower case, words of `[a-z0-9]`, clipped n-gram counts, longest common subsequence.

use std::collections::HashMap;

/// F-measures of one answer, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rouge {
    /// Single words.
    pub rouge1: f64,
    /// Pairs of words.
    pub rouge2: f64,
    /// Longest common subsequence.
    pub rouge_l: f64,
}

/// Scores an answer against its reference.
pub fn rouge(reference: &str, answer: &str) -> Rouge {
    let (reference, answer) = (reference.to_lowercase(), answer.to_lowercase());
    let (reference, answer) = (words(&reference), words(&answer));
    Rouge {
        rouge1: ngrams(&reference, &answer, 1),
        rouge2: ngrams(&reference, &answer, 2),
        rouge_l: f_measure(common_subsequence(&reference, &answer), reference.len(), answer.len()),
    }
}

fn words(lower: &str) -> Vec<&str> {
    let separator = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit());
    lower.split(separator).filter(|word| !word.is_empty()).collect()
}

fn ngrams(reference: &[&str], answer: &[&str], n: usize) -> f64 {
    let (theirs, ours) = (counts(reference, n), counts(answer, n));
    let overlap = theirs.iter().map(|(gram, count)| *count.min(ours.get(gram).unwrap_or(&0))).sum();
    f_measure(overlap, theirs.values().sum(), ours.values().sum())
}

fn counts<'w>(words: &'w [&'w str], n: usize) -> HashMap<&'w [&'w str], usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}

fn common_subsequence(one: &[&str], other: &[&str]) -> usize {
    // One row of the table: lengths for the words of `one` read so far.
    let mut row = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (at, candidate) in other.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == candidate { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[other.len()]
}

fn f_measure(overlap: usize, reference: usize, answer: usize) -> f64 {
    let precision = overlap as f64 / answer.max(1) as f64;
    let recall = overlap as f64 / reference.max(1) as f64;
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Made by `tests/fixtures/make_rouge.py` with `rouge_score` 0.1.2.
    #[test]
    fn scores_are_those_of_rouge_score() {
        #[derive(serde::Deserialize)]
        struct Case {
            reference: String,
            answer: String,
            rouge1: f64,
            rouge2: f64,
            rouge_l: f64,
        }
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/rouge.json")).unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let found = rouge(&case.reference, &case.answer);
            for (ours, theirs) in
                [(found.rouge1, case.rouge1), (found.rouge2, case.rouge2), (found.rouge_l, case.rouge_l)]
            {
                assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}: {:?} / {:?}", case.reference, case.answer);
            }
        }
    }
}
