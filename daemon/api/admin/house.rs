//! The appliance as a whole: its state, its keys, its people, its health.

use cloister_vault::RootSource;
use cloister_wire::admin as wire;
use serde_json::json as value;
use warp::reply::Response;

use super::{Call, blocking, json, read_json};
use crate::access::{NewUser, Principal, UserError};
use crate::api::house::{House, Opened};
use crate::error::{Error, Result};
use crate::pipeline::{Act, appliance, now};
use crate::policy::Action;

mod health;

pub(super) use health::doctor;

const ADMINISTRATOR: &str = "administrator";

/// Known to everybody who gets through the door; what exists is told only to those who may list it.
pub(super) async fn status(call: Call) -> Result<Response> {
    let Call { house, who, .. } = call;
    let running = match house.peek() {
        Some(opened) => {
            let jobs = opened.supervisor.list().await?;
            jobs.into_iter().filter(|job| !job.state.at_rest()).map(|job| job.id).collect()
        }
        None => Vec::new(),
    };
    let status = blocking(move || describe(&house, &who, running)).await?;
    json(&status)
}

fn describe(house: &House, who: &Principal, running: Vec<String>) -> Result<wire::Status> {
    let mut status = wire::Status {
        version: env!("CARGO_PKG_VERSION").into(),
        sealed: true,
        uptime_s: house.started.elapsed().as_secs(),
        principal: who.name.clone(),
        roles: who.roles.clone(),
        counts: Default::default(),
        running: Vec::new(),
        deployed: Vec::new(),
        policy_digest: String::new(),
        audit_records: 0,
    };
    if let Some(opened) = house.peek() {
        let a = &opened.appliance;
        a.allow(who, &Act::new(Action::ReadStatus, appliance()))?;
        status.sealed = false;
        status.running = running;
        status.policy_digest = a.policy().digest().into();
        status.audit_records = a.audit.head().size;
        status.deployed = a.catalog.list::<wire::Deployment>()?.into_iter().map(|d| d.adapter).collect();
        status.counts = a.catalog.counts()?;
    }
    Ok(status)
}

/// While the vault is sealed there is no policy to ask: the role in the certificate's registry decides.
fn must_be_administrator(who: &Principal) -> Result<()> {
    if who.roles.contains(ADMINISTRATOR) {
        return Ok(());
    }
    let error = wire::ApiError::new(wire::ErrorCode::Denied, format!("`{}` is no administrator", who.name));
    Err(Error::Api(error.remedy("ask an administrator to run `cloister unseal`")))
}

pub(super) async fn unseal(call: Call) -> Result<Response> {
    let Call { house, who, body, .. } = call;
    must_be_administrator(&who)?;
    let request: wire::Unseal = read_json(body, house.max_request_bytes).await?;
    let status = blocking(move || {
        let opened = house.unseal(RootSource::passphrase(request.passphrase.clone())).inspect_err(|error| {
            log::warn!(principal = who.name.as_str(); "the vault was not opened: {error}");
        })?;
        opened.appliance.logged(&who.name, "Unseal", "appliance/cloister", value!(null), || Ok(()))?;
        describe(&house, &who, Vec::new())
    })
    .await?;
    json(&status)
}

pub(super) fn keys(opened: &Opened, who: &Principal) -> Result<wire::KeyStatus> {
    opened.appliance.allow(who, &Act::new(Action::ManageKeys, appliance()))?;
    key_status(opened)
}

fn key_status(opened: &Opened) -> Result<wire::KeyStatus> {
    let vault = &opened.appliance.vault;
    let status = vault.status();
    let keys = vault.list_keys()?;
    Ok(wire::KeyStatus {
        version: status.versions.last().copied().unwrap_or_default(),
        root: status.source.into(),
        keys: keys.open.iter().map(|(id, _)| id.to_string()).collect(),
    })
}

pub(super) fn rotate(opened: &Opened, who: &Principal) -> Result<wire::KeyStatus> {
    opened.appliance.act(who, Act::new(Action::ManageKeys, appliance()).details(value!({"what": "rotate"})), || {
        opened.appliance.vault.rotate()?;
        key_status(opened)
    })
}

pub(super) fn backup(opened: &Opened, who: &Principal, pass: &wire::Passphrase) -> Result<wire::KeyBackup> {
    use base64::Engine as _;
    let act = Act::new(Action::ManageKeys, appliance()).details(value!({"what": "backup"}));
    opened.appliance.act(who, act, || {
        let backup = opened.appliance.vault.backup(&RootSource::passphrase(pass.passphrase.clone()))?;
        Ok(wire::KeyBackup { backup: base64::engine::general_purpose::STANDARD.encode(backup) })
    })
}

pub(super) async fn users(call: Call) -> Result<Response> {
    let Call { house, who, .. } = call;
    let opened = house.opened()?;
    let users = blocking(move || {
        opened.appliance.allow(&who, &Act::new(Action::ManageUsers, appliance()))?;
        Ok(house.users.read().unwrap_or_else(std::sync::PoisonError::into_inner).list())
    })
    .await?;
    json(&users)
}

pub(super) async fn add_user(call: Call) -> Result<Response> {
    let Call { house, who, body, .. } = call;
    let spec: wire::UserSpec = read_json(body, house.max_request_bytes).await?;
    let opened = house.opened()?;
    let identity = blocking(move || {
        let a = &opened.appliance;
        let act = Act::new(Action::ManageUsers, appliance()).details(
            value!({"what": "add", "user": spec.name, "roles": spec.roles, "uid": spec.uid.unwrap_or(who.uid)}),
        );
        a.act(&who, act, || {
            let clock = time::OffsetDateTime::now_utc().unix_timestamp();
            let identity =
                house.authority.issue_client(&spec.name, clock).map_err(|error| Error::failed(error.to_string()))?;
            let user = NewUser {
                name: &spec.name,
                roles: &spec.roles,
                uid: Some(spec.uid.unwrap_or(who.uid)),
                fingerprint: &identity.fingerprint,
                now: &now(),
            };
            let mut users = house.users.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            users.add(&user, a.policy().roles(), &house.write_users).map_err(user_error)?;
            Ok(identity)
        })
    })
    .await?;
    json(&identity)
}

pub(super) async fn revoke_user(call: Call, name: &str) -> Result<Response> {
    let Call { house, who, .. } = call;
    let (opened, name) = (house.opened()?, name.to_owned());
    let fingerprints = blocking(move || {
        let act = Act::new(Action::ManageUsers, appliance()).details(value!({"what": "revoke", "user": name}));
        opened.appliance.act(&who, act, || {
            let mut users = house.users.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            users.revoke(&name, &now(), &house.write_users).map_err(user_error)
        })
    })
    .await?;
    json(&value!({"revoked": fingerprints}))
}

fn user_error(error: UserError) -> Error {
    match error {
        UserError::Exists(_) | UserError::LastAdministrator(_) => Error::conflict(error.to_string()),
        UserError::Unknown(ref name) => Error::not_found("user", name),
        UserError::Write(_) | UserError::Damaged(_) => Error::failed(error.to_string()),
        _ => Error::invalid(error.to_string()),
    }
}

pub(super) async fn policy_test(call: Call) -> Result<Response> {
    let Call { house, who, .. } = call;
    let opened = house.opened()?;
    let results = blocking(move || {
        let a = &opened.appliance;
        a.allow(&who, &Act::new(Action::ReadPolicy, appliance()))?;
        let report = a.policy().check_cases(&house.policy_cases).map_err(|error| Error::failed(error.to_string()))?;
        Ok(Vec::<wire::CaseResult>::from(report))
    })
    .await?;
    json(&results)
}
