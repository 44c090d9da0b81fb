//! Why a decision came out as it did: every rule that speaks of the action, whether it applies,
//! and the facts that were looked at. For `cloister policy explain`, and for the person denied.

use super::{Decision, Effect, PolicySet, Query, Request, Rule, authorize, fill};
use cedar_policy as cedar;
use serde::Serialize;
use std::fmt;

/// A decision and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asked for what, in one line.
    pub question: String,
    /// The answer.
    pub decision: Decision,
    /// Every rule that speaks of this action, in load order.
    pub rules: Vec<RuleTrace>,
    /// Every fact that was handed in, by its name in the rules.
    pub facts: Vec<(String, String)>,
}

/// What one rule said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleTrace {
    /// Its `@id`.
    pub id: String,
    /// Whether it permits or forbids.
    pub effect: Effect,
    /// The file and the line it stands in: `baseline.cedar:12`.
    pub place: String,
    /// Whether it applied.
    pub outcome: Outcome,
    /// Whether it is one of the rules that decided.
    pub decided: bool,
    /// Its reason, facts filled in.
    pub reason: String,
    /// Its remedy, facts filled in; empty for a permit.
    pub remedy: String,
}

/// Whether a rule applied to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its conditions hold.
    Applies,
    /// They do not.
    DoesNotApply,
    /// It could not be evaluated, which denies.
    Failed,
}

impl PolicySet {
    /// Decides, and says how.
    pub fn explain(&self, request: &Request) -> Explanation {
        let decision = self.decide(request);
        let rules = match self.query(request) {
            Ok(query) => self.traces(request, &query, &decision),
            Err(_) => Vec::new(), // the decision says what does not fit
        };
        Explanation {
            question: format!(
                "may `{}` do `{}` to {} `{}`?",
                request.principal.name,
                request.action,
                request.resource.kind().to_lowercase(),
                request.resource.id()
            ),
            decision,
            rules,
            facts: request.named_facts().into_iter().map(|(name, fact)| (name, fact.to_string())).collect(),
        }
    }

    fn traces(&self, request: &Request, query: &Query, decision: &Decision) -> Vec<RuleTrace> {
        let deciding = match decision {
            Decision::Allow { rules } => rules,
            Decision::Deny(denial) => &denial.all_rules,
        };
        let traces = self.rules.iter().filter_map(|rule| {
            let policy = self.all.policy(&cedar::PolicyId::new(&rule.id))?;
            speaks_of(policy, query).then(|| RuleTrace {
                id: rule.id.clone(),
                effect: rule.effect,
                place: format!("{}:{}", rule.file, rule.line),
                outcome: outcome(policy, query),
                decided: deciding.contains(&rule.id),
                reason: reason(rule, request),
                remedy: fill(&rule.remedy, request),
            })
        });
        traces.collect()
    }
}

fn reason(rule: &Rule, request: &Request) -> String {
    fill(&rule.reason, request)
}

fn speaks_of(policy: &cedar::Policy, query: &Query) -> bool {
    let Some(action) = query.request.action() else { return true };
    match policy.action_constraint() {
        cedar::ActionConstraint::Any => true,
        cedar::ActionConstraint::In(actions) => actions.contains(action),
        cedar::ActionConstraint::Eq(only) => only == *action,
    }
}

/// A rule alone decides exactly when it applies, whichever its effect.
fn outcome(policy: &cedar::Policy, query: &Query) -> Outcome {
    let Ok(alone) = cedar::PolicySet::from_policies([policy.clone()]) else { return Outcome::Failed };
    let verdict = authorize(&alone, query);
    match (verdict.failing.is_empty(), verdict.deciding.is_empty()) {
        (false, _) => Outcome::Failed,
        (true, false) => Outcome::Applies,
        (true, true) => Outcome::DoesNotApply,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.question)?;
        match &self.decision {
            Decision::Allow { rules } => writeln!(f, "allowed by {}", rules.join(", "))?,
            Decision::Deny(denial) => {
                writeln!(f, "denied by {}", denial.all_rules.join(", "))?;
                writeln!(f, "  why:    {}", denial.reason)?;
                writeln!(f, "  remedy: {}", denial.remedy)?;
            }
        }
        writeln!(f, "\nrules that speak of it (* decided):")?;
        for rule in &self.rules {
            writeln!(f, "{rule}")?;
        }
        writeln!(f, "\nfacts:")?;
        let width = self.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.facts.iter().try_for_each(|(name, fact)| writeln!(f, "  {name:width$}  {fact}"))
    }
}

impl fmt::Display for RuleTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.decided { '*' } else { ' ' };
        let effect = match self.effect {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        };
        let outcome = match self.outcome {
            Outcome::Applies => "applies",
            Outcome::DoesNotApply => "does not apply",
            Outcome::Failed => "FAILED, which denies",
        };
        write!(f, "{mark} {effect} {} ({}): {outcome}", self.id, self.place)
    }
}
