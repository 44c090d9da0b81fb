//! What the house allows: Cedar rules, validated when loaded, decided without side effects.
//!
//! [`PolicySet::load`] reads `schema.cedarschema` and every `*.cedar` file of a folder and refuses
//! the whole set if any rule does not fit the schema. [`PolicySet::decide`] then answers one
//! [`Request`]; it does no IO and reads no clock, so the same request always gets the same answer.
//!
//! What always holds:
//! * Nothing is allowed unless a rule permits it and no rule forbids it.
//! * Any error while deciding is a denial (`policy-error`). Cedar alone would skip an erroring
//!   `forbid`, and so let through what it was meant to stop.
//! * A denial names one rule, why, and what to do next; it holds no record's text.

mod cases;
mod explain;
mod facts;
mod from_catalog;
mod load;
#[cfg(test)]
mod tests;

pub use cases::{CaseReport, CaseResult};
pub use explain::{Explanation, Outcome, RuleTrace};
pub use facts::{
    Action, Adapter, Appliance, Dataset, Facts, Job, Label, Model, Principal, Request, Resource,
    UnknownAction,
};
pub use from_catalog::gate_met;
pub use load::{BUILT_IN, LoadError, Problem, Source};

use cedar_policy as cedar;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

/// The rule of a denial when no rule permits what was asked.
pub const DEFAULT_DENY: &str = "default-deny";
/// The rule of a denial when a rule could not be evaluated.
pub const POLICY_ERROR: &str = "policy-error";

/// A validated set of rules.
#[derive(Debug)]
pub struct PolicySet {
    schema: cedar::Schema,
    /// Every rule.
    all: cedar::PolicySet,
    /// The permits alone: they tell "you lack the role" from "nobody may, as things stand".
    permits: cedar::PolicySet,
    /// In load order: `baseline.cedar` first, then the other files by name, by line.
    rules: Vec<Rule>,
    roles: Vec<String>,
    digest: String,
}

/// What is known of a rule besides its condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its `@id`.
    pub id: String,
    /// Whether it permits or forbids.
    pub effect: Effect,
    /// Its `@reason`, with placeholders.
    pub reason: String,
    /// Its `@remedy`, with placeholders; empty for a permit.
    pub remedy: String,
    /// The file it stands in.
    pub file: String,
    /// The line of its `@id`, from 1.
    pub line: usize,
}

/// What a rule does when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Allows, unless another rule forbids.
    Permit,
    /// Denies, whatever permits.
    Forbid,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub enum Decision {
    /// Go ahead.
    Allow {
        /// The rules that permitted it, in load order.
        rules: Vec<String>,
    },
    /// Stop. Not an error: a value that the caller shows and logs.
    Deny(Denial),
}

impl Decision {
    /// Whether it allows.
    pub fn is_allow(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }
}

/// Why not, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// The rule to name: the first that forbids, in load order.
    pub rule: String,
    /// Why it refused.
    pub reason: String,
    /// What to do next.
    pub remedy: String,
    /// Every rule that stood in the way, `rule` first.
    pub all_rules: Vec<String>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied by rule `{}`: {}; {}", self.rule, self.reason, self.remedy)
    }
}

/// A request in Cedar's terms.
struct Query {
    request: cedar::Request,
    entities: cedar::Entities,
}

/// The rules that decided, and whether any failed.
struct Verdict {
    allowed: bool,
    deciding: BTreeSet<String>,
    failing: BTreeSet<String>,
}

impl PolicySet {
    /// Decides. Pure: no IO, no clock; `request.facts.now` is the time.
    pub fn decide(&self, request: &Request) -> Decision {
        let query = match self.query(request) {
            Ok(query) => query,
            Err(why) => return Decision::Deny(unfit_request(&why)),
        };
        let verdict = authorize(&self.all, &query);
        if !verdict.failing.is_empty() {
            return Decision::Deny(self.failed(&verdict.failing));
        }
        if verdict.allowed {
            return Decision::Allow { rules: self.in_order(&verdict.deciding) };
        }
        // Someone without the role hears that, and not first what else would stop them.
        if !authorize(&self.permits, &query).allowed {
            return Decision::Deny(self.not_permitted(request, &verdict.deciding));
        }
        Decision::Deny(self.forbidden(request, &verdict.deciding))
    }

