//! Check: policy looks at cleaned records and says whether they may go on. The only mint of [`Clearance`].

use cloister_wire::admin::{Adapter, Check, CheckSpec, Dataset, DatasetState, Explanation, Label};
use serde_json::json;

use super::clean::CleanSet;
use super::seal::SealedSet;
use super::{Act, Appliance, facts};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::{self, Action, Request, Resource};

/// Policy's yes to one set of records, for one act. It vouches for a digest: other records do not match it.
#[derive(Debug)]
pub struct Clearance {
    digest: String,
}

impl Clearance {
    /// Refuses records that it was not given for.
    pub fn covers(&self, digest: &str) -> Result<()> {
        if self.digest == digest {
            return Ok(());
        }
        Err(Error::failed("a clearance was shown for records that it was not given for"))
    }
}

/// May these cleaned records be sealed for later use?
pub fn for_sealing(a: &Appliance, who: &Principal, clean: &CleanSet) -> Result<Clearance> {
    let act = Act::new(Action::CheckDataset, dataset_resource(clean.dataset()));
    a.allow(who, &act)?;
    Ok(Clearance { digest: clean.digest().into() })
}

/// May these sealed records be trained on, for this purpose?
pub fn for_training(a: &Appliance, who: &Principal, sealed: &SealedSet, purpose: Option<&str>) -> Result<Clearance> {
    a.allow(who, &training(sealed.dataset(), purpose))?;
    Ok(Clearance { digest: sealed.digest().into() })
}

/// The question that training asks, also of records that are not sealed yet: then policy's no comes first.
pub fn training(dataset: &Dataset, purpose: Option<&str>) -> Act {
    let purpose = purpose_of(dataset, purpose);
    Act::new(Action::Train, dataset_resource(dataset)).purpose(&purpose).details(json!({"purpose": purpose}))
}

fn purpose_of(dataset: &Dataset, declared: Option<&str>) -> String {
    match (declared, dataset.purposes.len()) {
        (Some(purpose), _) => purpose.into(),
        // What has one purpose is used for that.
        (None, 1) => dataset.purposes.iter().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

/// What policy would say to training on a dataset, without doing anything.
pub fn check(a: &Appliance, who: &Principal, name: &str, spec: &CheckSpec) -> Result<Check> {
    let dataset = a.catalog.get::<Dataset>(name)?.ok_or_else(|| Error::not_found("dataset", name))?;
    a.allow(who, &Act::new(Action::CheckDataset, dataset_resource(&dataset)))?;
    let act = training(&dataset, spec.purpose.as_deref());
    let explanation = explain(a, who, act);
    Ok(Check { cleared: explanation.allowed, explanation })
}

/// What policy says to an act of somebody, with the rules and the facts.
pub fn explain(a: &Appliance, who: &Principal, act: Act) -> Explanation {
    let request = Request {
        principal: policy::Principal { name: who.name.clone(), roles: who.roles.clone() },
        action: act.action,
        resource: act.resource,
        facts: act.facts,
    };
    let told = a.policy().explain(&request);
    let facts = told.facts.into_iter().collect();
    match told.decision {
        policy::Decision::Allow { rules } => Explanation {
            allowed: true,
            reason: format!("permitted by {}", rules.join(", ")),
            rules,
            remedy: String::new(),
            facts,
        },
        policy::Decision::Deny(denial) => Explanation {
            allowed: false,
            rules: denial.all_rules,
            reason: denial.reason,
            remedy: denial.remedy,
            facts,
        },
    }
}

/// A dataset as policy sees it.
pub fn dataset_resource(dataset: &Dataset) -> Resource {
    let cleaning = dataset.cleaning.as_ref();
    let count = |of: fn(&cloister_wire::admin::Cleaning) -> u64| cleaning.map_or(0, of);
    Resource::Dataset(policy::Dataset {
        id: dataset.name.clone(),
        label: label(dataset.label),
        purposes: dataset.purposes.clone(),
        imported_by: dataset.owner.clone(),
        cleaned: dataset.state == DatasetState::Sealed || cleaning.is_some(),
        // `redact@0.1.0` is known to the rules as `redact`.
        plugins: cleaning.iter().flat_map(|c| &c.plugins).map(|p| p.split('@').next().unwrap_or(p).to_owned()).collect(),
        records: dataset.records_in,
        records_examined: count(|c| c.examined),
        records_kept: dataset.records,
        findings: count(cloister_wire::admin::Cleaning::total_findings),
        residual_findings: count(|c| c.residual_findings),
    })
}

/// An adapter as policy sees it, and the facts that Cedar cannot compute.
pub fn adapter_act(a: &Appliance, action: Action, adapter: &Adapter) -> Result<Act> {
    let approvers = valid_approvers(adapter);
    let evaluation = adapter.evaluation.as_ref().filter(|report| report.adapter_digest == adapter.digest);
    let resource = Resource::Adapter(policy::Adapter {
        id: adapter.name.clone(),
        label: label(adapter.label),
        purposes: adapter.purposes.clone(),
        base: adapter.base.clone(),
        trained_by: adapter.trained_by.clone(),
        approvers: approvers.iter().cloned().collect(),
        evaluated: evaluation.is_some(),
        evaluation_passed: evaluation.is_some_and(|report| report.figures.adapter.loss < report.figures.base.loss),
        verbatim_answers: None,
        deployed: a.catalog.get::<cloister_wire::admin::Deployment>(&adapter.name)?.is_some(),
    });
    let distinct = approvers.iter().filter(|name| **name != adapter.trained_by).count();
    let mut act = Act::new(action, resource).details(json!({"digest": adapter.digest}));
    act.facts = policy::Facts { distinct_approvers: distinct as u64, ..facts() };
    Ok(act)
}

/// Who approved the adapter as it is now, each once.
pub fn valid_approvers(adapter: &Adapter) -> Vec<String> {
    let mut names: Vec<String> =
        adapter.approvals.iter().filter(|x| x.adapter_digest == adapter.digest).map(|x| x.principal.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// A label as policy knows it.
pub fn label(label: Label) -> policy::Label {
    match label {
        Label::Public => policy::Label::Public,
        Label::Internal => policy::Label::Internal,
        Label::Privileged => policy::Label::Privileged,
        Label::Phi => policy::Label::Phi,
    }
}
