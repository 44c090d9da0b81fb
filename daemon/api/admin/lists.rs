//! What there is, what the rules say, and what happened: questions that change nothing.

use cloister_wire::admin as wire;

use crate::access::Principal;
use crate::api::house::Opened;
use crate::audit;
use crate::catalog::Entry;
use crate::error::{Error, Result};
use crate::pipeline::check::{self, adapter_act, dataset_resource};
use crate::pipeline::{Act, Appliance, appliance, facts};
use crate::policy::{Action, Resource};

/// All of a kind.
pub(super) fn all<T: Entry>(opened: &Opened, who: &Principal) -> Result<Vec<T>> {
    opened.appliance.allow(who, &Act::new(Action::ReadCatalog, appliance()))?;
    Ok(opened.appliance.catalog.list()?)
}

/// One of a kind.
pub(super) fn one<T: Entry>(opened: &Opened, who: &Principal, name: &str) -> Result<T> {
    opened.appliance.allow(who, &Act::new(Action::ReadCatalog, appliance()))?;
    opened.appliance.catalog.find(name)?.ok_or_else(|| Error::not_found(T::KIND, name))
}

pub(super) fn policy(opened: &Opened, who: &Principal) -> Result<wire::PolicyInfo> {
    opened.appliance.allow(who, &Act::new(Action::ReadPolicy, appliance()))?;
    Ok(opened.appliance.policy().info())
}

pub(super) fn explain(opened: &Opened, who: &Principal, spec: &wire::ExplainSpec) -> Result<wire::Explanation> {
    let a = &opened.appliance;
    a.allow(who, &Act::new(Action::ReadPolicy, appliance()))?;
    let action: Action =
        spec.action.parse().map_err(|error: crate::policy::UnknownAction| Error::invalid(error.to_string()))?;
    // An explanation shows the facts of its object and the roles of its subject: what the catalog shows, to whoever may
    // read that. Why they may not chat is told to everyone.
    let own = spec.principal.as_ref().is_none_or(|name| *name == who.name);
    if !own || (spec.object.is_some() && action != Action::Infer) {
        a.allow(who, &Act::new(Action::ReadCatalog, appliance()))?;
    }
    let subject = match &spec.principal {
        Some(name) => a.principal(name).map_err(|_| Error::not_found("user", name))?,
        None => who.clone(),
    };
    Ok(check::explain(a, &subject, question(a, action, spec)?))
}

/// The question that an act on an object would ask.
fn question(a: &Appliance, action: Action, spec: &wire::ExplainSpec) -> Result<Act> {
    let Some(name) = &spec.object else { return Ok(Act::new(action, appliance())) };
    if let Some(dataset) = a.catalog.find::<wire::Dataset>(name)? {
        return Ok(match action {
            Action::Train => check::training(&dataset, spec.purpose.as_deref()),
            _ => Act::new(action, dataset_resource(&dataset)),
        });
    }
    if let Some(adapter) = a.catalog.find::<wire::Adapter>(name)? {
        return adapter_act(a, action, &adapter);
    }
    if a.catalog.find::<wire::Model>(name)?.is_some() {
        let model = Resource::Model(crate::policy::Model { id: name.clone() });
        return Ok(Act { facts: facts(), ..Act::new(action, model) });
    }
    let nothing =
        wire::ApiError::new(wire::ErrorCode::NotFound, format!("there is no dataset, adapter or model `{name}`"));
    Err(Error::Api(nothing.remedy("`cloister dataset list` and its like show the names")))
}

pub(super) fn audit_tail(opened: &Opened, who: &Principal, n: usize) -> Result<Vec<audit::Record>> {
    opened.appliance.allow(who, &Act::new(Action::ReadAudit, appliance()))?;
    Ok(opened.appliance.audit.tail(n)?)
}

pub(super) fn audit_verify(opened: &Opened, who: &Principal) -> Result<wire::AuditReport> {
    let a = &opened.appliance;
    a.act(who, Act::new(Action::ReadAudit, appliance()).details(serde_json::json!({"what": "verify"})), || {
        let head = a.audit.head();
        Ok(match audit::verify(&a.vault.dir().join(audit::FOLDER), &a.audit.public_key(), Some(&head)) {
            Ok(report) => wire::AuditReport {
                verified: true,
                records: report.records,
                checkpoints: report.checkpoints,
                root: report.head.root,
                first_bad: None,
            },
            Err(bad) => wire::AuditReport {
                verified: false,
                records: 0,
                checkpoints: 0,
                root: String::new(),
                first_bad: Some(bad.to_string()),
            },
        })
    })
}

pub(super) fn audit_export(opened: &Opened, who: &Principal) -> Result<Vec<u8>> {
    let a = &opened.appliance;
    a.act(who, Act::new(Action::ReadAudit, appliance()).details(serde_json::json!({"what": "export"})), || {
        let mut lines = Vec::new();
        a.audit.export(1..=u64::MAX, &mut lines)?;
        Ok(lines)
    })
}
