//! Dual control: whose approvals count.

use cloister_wire::admin::Approval;
use std::collections::BTreeSet;

/// The different people whose approval of these very bytes counts.
///
/// One person counts once however often they approve, and the trainer never: nobody vouches for
/// their own work. An approval of other bytes (`digest`) was an approval of something else.
pub fn distinct_approvers<'a>(
    approvals: &'a [Approval],
    trainer: &str,
    digest: &str,
) -> BTreeSet<&'a str> {
    approvals
        .iter()
        .filter(|approval| approval.adapter_digest == digest && approval.principal != trainer)
        .map(|approval| approval.principal.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(approvals: &[(&str, &str)], expected: &[&str]) {
        let approvals: Vec<Approval> = approvals
            .iter()
            .map(|(principal, digest)| Approval {
                principal: (*principal).to_owned(),
                at: "2026-11-24T12:00:00Z".to_owned(),
                adapter_digest: (*digest).to_owned(),
                note: String::new(),
            })
            .collect();
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        assert_eq!(distinct_approvers(&approvals, "tess", "d1"), expected);
    }

    #[test]
    fn each_person_counts_once() {
        check(&[("ann", "d1"), ("ann", "d1")], &["ann"]);
        check(&[("ann", "d1"), ("bea", "d1")], &["ann", "bea"]);
    }

    #[test]
    fn the_trainer_does_not_count() {
        check(&[("ann", "d1"), ("tess", "d1")], &["ann"]);
        check(&[("tess", "d1")], &[]);
    }

    #[test]
    fn approvals_of_other_bytes_do_not_count() {
        check(&[("ann", "d0"), ("bea", "d1")], &["bea"]);
        check(&[], &[]);
    }
}
