//! The catalog's entries as the rules see them: the one place where evidence is turned into facts.
//!
//! What always holds: an evaluation or an approval counts only if it was made of the very bytes
//! that the adapter has now; what the catalog does not say is taken at its strictest.

use super::{Adapter, Dataset, Explanation, Job, Model, PolicySet};
use super::{CaseReport, Decision, Effect, Outcome};
use cloister_wire::admin;
use cloister_wire::engine::Evaluation;
use std::collections::BTreeSet;

impl From<&admin::Dataset> for Dataset {
    fn from(entry: &admin::Dataset) -> Self {
        let cleaning = entry.cleaning.as_ref();
        let count = |of: fn(&admin::Cleaning) -> u64| cleaning.map(of).unwrap_or_default();
        Self {
            id: entry.name.clone(),
            label: entry.label,
            purposes: entry.purposes.clone(),
            imported_by: entry.owner.clone(),
            cleaned: cleaning.is_some(),
            plugins: cleaning.map(plugin_names).unwrap_or_default(),
            records: entry.records_in,
            records_examined: count(|cleaning| cleaning.examined),
            records_kept: entry.records,
            findings: count(admin::Cleaning::total_findings),
            residual_findings: count(|cleaning| cleaning.residual_findings),
        }
    }
}

impl From<&admin::Model> for Model {
    fn from(entry: &admin::Model) -> Self {
        Self { id: entry.name.clone() }
    }
}

impl Adapter {
    /// An adapter, and whether it is in service.
    pub fn new(entry: &admin::Adapter, deployed: bool) -> Self {
        let current = |digest: &String| *digest == entry.digest;
        let evaluation = entry.evaluation.as_ref().filter(|report| current(&report.adapter_digest));
        let approvals = entry.approvals.iter().filter(|approval| current(&approval.adapter_digest));
        Self {
            id: entry.name.clone(),
            label: entry.label,
            purposes: entry.purposes.clone(),
            base: entry.base.clone(),
            trained_by: entry.trained_by.clone(),
            approvers: approvals.map(|approval| approval.principal.clone()).collect(),
            evaluated: evaluation.is_some(),
            evaluation_passed: evaluation.is_some_and(|report| gate_met(&report.figures)),
            verbatim_answers: None, // no suite measures it yet
            deployed,
        }
    }
}

impl Job {
    /// A job, and the label of the data it works on.
    pub fn new(entry: &admin::Job, label: admin::Label) -> Self {
        let kind = match entry.work {
            admin::Work::Clean { .. } => "clean",
            admin::Work::Train { .. } => "train",
            admin::Work::Evaluate { .. } => "evaluate",
        };
        Self {
            id: entry.id.clone(),
            kind: kind.to_owned(),
            label,
            started_by: entry.principal.clone(),
        }
    }
}

/// The suite's gate: on held-out records the adapter is better than its base. NaN is not.
pub fn gate_met(figures: &Evaluation) -> bool {
    figures.records > 0 && figures.adapter.loss.is_finite() && figures.adapter.loss < figures.base.loss
}

/// `redact@1.2.0` is `redact` to a rule.
fn plugin_names(cleaning: &admin::Cleaning) -> BTreeSet<String> {
    let name = |plugin: &String| plugin.split('@').next().unwrap_or_default().to_owned();
    cleaning.plugins.iter().map(name).collect()
}

impl PolicySet {
    /// What `GET /policy` answers.
    pub fn info(&self) -> admin::PolicyInfo {
        let rule = |rule: &super::Rule| admin::RuleInfo {
            id: rule.id.clone(),
            effect: match rule.effect {
                Effect::Permit => "permit".to_owned(),
                Effect::Forbid => "forbid".to_owned(),
            },
            reason: rule.reason.clone(),
            remedy: rule.remedy.clone(),
            file: format!("{}:{}", rule.file, rule.line),
        };
        admin::PolicyInfo {
            digest: self.digest().to_owned(),
            rules: self.rules().iter().map(rule).collect(),
        }
    }
}

impl From<Explanation> for admin::Explanation {
    fn from(explanation: Explanation) -> Self {
        let permitting = explanation.rules.iter().filter(|rule| {
            rule.effect == Effect::Permit && rule.outcome == Outcome::Applies
        });
        let why_allowed: Vec<&str> = permitting.map(|rule| rule.reason.as_str()).collect();
        let (allowed, rules, reason, remedy) = match explanation.decision {
            Decision::Allow { rules } => (true, rules, why_allowed.join("; "), String::new()),
            Decision::Deny(denial) => (false, denial.all_rules, denial.reason, denial.remedy),
        };
        Self { allowed, rules, reason, remedy, facts: explanation.facts.into_iter().collect() }
    }
}

impl From<CaseReport> for Vec<admin::CaseResult> {
    fn from(report: CaseReport) -> Self {
        let results = report.results.into_iter().map(|result| admin::CaseResult {
            case: format!("{}: {}", result.file, result.case),
            passed: result.passed,
            message: match result.passed {
                true => result.got,
                false => format!("expected {}, got {}", result.expected, result.got),
            },
        });
        let untested = report.untested_rules.into_iter().map(|rule| admin::CaseResult {
            case: format!("rule `{rule}`"),
            passed: false,
            message: "no passing case names it; add one to `policies/cases`".to_owned(),
        });
        results.chain(untested).collect()
    }
}
