//! What a decision is made on: who, what, on which thing, and the facts that Cedar cannot compute.
//!
//! These are plain values that the daemon fills in from the catalog and the clock; turning them
//! into Cedar's entities happens here and nowhere else. The names are those of
//! `policies/schema.cedarschema` (camel case, as Cedar users expect), also in the cases.
//!
//! What always holds: a field left at its default can only make a decision stricter. No field holds
//! any of a record's text, so all of them may be shown in a denial and kept in the audit log.

pub use cloister_wire::admin::Label;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// May `principal` do `action` to `resource`, given `facts`?
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// What they want to do.
    pub action: Action,
    /// To what.
    pub resource: Resource,
    /// What Cedar cannot compute.
    pub facts: Facts,
}

/// Who asks: a name from a certificate, and the roles it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// The name; two certificates with one name are one person.
    pub name: String,
    /// Names of roles, as the schema enumerates them; an unknown one denies.
    #[serde(default)]
    pub roles: BTreeSet<String>,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Everything that can be asked for; the schema says which resource each goes with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Action { $($(#[$doc])* $name),* }

        impl Action {
            /// Every action.
            pub const ALL: &'static [Action] = &[$(Action::$name),*];

            /// Its name in Cedar.
            pub fn name(self) -> &'static str {
                match self { $(Action::$name => stringify!($name)),* }
            }
        }
    };
}

actions! {
    /// Bring a base model in.
    ImportModel,
    /// Delete a base model.
    RemoveModel,
    /// Bring a plugin in.
    InstallPlugin,
    /// Delete a plugin.
    RemovePlugin,
    /// Bring records in.
    ImportDataset,
    /// Run plugins over records.
    CleanDataset,
    /// Ask whether a dataset could be trained on.
    CheckDataset,
    /// Look at some cleaned records.
    SampleDataset,
    /// Destroy a dataset's key.
    ShredDataset,
    /// Take records out. No verb does it: the action exists so that a rule can say never.
    ExportDataset,
    /// Train an adapter on a dataset.
    Train,
    /// Cancel, pause or resume a job.
    ControlJob,
    /// Measure an adapter.
    Evaluate,
    /// Vouch for an adapter.
    Approve,
    /// Put an adapter into service.
    Serve,
    /// Take an adapter out of service.
    Undeploy,
    /// Chat or complete.
    Infer,
    /// Write an adapter's files out of the appliance.
    ExportAdapter,
    /// Bring an adapter in.
    ImportAdapter,
    /// Destroy an adapter's key.
    RemoveAdapter,
    /// Merge an adapter into its base.
    MergeAdapter,
    /// Add, list or revoke people.
    ManageUsers,
    /// Rotate, back up or restore keys.
    ManageKeys,
    /// Read the rules and ask what they would say.
    ReadPolicy,
    /// Read, verify or export the audit log.
    ReadAudit,
    /// Read the appliance's status.
    ReadStatus,
    /// List models, datasets, adapters, jobs.
    ReadCatalog,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no action.
#[derive(Debug, thiserror::Error)]
#[error("there is no action `{0}`; `cloister policy list` shows them")]
pub struct UnknownAction(String);

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        let found = Self::ALL.iter().find(|action| action.name().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| UnknownAction(text.to_owned()))
    }
}

/// The thing an action is done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Resource {
    /// Whatever has no entity of its own.
    Appliance(Appliance),
    /// A base model.
    Model(Model),
    /// Records.
    Dataset(Dataset),
    /// What was learnt from records.
    Adapter(Adapter),
    /// Long work.
    Job(Job),
}

/// The appliance itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appliance {}

/// A base model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name in the catalog.
    pub id: String,
}

/// Records, and the evidence that they were cleaned. See the schema for what each field means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs)] // the schema documents them, once
pub struct Dataset {
    pub id: String,
    pub label: Label,
    pub purposes: BTreeSet<String>,
    pub imported_by: String,
    pub cleaned: bool,
    pub plugins: BTreeSet<String>,
    pub records: u64,
    pub records_examined: u64,
    pub records_kept: u64,
    pub findings: u64,
    pub residual_findings: u64,
}

