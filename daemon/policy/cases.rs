//! Policy cases: requests with the answer they must get, in TOML, next to the rules.
//!
//! ```toml
//! [given.notes]                      # a resource that several cases share
//! type = "Dataset"
//! label = "phi"
//!
//! [[case]]
//! name = "records are cleaned first"
//! who = { name = "tess", roles = ["trainer"] }
//! action = "Train"
//! resource = "notes"
//! with = { cleaned = false }         # what differs from the shared resource
//! facts = { purpose = "summaries" }
//! expect = "deny"
//! rule = "deidentify-before-training"
//! ```
//! `rule` is the rule that the denial names, or one of those that allowed; `also` lists further
//! rules that must have stood in the way. A rule that no passing case names is reported.

use super::load::{Problem, files_ending};
use super::{Action, Decision, Facts, LoadError, PolicySet, Principal, Request, Resource, Source};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// How the cases came out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CaseReport {
    /// Every case, in the order of the files.
    pub results: Vec<CaseResult>,
    /// Rules that no passing case names: nobody would notice if they broke.
    pub untested_rules: Vec<String>,
}

impl CaseReport {
    /// Cases that did not get the answer they expect.
    pub fn failures(&self) -> impl Iterator<Item = &CaseResult> {
        self.results.iter().filter(|result| !result.passed)
    }
}

/// How a case came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// The file it stands in.
    pub file: String,
    /// Its name.
    pub case: String,
    /// Whether it got the answer it expects.
    pub passed: bool,
    /// What it expects.
    pub expected: String,
    /// What it got.
    pub got: String,
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, case, expected, got, .. } = self;
        match self.passed {
            true => write!(f, "`{file}`, case `{case}`: {got}"),
            false => write!(f, "`{file}`, case `{case}`: expected {expected}, got {got}"),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    #[serde(default)]
    given: BTreeMap<String, toml::Table>,
    case: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    who: Principal,
    action: Action,
    /// The name of a shared resource.
    resource: String,
    #[serde(default)]
    with: toml::Table,
    #[serde(default)]
    facts: Facts,
    expect: Expectation,
    rule: String,
    #[serde(default)]
    also: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expectation {
    Allow,
    Deny,
}

impl PolicySet {
    /// Runs every case of every `*.toml` file in `dir`.
    ///
    /// # Errors
    /// A file that cannot be read, or a case that does not make sense; a case that gets the wrong
    /// answer is in the report.
    pub fn check_cases(&self, dir: &Path) -> Result<CaseReport, LoadError> {
        let mut report = CaseReport::default();
        let mut tested = BTreeSet::new();
        for file in files_ending(dir, "toml")? {
            let parsed: CaseFile =
                toml::from_str(&file.text).map_err(|error| refuse(&file, error.to_string()))?;
            for case in &parsed.case {
                let request = request(&file, &parsed.given, case)?;
                let result = judge(&file, case, &self.decide(&request));
                if result.passed {
                    tested.extend(case.also.iter().chain([&case.rule]).cloned());
                }
                report.results.push(result);
            }
        }
        let ids = self.rules().iter().map(|rule| &rule.id);
        report.untested_rules = ids.filter(|id| !tested.contains(*id)).cloned().collect();
        Ok(report)
    }
}

fn request(
    file: &Source,
    given: &BTreeMap<String, toml::Table>,
    case: &Case,
) -> Result<Request, LoadError> {
    let refuse = |what: String| refuse(file, format!("case `{}`: {what}", case.name));
    let mut table = given
        .get(&case.resource)
        .cloned()
        .ok_or_else(|| refuse(format!("there is no `[given.{}]`", case.resource)))?;
    if table.get("type").and_then(toml::Value::as_str) != Some("Appliance") {
        table.entry("id").or_insert_with(|| case.resource.clone().into());
    }
    table.extend(case.with.clone());
    let resource: Resource =
        toml::Value::Table(table).try_into().map_err(|error| refuse(format!("{error}")))?;
    Ok(Request { principal: case.who.clone(), action: case.action, resource, facts: case.facts.clone() })
}

fn judge(file: &Source, case: &Case, decision: &Decision) -> CaseResult {
    let (answer, first, rules) = match decision {
        Decision::Allow { rules } => (Expectation::Allow, None, rules),
        Decision::Deny(denial) => (Expectation::Deny, Some(&denial.rule), &denial.all_rules),
    };
    let named = first.map_or(rules.contains(&case.rule), |rule| *rule == case.rule);
    let mut expected = vec![case.rule.clone()];
    expected.extend(case.also.iter().cloned());
    CaseResult {
        file: file.name.clone(),
        case: case.name.clone(),
        passed: answer == case.expect && named && expected.iter().all(|rule| rules.contains(rule)),
        expected: describe(case.expect, &expected),
        got: describe(answer, rules),
    }
}

fn describe(answer: Expectation, rules: &[String]) -> String {
    let verb = match answer {
        Expectation::Allow => "allow by",
        Expectation::Deny => "deny by",
    };
    format!("{verb} {}", rules.join(", "))
}

fn refuse(file: &Source, what: String) -> LoadError {
    LoadError::Invalid(vec![Problem { file: file.name.clone(), line: None, what }])
}