    /// The rules, in load order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The roles that the schema enumerates.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// SHA-256 over the schema and every rule file, in hex: the audit log keeps it, so that a
    /// decision can be traced to the very rules that it was made by.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn query(&self, request: &Request) -> Result<Query, String> {
        query(&self.schema, request)
    }

    fn in_order(&self, ids: &BTreeSet<String>) -> Vec<String> {
        self.rules.iter().filter(|rule| ids.contains(&rule.id)).map(|rule| rule.id.clone()).collect()
    }

    fn forbidden(&self, request: &Request, deciding: &BTreeSet<String>) -> Denial {
        let all_rules = self.in_order(deciding);
        let Some(rule) = self.rules.iter().find(|rule| deciding.contains(&rule.id)) else {
            // Cedar denied, a permit applies, and no forbid does: that cannot be, so do not allow.
            return self.failed(deciding);
        };
        Denial {
            rule: rule.id.clone(),
            reason: fill(&rule.reason, request),
            remedy: fill(&rule.remedy, request),
            all_rules,
        }
    }

    fn not_permitted(&self, request: &Request, forbids: &BTreeSet<String>) -> Denial {
        let name = &request.principal.name;
        let held = facts::Value::Texts(request.principal.roles.clone());
        let mut all_rules = vec![DEFAULT_DENY.to_owned()];
        all_rules.extend(self.in_order(forbids));
        Denial {
            rule: DEFAULT_DENY.to_owned(),
            reason: format!("no rule permits `{name}` (roles: {held}) to do `{}`", request.action),
            remedy: match self.roles_permitted(request).as_slice() {
                [] => "no role permits it; a rule must be written first, see `cloister policy list`".to_owned(),
                roles => format!("ask someone with the role {}, or an administrator to give it to you", alternatives(roles)),
            },
            all_rules,
        }
    }

    /// The roles each of which alone would permit the request.
    fn roles_permitted(&self, request: &Request) -> Vec<String> {
        let permits = |role: &&String| {
            let mut request = request.clone();
            request.principal.roles = BTreeSet::from([(*role).clone()]);
            self.query(&request).is_ok_and(|query| authorize(&self.permits, &query).allowed)
        };
        self.roles.iter().filter(permits).cloned().collect()
    }

    fn failed(&self, failing: &BTreeSet<String>) -> Denial {
        let ids: Vec<String> = failing.iter().map(|id| format!("`{id}`")).collect();
        let mut all_rules = vec![POLICY_ERROR.to_owned()];
        all_rules.extend(failing.iter().cloned());
        Denial {
            rule: POLICY_ERROR.to_owned(),
            reason: format!("a rule could not be evaluated, which counts as no: {}", ids.join(", ")),
            remedy: "an administrator corrects the rule and runs `cloister policy test`".to_owned(),
            all_rules,
        }
    }
}

fn unfit_request(why: &str) -> Denial {
    Denial {
        rule: POLICY_ERROR.to_owned(),
        reason: format!("the request does not fit the policy schema: {why}"),
        remedy: "check the roles with `cloister user list` and the schema with `cloister policy test`"
            .to_owned(),
        all_rules: vec![POLICY_ERROR.to_owned()],
    }
}

fn query(schema: &cedar::Schema, request: &Request) -> Result<Query, String> {
    let principal = text(facts::entity("User", &request.principal.name))?;
    let resource = text(facts::entity(request.resource.kind(), request.resource.id()))?;
    let action = text(facts::entity("Action", request.action.name()))?;
    let roles = request.principal.roles.iter().map(|role| facts::entity("Role", role));
    let roles = text(roles.collect::<Result<HashSet<_>, _>>())?;

    let attributes = text(expressions(request.resource.attributes()))?;
    let user = cedar::Entity::new_no_attrs(principal.clone(), roles);
    let thing = text(cedar::Entity::new(resource.clone(), attributes, HashSet::new()))?;
    let entities = text(cedar::Entities::from_entities([user, thing], Some(schema)))?;

    let context = text(expressions(request.facts.attributes()))?;
    let context = text(cedar::Context::from_pairs(context))?;
    let request = text(cedar::Request::new(principal, action, resource, context, Some(schema)))?;
    Ok(Query { request, entities })
}

fn expressions(
    attributes: facts::Attributes,
) -> Result<HashMap<String, cedar::RestrictedExpression>, Box<facts::BadName>> {
    let pairs = attributes.into_iter().map(|(name, value)| Ok((name.to_owned(), value.expression()?)));
    pairs.collect()
}

/// An error with what caused it: Cedar's outermost text alone does not name the attribute.
fn text<T>(result: Result<T, impl std::error::Error>) -> Result<T, String> {
    result.map_err(|error| {
        let mut out = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            out.push_str(&format!(": {error}"));
            cause = error.source();
        }
        out
    })
}

fn authorize(rules: &cedar::PolicySet, query: &Query) -> Verdict {
    let response = cedar::Authorizer::new().is_authorized(&query.request, rules, &query.entities);
    let failing = response.diagnostics().errors().map(|error| match error {
        cedar::AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
    });
    Verdict {
        allowed: response.decision() == cedar::Decision::Allow,
        deciding: response.diagnostics().reason().map(ToString::to_string).collect(),
        failing: failing.collect(),
    }
}

/// Puts facts in the place of `{resource.records}` and the like.
fn fill(template: &str, request: &Request) -> String {
    let mut out = template.to_owned();
    for (name, value) in request.named_facts() {
        out = out.replace(&format!("{{{name}}}"), &value.to_string());
    }
    out
}

fn alternatives(roles: &[String]) -> String {
    let quoted: Vec<String> = roles.iter().map(|role| format!("`{role}`")).collect();
    quoted.join(" or ")
}
