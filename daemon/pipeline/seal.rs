//! Seal: a cleaned and cleared set becomes a dataset that can be trained on, and the raw records' key is destroyed.

use cloister_vault::VaultError;
use cloister_wire::admin::{Adapter, Dataset, DatasetState, Job, JobState, ObjectRef, Shredded, Work};
use cloister_wire::recipe::HeldOut;

use super::check::{Clearance, dataset_resource};
use super::clean::CleanSet;
use super::{Act, Appliance, key_id};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;

/// Cleaned, checked, encrypted records.
#[derive(Debug, Clone)]
pub struct SealedSet {
    dataset: Dataset,
    object: ObjectRef,
    digest: String,
}

impl SealedSet {
    /// A sealed dataset by name.
    pub fn find(a: &Appliance, name: &str) -> Result<Self> {
        Self::of(a.catalog.find::<Dataset>(name)?.ok_or_else(|| Error::not_found("dataset", name))?)
    }

    /// A dataset's sealed records.
    pub fn of(dataset: Dataset) -> Result<Self> {
        match (dataset.state, dataset.object.clone(), dataset.digest.clone()) {
            (DatasetState::Sealed, Some(object), Some(digest)) => Ok(Self { dataset, object, digest }),
            (DatasetState::Shredded, ..) => {
                Err(Error::not_found("dataset", &dataset.name)
                    .remedy("its keys were destroyed; import the records again"))
            }
            _ => Err(Error::conflict(format!("dataset `{}` is not sealed yet", dataset.name))
                .remedy(format!("run `cloister dataset clean {}`", dataset.name))),
        }
    }

    /// What the catalog knows of it.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Where the records lie.
    pub fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// SHA-256 of the records, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Makes a cleared set a dataset. The catalog turns to the new object first, then the raw records' key goes: a
/// crash in between leaves a key that the next start destroys, and never a dataset without records.
pub fn seal(a: &Appliance, clean: CleanSet, clearance: &Clearance) -> Result<SealedSet> {
    clearance.covers(clean.digest())?;
    let (mut dataset, raw, object, digest) = clean.into_parts();
    dataset.state = DatasetState::Sealed;
    dataset.object = Some(object);
    dataset.digest = Some(digest);
    a.catalog.put(&dataset)?;
    destroy(a, &raw)?;
    SealedSet::of(dataset)
}

/// Destroys the key of an object, and the object. A key that is gone already is what was wanted: an adapter's files
/// share one, and a removal that was cut short is repeated.
pub fn destroy(a: &Appliance, object: &ObjectRef) -> Result<()> {
    match a.vault.shred(&key_id(&object.key)?) {
        Ok(()) | Err(VaultError::NoKey(_)) => {}
        Err(error) => return Err(error.into()),
    }
    a.vault.remove_object(&object.object)?;
    Ok(())
}

/// Shreds a dataset: its keys are destroyed, so that every copy of its objects is unreadable.
pub fn shred(a: &Appliance, who: &Principal, name: &str) -> Result<Shredded> {
    let _reserved = a.reserve("dataset", name)?;
    let mut dataset = a.catalog.find::<Dataset>(name)?.ok_or_else(|| Error::not_found("dataset", name))?;
    let Some(object) = dataset.object.take() else {
        return Err(Error::not_found("dataset", name).remedy("its keys were destroyed already"));
    };
    a.act(who, Act::new(Action::ShredDataset, dataset_resource(&dataset)), || {
        nobody_uses(a, name)?;
        let mut gone = abandoned_checkpoints(a, name)?;
        gone.push(object);
        for object in &gone {
            destroy(a, object)?;
        }
        dataset.state = DatasetState::Shredded;
        dataset.digest = None;
        a.catalog.put(&dataset)?;
        let (keys, objects) = gone.into_iter().map(|object| (object.key, object.object)).unzip();
        Ok(Shredded { dataset: name.into(), keys, objects })
    })
}

/// A job that has the records in its engine's memory would go on learning from what is said to be gone.
fn nobody_uses(a: &Appliance, name: &str) -> Result<()> {
    let uses = |job: &Job| match &job.work {
        Work::Clean { dataset, .. } => dataset == name,
        Work::Train { recipe } => recipe.dataset == name || recipe.held_out == HeldOut::Dataset(name.into()),
        Work::Evaluate { spec, .. } => spec.dataset.as_deref() == Some(name),
    };
    match a.catalog.list::<Job>()?.into_iter().find(|job| !job.state.at_rest() && uses(job)) {
        None => Ok(()),
        Some(job) => Err(Error::conflict(format!("job `{}` uses dataset `{name}`", job.id))
            .remedy(format!("`cloister job cancel {}`, then repeat: shredding takes its checkpoint as well", job.id))),
    }
}

/// Checkpoints of trainings on a dataset that were given up: they learnt from its records, and without these no such
/// training can go on.
fn abandoned_checkpoints(a: &Appliance, name: &str) -> Result<Vec<ObjectRef>> {
    let given_up = |job: &Job| match &job.work {
        Work::Train { recipe } => {
            recipe.dataset == name && matches!(job.state, JobState::Cancelled | JobState::Failed { .. })
        }
        _ => false,
    };
    // A finished adapter has its training's key.
    let adapters = a.catalog.list::<Adapter>()?;
    let kept = |key: &String| adapters.iter().flat_map(|adapter| adapter.files.values()).any(|file| file.key == *key);
    let checkpoints = a.catalog.list::<Job>()?.into_iter().filter(given_up).filter_map(|job| job.checkpoint);
    Ok(checkpoints.filter(|object| !kept(&object.key)).collect())
}
