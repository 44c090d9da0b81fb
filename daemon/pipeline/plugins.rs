//! Plugins: installed by an administrator, signed by this appliance, verified before each run.

use std::collections::BTreeSet;
use std::io::Read;

use cloister_vault::{read_small, write_atomic};
use cloister_wire::admin::{Plugin, PluginManifest, PluginTest};
use cloister_wire::recipe::valid_name;
use cloister_wire::record::Record;
use cloister_wire::sandbox::PluginWorld;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::json;

use super::{Act, Appliance, appliance};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;
use crate::workers::sandbox::Sandbox;

/// A component may not be larger.
const MAX_COMPONENT: u64 = 32 << 20;
const SIGNING_KEY: &str = "plugins-signing/key";

/// Installs a plugin: its digest must be the manifest's, and the sandbox must accept it.
pub fn install(a: &Appliance, who: &Principal, manifest: PluginManifest, content: impl Read) -> Result<Plugin> {
    valid_name(&manifest.name).map_err(|why| Error::invalid(format!("the plugin's name {why}")))?;
    let _reserved = a.reserve("plugin", &manifest.name)?;
    let act = Act::new(Action::InstallPlugin, appliance())
        .details(json!({"plugin": manifest.name, "version": manifest.version, "sha256": manifest.sha256}));
    a.act(who, act, || {
        let component = read_component(content)?;
        if hex(digest(&SHA256, &component).as_ref()) != manifest.sha256 {
            return Err(Error::invalid("the component is not the one its manifest names")
                .remedy("rebuild it with `cargo xtask plugins`"));
        }
        let sandbox = Sandbox::load(&a.workers.sandbox, manifest.world, &a.plugin_limits, &component)?;
        let description = sandbox.description().clone();
        if description.name != manifest.name || description.version != manifest.version {
            return Err(Error::invalid(format!(
                "the component says it is `{}` {}",
                description.name, description.version
            ))
            .remedy("install it with the manifest that was built with it"));
        }
        let signature = hex(signing_key(a)?.sign(&signed_bytes(&manifest)?).as_ref());
        let plugin =
            Plugin { name: manifest.name.clone(), manifest, description, signature, installed_by: who.name.clone() };
        write_atomic(a.vault.storage(), &path(a, &plugin.name), &component)?;
        a.catalog.put(&plugin)?;
        Ok(plugin)
    })
}

fn read_component(content: impl Read) -> Result<Vec<u8>> {
    let mut component = Vec::new();
    let read = content.take(MAX_COMPONENT + 1).read_to_end(&mut component);
    read.map_err(|error| Error::invalid(format!("the upload broke off: {error}")))?;
    if component.len() as u64 > MAX_COMPONENT {
        return Err(Error::invalid(format!("the component is larger than {MAX_COMPONENT} bytes")));
    }
    Ok(component)
}

/// The plugins to clean with, in order: those named, or all that are installed, cleaners first.
pub fn wanted(a: &Appliance, names: &[String]) -> Result<Vec<Plugin>> {
    let installed = a.catalog.list::<Plugin>()?;
    let mut wanted = if names.is_empty() {
        installed
    } else {
        let unique: BTreeSet<&String> = names.iter().collect();
        if unique.len() != names.len() {
            return Err(Error::invalid("a plugin is named twice"));
        }
        let find = |name: &String| {
            installed.iter().find(|p| p.name == *name).cloned().ok_or_else(|| Error::not_found("plugin", name))
        };
        names.iter().map(find).collect::<Result<_>>()?
    };
    if wanted.is_empty() {
        return Err(
            Error::invalid("no plugin is installed").remedy("install one: `cloister plugin install redact.wasm`")
        );
    }
    wanted.sort_by_key(|plugin| plugin.manifest.world == PluginWorld::Scorer);
    Ok(wanted)
}

/// Loads an installed plugin, after its signature and its digest have been verified.
pub fn load(a: &Appliance, plugin: &Plugin) -> Result<Sandbox> {
    let altered = || {
        Error::failed(format!("plugin `{}` is not what was installed", plugin.name))
            .remedy(format!("`cloister plugin rm {}`, then install it again", plugin.name))
    };
    let signature = cloister_vault::hex::decode(&plugin.signature).ok_or_else(altered)?;
    let public = signing_key(a)?;
    UnparsedPublicKey::new(&ED25519, public.public_key().as_ref())
        .verify(&signed_bytes(&plugin.manifest)?, &signature)
        .map_err(|_| altered())?;
    let component = read_small(a.vault.storage(), &path(a, &plugin.name), MAX_COMPONENT)?.ok_or_else(altered)?;
    if hex(digest(&SHA256, &component).as_ref()) != plugin.manifest.sha256 {
        return Err(altered());
    }
    Ok(Sandbox::load(&a.workers.sandbox, plugin.manifest.world, &a.plugin_limits, &component)?)
}

/// Shows what a plugin makes of given records.
pub fn test(a: &Appliance, who: &Principal, name: &str, records: &[Record]) -> Result<PluginTest> {
    a.allow(who, &Act::new(Action::ReadCatalog, appliance()))?;
    let plugin = a.catalog.find::<Plugin>(name)?.ok_or_else(|| Error::not_found("plugin", name))?;
    let batch = load(a, &plugin)?.run(records)?;
    Ok(PluginTest { outcomes: batch.outcomes, records: batch.kept.into() })
}

/// Removes a plugin.
pub fn remove(a: &Appliance, who: &Principal, name: &str) -> Result<()> {
    let _reserved = a.reserve("plugin", name)?;
    a.catalog.find::<Plugin>(name)?.ok_or_else(|| Error::not_found("plugin", name))?;
    let act = Act::new(Action::RemovePlugin, appliance()).details(json!({"plugin": name}));
    a.act(who, act, || {
        a.catalog.remove::<Plugin>(name)?;
        a.vault.storage().remove(&path(a, name)).map_err(|error| Error::failed(error.to_string()))
    })
}

fn path(a: &Appliance, name: &str) -> std::path::PathBuf {
    a.plugins.join(format!("{name}.wasm"))
}

fn signed_bytes(manifest: &PluginManifest) -> Result<Vec<u8>> {
    serde_json::to_vec(manifest).map_err(|error| Error::failed(error.to_string()))
}

/// The appliance's key for plugins; made when first needed.
fn signing_key(a: &Appliance) -> Result<Ed25519KeyPair> {
    let damaged = |_| Error::failed("the key that signs plugins is damaged").remedy("restore it from a backup");
    if let Some(pkcs8) = a.vault.read_sealed(SIGNING_KEY)? {
        return Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(damaged);
    }
    let random = ring::rand::SystemRandom::new();
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| Error::failed("the system gives no random numbers"))?;
    a.vault.write_sealed(SIGNING_KEY, pkcs8.as_ref())?;
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(damaged)
}

fn hex(bytes: &[u8]) -> String {
    cloister_vault::hex::encode(bytes)
}
