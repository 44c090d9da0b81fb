//! Approve: two people vouch for an adapter as it is, byte for byte. The only mint of [`Release`].

use cloister_wire::admin::{Adapter, Approval, ApproveSpec};
use serde_json::json;

use super::check::{adapter_act, approvers};
use super::train::find;
use super::{Appliance, now};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;

/// Longest note that is kept.
const MAX_NOTE: usize = 2000;

/// Policy's yes to serving one adapter. It vouches for a digest: another adapter does not match it.
#[derive(Debug)]
pub struct Release {
    digest: String,
    approvers: Vec<String>,
}

impl Release {
    /// Refuses an adapter that it was not given for.
    pub fn covers(&self, adapter: &Adapter) -> Result<()> {
        if self.digest == adapter.digest {
            return Ok(());
        }
        Err(Error::failed("a release was shown for an adapter that it was not given for"))
    }

    /// Who approved.
    pub fn approvers(&self) -> &[String] {
        &self.approvers
    }
}

/// One person's yes.
pub fn approve(a: &Appliance, who: &Principal, name: &str, spec: &ApproveSpec) -> Result<Adapter> {
    if spec.note.len() > MAX_NOTE {
        return Err(Error::invalid(format!("the note is longer than {MAX_NOTE} bytes")));
    }
    let _reserved = a.reserve("adapter", name)?;
    let mut adapter = find(a, name)?;
    let act = adapter_act(a, Action::Approve, &adapter)?.details(json!({"digest": adapter.digest, "note": spec.note}));
    a.act(who, act, || {
        adapter.approvals.push(Approval {
            principal: who.name.clone(),
            at: now(),
            adapter_digest: adapter.digest.clone(),
            note: spec.note.clone(),
        });
        a.catalog.put(&adapter)?;
        Ok(adapter)
    })
}

/// May this adapter be served?
pub fn release(a: &Appliance, who: &Principal, adapter: &Adapter) -> Result<Release> {
    a.allow(who, &adapter_act(a, Action::Serve, adapter)?)?;
    Ok(Release { digest: adapter.digest.clone(), approvers: approvers(adapter) })
}
