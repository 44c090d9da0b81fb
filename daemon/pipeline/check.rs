//! Check: policy looks at cleaned records and says whether they may go on. The only mint of [`Clearance`].

use cloister_wire::admin::{Adapter, Check, CheckSpec, Dataset, Deployment, Explanation};
use serde_json::json;

use super::clean::CleanSet;
use super::seal::SealedSet;
use super::{Act, Appliance};
use crate::access::{Principal, distinct_approvers};
use crate::error::{Error, Result};
use crate::policy::{self, Action, Resource};

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

/// The role that may train, as the baseline names it.
const TRAINER: &str = "trainer";

/// What policy would say to training on a dataset, without doing anything. The question is about the records: a
/// steward asks it and is no trainer, so it is answered as for somebody who is.
pub fn check(a: &Appliance, who: &Principal, name: &str, spec: &CheckSpec) -> Result<Check> {
    let dataset = a.catalog.find::<Dataset>(name)?.ok_or_else(|| Error::not_found("dataset", name))?;
    a.allow(who, &Act::new(Action::CheckDataset, dataset_resource(&dataset)))?;
    let act = training(&dataset, spec.purpose.as_deref());
    let mut trainer = who.clone();
    trainer.roles.insert(TRAINER.into());
    let explanation = explain(a, &trainer, act);
    Ok(Check { cleared: explanation.allowed, explanation })
}

/// What policy says to an act of somebody, with the rules and the facts.
pub fn explain(a: &Appliance, who: &Principal, act: Act) -> Explanation {
    a.policy().explain(&super::request(who, &act)).into()
}

/// A dataset as policy sees it.
pub fn dataset_resource(dataset: &Dataset) -> Resource {
    Resource::Dataset(dataset.into())
}

/// An act on an adapter, with the facts that Cedar cannot compute.
pub fn adapter_act(a: &Appliance, action: Action, adapter: &Adapter) -> Result<Act> {
    let deployed = a.catalog.find::<Deployment>(&adapter.name)?.is_some();
    let mut act = Act::new(action, Resource::Adapter(policy::Adapter::new(adapter, deployed)))
        .details(json!({"digest": adapter.digest}));
    act.facts.distinct_approvers = approvers(adapter).len() as u64;
    Ok(act)
}

/// The different people whose approval of the adapter as it is counts.
pub fn approvers(adapter: &Adapter) -> Vec<String> {
    let names = distinct_approvers(&adapter.approvals, &adapter.trained_by, &adapter.digest);
    names.into_iter().map(str::to_owned).collect()
}