/// What was learnt from records. See the schema for what each field means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs)] // the schema documents them, once
pub struct Adapter {
    pub id: String,
    pub label: Label,
    pub purposes: BTreeSet<String>,
    pub base: String,
    pub trained_by: String,
    pub approvers: BTreeSet<String>,
    pub evaluated: bool,
    pub evaluation_passed: bool,
    pub verbatim_answers: Option<u64>,
    pub deployed: bool,
}

/// Long work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs)] // the schema documents them, once
pub struct Job {
    pub id: String,
    pub kind: String,
    pub label: Label,
    pub started_by: String,
}

/// What Cedar cannot compute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Facts {
    /// Declared for this act, for instance a recipe's purpose; empty if none was.
    pub purpose: String,
    /// Different people who approved the adapter, its trainer not counted.
    pub distinct_approvers: u64,
    /// Trusted time, seconds since 1970. Deciding is pure: whoever asks reads the clock.
    pub now: i64,
}

/// One attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    Texts(BTreeSet<String>),
    Entity(&'static str, String),
    Entities(&'static str, BTreeSet<String>),
}

/// Named values, as both Cedar and a reader get them.
pub(super) type Attributes = Vec<(&'static str, Value)>;

/// An entity's name cannot be written in Cedar; it cannot happen with the names above.
pub(super) type BadName = cedar_policy::ParseErrors;

pub(super) fn entity(kind: &str, id: &str) -> Result<EntityUid, Box<BadName>> {
    let kind = EntityTypeName::from_str(kind)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

impl Value {
    pub(super) fn expression(&self) -> Result<RestrictedExpression, Box<BadName>> {
        use RestrictedExpression as E;
        Ok(match self {
            Value::Text(text) => E::new_string(text.clone()),
            Value::Number(number) => E::new_long(*number),
            Value::Flag(flag) => E::new_bool(*flag),
            Value::Texts(texts) => E::new_set(texts.iter().cloned().map(E::new_string)),
            Value::Entity(kind, id) => E::new_entity_uid(entity(kind, id)?),
            Value::Entities(kind, ids) => {
                let ids = ids.iter().map(|id| Ok(E::new_entity_uid(entity(kind, id)?)));
                E::new_set(ids.collect::<Result<Vec<_>, Box<BadName>>>()?)
            }
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) | Value::Entity(_, text) => f.write_str(text),
            Value::Number(number) => write!(f, "{number}"),
            Value::Flag(flag) => f.write_str(if *flag { "yes" } else { "no" }),
            Value::Texts(texts) | Value::Entities(_, texts) if texts.is_empty() => f.write_str("none"),
            Value::Texts(texts) | Value::Entities(_, texts) => {
                let quoted: Vec<String> = texts.iter().map(|text| format!("`{text}`")).collect();
                f.write_str(&quoted.join(", "))
            }
        }
    }
}

impl Resource {
    /// Its type in Cedar.
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::Appliance(_) => "Appliance",
            Resource::Model(_) => "Model",
            Resource::Dataset(_) => "Dataset",
            Resource::Adapter(_) => "Adapter",
            Resource::Job(_) => "Job",
        }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        match self {
            Resource::Appliance(_) => "cloister",
            Resource::Model(model) => &model.id,
            Resource::Dataset(dataset) => &dataset.id,
            Resource::Adapter(adapter) => &adapter.id,
            Resource::Job(job) => &job.id,
        }
    }

    pub(super) fn attributes(&self) -> Attributes {
        match self {
            Resource::Appliance(_) | Resource::Model(_) => Vec::new(),
            Resource::Dataset(dataset) => dataset.attributes(),
            Resource::Adapter(adapter) => adapter.attributes(),
            Resource::Job(job) => job.attributes(),
        }
    }
}

impl Dataset {
    fn attributes(&self) -> Attributes {
        vec![
            ("label", label(self.label)),
            ("purposes", Value::Texts(self.purposes.clone())),
            ("importedBy", user(&self.imported_by)),
            ("cleaned", Value::Flag(self.cleaned)),
            ("plugins", Value::Texts(self.plugins.clone())),
            ("records", count(self.records)),
            ("recordsExamined", count(self.records_examined)),
            ("recordsKept", count(self.records_kept)),
            ("findings", count(self.findings)),
            ("residualFindings", count(self.residual_findings)),
        ]
    }
}

impl Adapter {
    fn attributes(&self) -> Attributes {
        let mut attributes = vec![
            ("label", label(self.label)),
            ("purposes", Value::Texts(self.purposes.clone())),
            ("base", Value::Text(self.base.clone())),
            ("trainedBy", user(&self.trained_by)),
            ("approvers", Value::Entities("User", self.approvers.clone())),
            ("evaluated", Value::Flag(self.evaluated)),
            ("evaluationPassed", Value::Flag(self.evaluation_passed)),
            ("deployed", Value::Flag(self.deployed)),
        ];
        attributes.extend(self.verbatim_answers.map(|n| ("verbatimAnswers", count(n))));
        attributes
    }
}

impl Job {
    fn attributes(&self) -> Attributes {
        vec![
            ("kind", Value::Text(self.kind.clone())),
            ("label", label(self.label)),
            ("startedBy", user(&self.started_by)),
        ]
    }
}

impl Facts {
    pub(super) fn attributes(&self) -> Attributes {
        let hour = self.now.rem_euclid(86_400) / 3_600;
        vec![
            ("purpose", Value::Text(self.purpose.clone())),
            ("distinctApprovers", count(self.distinct_approvers)),
            ("now", Value::Number(self.now)),
            ("hour", Value::Number(hour)),
        ]
    }
}

impl Request {
    /// Every fact with its full name (`resource.records`), as explanations and placeholders name it.
    pub(super) fn named_facts(&self) -> Vec<(String, Value)> {
        let principal = vec![
            ("name", Value::Text(self.principal.name.clone())),
            ("roles", Value::Texts(self.principal.roles.clone())),
        ];
        let mut resource = vec![("id", Value::Text(self.resource.id().to_owned()))];
        resource.extend(self.resource.attributes());
        let groups =
            [("principal", principal), ("resource", resource), ("context", self.facts.attributes())];
        let named = groups.into_iter().flat_map(|(group, attributes)| {
            attributes.into_iter().map(move |(name, value)| (format!("{group}.{name}"), value))
        });
        named.collect()
    }

    /// One request of every action with every kind of resource it goes with, all fields present:
    /// what the schema is checked against at load.
    pub(super) fn samples() -> Vec<Request> {
        let requests = Action::ALL.iter().flat_map(|&action| {
            sample_resources(action).into_iter().map(move |resource| Request {
                principal: Principal { name: "sample".to_owned(), roles: BTreeSet::new() },
                action,
                resource,
                facts: Facts::default(),
            })
        });
        requests.collect()
    }
}

fn sample_resources(action: Action) -> Vec<Resource> {
    use Action as A;
    let adapter = Adapter { verbatim_answers: Some(0), ..Adapter::default() };
    match action {
        A::ImportModel | A::RemoveModel | A::InstallPlugin | A::RemovePlugin | A::ManageUsers
        | A::ManageKeys | A::ReadPolicy | A::ReadAudit | A::ReadStatus | A::ReadCatalog => {
            vec![Resource::Appliance(Appliance::default())]
        }
        A::ImportDataset | A::CleanDataset | A::CheckDataset | A::SampleDataset
        | A::ShredDataset | A::ExportDataset | A::Train => {
            vec![Resource::Dataset(Dataset::default())]
        }
        A::Evaluate | A::Approve | A::Serve | A::Undeploy | A::ExportAdapter
        | A::ImportAdapter | A::RemoveAdapter | A::MergeAdapter => vec![Resource::Adapter(adapter)],
        A::ControlJob => vec![Resource::Job(Job::default())],
        A::Infer => vec![Resource::Adapter(adapter), Resource::Model(Model::default())],
    }
}

/// Cedar's numbers are signed; a count beyond them is as good as the greatest.
fn count(number: u64) -> Value {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

fn user(name: &str) -> Value {
    Value::Entity("User", name.to_owned())
}

fn label(label: Label) -> Value {
    Value::Entity("Label", label.as_str().to_owned())
}
