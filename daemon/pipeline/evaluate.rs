//! Evaluate: an adapter against its base, on records that neither was trained on.

use cloister_wire::admin::{Adapter, Dataset, EvalReport, EvaluateSpec, JobProgress};
use cloister_wire::engine::{EvaluateTask, Evaluation, FromEngine, RecordSet, ToEngine};
use cloister_wire::recipe::{HeldOut, Quantization};
use serde_json::json;

use super::seal::SealedSet;
use super::train::{Split, find, held_out_part};
use super::{Appliance, Control, check, models, now};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;
use crate::workers::engine::{Engine, out_of_turn};

/// Says no at once to what could not be evaluated, before a job exists.
pub fn admit(a: &Appliance, who: &Principal, name: &str, spec: &EvaluateSpec) -> Result<()> {
    let adapter = find(a, name)?;
    let act = check::adapter_act(a, Action::Evaluate, &adapter)?;
    a.allow(who, &act.details(json!({"dataset": spec.dataset})))?;
    held_out(a, who, &adapter, spec).map(|_| ())
}

/// The records to measure on, when policy lets them be used: measuring is a use of records as training is, with the
/// same rules on what was cleaned and for which purpose.
fn held_out(a: &Appliance, who: &Principal, adapter: &Adapter, spec: &EvaluateSpec) -> Result<(SealedSet, Split)> {
    let (records, split) = chosen(a, adapter, spec)?;
    let only = adapter.purposes.first().filter(|_| adapter.purposes.len() == 1);
    let purpose = adapter.recipe.as_ref().and_then(|recipe| recipe.purpose.as_ref()).or(only);
    check::for_training(a, who, &records, purpose.map(String::as_str))?.covers(records.digest())?;
    Ok((records, split))
}

/// The records named, or those that training held out.
fn chosen(a: &Appliance, adapter: &Adapter, spec: &EvaluateSpec) -> Result<(SealedSet, Split)> {
    let all = Split { seed: 0, part: 1.0, side: RecordSet::HeldOut };
    if let Some(name) = &spec.dataset {
        let records = SealedSet::find(a, name)?;
        if trained_on(a, adapter, &records)? {
            return Err(Error::invalid(format!("adapter `{}` was trained on the records of `{name}`", adapter.name))
                .remedy("leave `--dataset` out to use the records that training held out"));
        }
        return Ok((records, all));
    }
    let need = || {
        Error::invalid(format!("training of `{}` held no records out", adapter.name))
            .remedy("name a sealed dataset with `--dataset`")
    };
    let recipe = adapter.recipe.as_ref().ok_or_else(need)?;
    match &recipe.held_out {
        HeldOut::Dataset(name) => Ok((SealedSet::find(a, name)?, all)),
        HeldOut::Fraction(part) if *part > 0.0 => {
            let split = Split { seed: recipe.seed, part: held_out_part(recipe), side: RecordSet::HeldOut };
            Ok((SealedSet::find(a, &recipe.dataset)?, split))
        }
        HeldOut::Fraction(_) => Err(need()),
    }
}

/// Whether these are the records that were learnt, be it under another name: a good figure on them means nothing.
fn trained_on(a: &Appliance, adapter: &Adapter, records: &SealedSet) -> Result<bool> {
    let Some(name) = adapter.datasets.first() else { return Ok(false) };
    let learnt = a.catalog.find::<Dataset>(name)?.and_then(|dataset| dataset.digest);
    Ok(*name == records.dataset().name || learnt.as_deref() == Some(records.digest()))
}

/// Measures an adapter; the report becomes part of its entry.
pub fn evaluate(
    a: &Appliance,
    who: &Principal,
    name: &str,
    spec: &EvaluateSpec,
    control: &dyn Control,
) -> Result<EvalReport> {
    let _reserved = a.reserve("adapter", name)?;
    let mut adapter = find(a, name)?;
    a.allow(who, &check::adapter_act(a, Action::Evaluate, &adapter)?)?;
    let (records, split) = held_out(a, who, &adapter, spec)?;
    let model = models::find(a, &adapter.base)?;
    if model.digest != adapter.base_digest {
        return Err(other_base(&adapter));
    }
    let files = models::open(a, &model)?;
    let (device, quantization) = how_trained(&adapter);
    let mut engine = Engine::open(&a.workers, &files, &device, quantization)?;
    let remote = engine.remote();
    control.stop().on_request(move || remote.hang_up());
    if let Err(error) = feed(a, &engine, &adapter, spec, &records, split) {
        return Err(engine.recv().err().map_or(error, Error::from));
    }
    let figures = match follow(&mut engine, control) {
        Err(Error::Lost(_)) if control.stop().requested() => return Err(Error::Stopped),
        other => other?,
    };
    let report = EvalReport {
        dataset: records.dataset().name.clone(),
        dataset_digest: records.digest().into(),
        adapter_digest: adapter.digest.clone(),
        figures,
        principal: who.name.clone(),
        at: now(),
    };
    adapter.evaluation = Some(report.clone());
    a.catalog.put(&adapter)?;
    Ok(report)
}

/// The device and the number format that the adapter was trained with.
pub(super) fn how_trained(adapter: &Adapter) -> (String, Quantization) {
    adapter
        .recipe
        .as_ref()
        .map_or_else(|| ("auto".into(), Quantization::default()), |r| (r.device.clone(), r.quantization))
}

/// An adapter does nothing good on another base than its own.
pub(super) fn other_base(adapter: &Adapter) -> Error {
    Error::conflict(format!("adapter `{}` was trained on another model than today's `{}`", adapter.name, adapter.base))
        .remedy("import the model that it was trained on, or train anew")
}

fn feed(
    a: &Appliance,
    engine: &Engine,
    adapter: &Adapter,
    spec: &EvaluateSpec,
    records: &SealedSet,
    split: Split,
) -> Result<()> {
    engine.send(&ToEngine::Evaluate(EvaluateTask { generate: spec.generate, max_tokens: spec.max_tokens }))?;
    engine.send_records(RecordSet::HeldOut, split.of(a.open(records.object())?))?;
    for (name, object) in &adapter.files {
        engine.remote().send_file(name, a.open(object)?)?;
    }
    engine.send(&ToEngine::Begin)?;
    Ok(())
}

fn follow(engine: &mut Engine, control: &dyn Control) -> Result<Evaluation> {
    loop {
        match engine.recv()?.0 {
            FromEngine::Opened(_) => {}
            FromEngine::Evaluating { done, total } => {
                control.progress(JobProgress::Records { done, total, stage: "evaluate".into() });
            }
            FromEngine::Evaluated(figures) => return Ok(figures),
            other => return Err(out_of_turn(&other).into()),
        }
    }
}
