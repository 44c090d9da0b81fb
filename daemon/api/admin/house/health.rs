//! `cloister doctor`'s half of the daemon: what it can see of itself.

use cloister_wire::admin::{Finding, Level};
use warp::reply::Response;

use super::super::{Call, blocking, json};
use crate::api::house::House;
use crate::audit;
use crate::error::Result;
use crate::pipeline::{Appliance, models};
use crate::workers::Source;

/// Below this the next checkpoint may not fit.
const LITTLE_ROOM: u64 = 2 << 30;

pub(in crate::api::admin) async fn doctor(call: Call) -> Result<Response> {
    let Call { house, .. } = call;
    json(&blocking(move || Ok(look(&house))).await?)
}

fn look(house: &House) -> Vec<Finding> {
    let Some(opened) = house.peek() else {
        return vec![bad("vault", Level::Error, "the vault is sealed", "an administrator runs `cloister unseal`")];
    };
    let a = &opened.appliance;
    let mut findings = vec![good("vault", "open")];
    findings.extend(keys(a));
    findings.push(room(a));
    findings.push(audit_log(a));
    findings.extend(worker("engine", &a.workers.engine));
    findings.extend(worker("sandbox", &a.workers.sandbox));
    findings.push(plugins(a));
    findings.extend(weights(a));
    findings.extend(a.catalog.damaged().into_iter().map(|entry| {
        let what = format!("entry `{}/{}` is not readable: {}", entry.kind, entry.id, entry.reason);
        bad("catalog", Level::Error, &what, "restore `catalog/` from a backup, or remove the entry")
    }));
    findings
}

fn good(check: &str, message: &str) -> Finding {
    Finding { check: check.into(), level: Level::Ok, message: message.into(), remedy: None }
}

fn bad(check: &str, level: Level, message: &str, remedy: &str) -> Finding {
    Finding { check: check.into(), level, message: message.into(), remedy: Some(remedy.into()) }
}

fn keys(a: &Appliance) -> Vec<Finding> {
    match a.vault.list_keys() {
        Ok(keys) if keys.damaged.is_empty() => vec![good("keys", &format!("{} data keys open", keys.open.len()))],
        Ok(keys) => {
            let damaged =
                format!("{} of {} data keys do not open", keys.damaged.len(), keys.damaged.len() + keys.open.len());
            vec![bad(
                "keys",
                Level::Error,
                &damaged,
                "restore `keys/` from a backup; what they sealed is lost otherwise",
            )]
        }
        Err(error) => vec![bad("keys", Level::Error, &error.to_string(), "check the state folder's disk")],
    }
}

fn room(a: &Appliance) -> Finding {
    match rustix::fs::statvfs(a.vault.dir()) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let message = format!("{} MB free", free >> 20);
            if free < LITTLE_ROOM {
                bad("disk", Level::Warning, &message, "free some room: checkpoints and the audit log need it")
            } else {
                good("disk", &message)
            }
        }
        Err(error) => bad("disk", Level::Error, &error.to_string(), "check the state folder's disk"),
    }
}

fn audit_log(a: &Appliance) -> Finding {
    let head = a.audit.head();
    match audit::verify(&a.vault.dir().join(audit::FOLDER), &a.audit.public_key(), Some(&head)) {
        Ok(report) => good("audit", &format!("{} records verified", report.records)),
        Err(first) => {
            bad("audit", Level::Error, &first.to_string(), "keep a copy of `audit/` and call the security officer")
        }
    }
}

fn worker(name: &str, source: &Source) -> Option<Finding> {
    match source.start() {
        Ok(_) => Some(good(name, "starts")),
        Err(error) => Some(bad(
            name,
            Level::Error,
            &error.to_string(),
            "reinstall the package, or set `workers` in cloister.toml",
        )),
    }
}

fn plugins(a: &Appliance) -> Finding {
    let wanted = match crate::pipeline::plugins::wanted(a, &[]) {
        Ok(wanted) => wanted,
        Err(error) => {
            return bad("plugins", Level::Warning, &error.to_string(), "`cloister plugin install redact.wasm`");
        }
    };
    match wanted.iter().find_map(|plugin| crate::pipeline::plugins::load(a, plugin).err()) {
        None => good("plugins", &format!("{} verified and loaded", wanted.len())),
        Some(error) => bad("plugins", Level::Error, &error.to_string(), "remove the plugin and install it again"),
    }
}

fn weights(a: &Appliance) -> Vec<Finding> {
    let models = match a.catalog.list::<cloister_wire::admin::Model>() {
        Ok(models) => models,
        Err(error) => return vec![bad("models", Level::Error, &error.to_string(), "check the state folder's disk")],
    };
    if models.is_empty() {
        return vec![bad(
            "models",
            Level::Warning,
            "no base model is imported",
            "`cloister model import DIR --name NAME`",
        )];
    }
    let check = |model: &cloister_wire::admin::Model| match models::open(a, model) {
        Ok(_) => good("models", &format!("`{}` is as it was imported", model.name)),
        Err(error) => bad("models", Level::Error, &error.to_string(), "remove the model and import it again"),
    };
    models.iter().map(check).collect()
}
