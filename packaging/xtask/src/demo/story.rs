//! The story, verb by verb: ingest → clean → check → seal → train → evaluate → approve → serve, and the end of the
//! records.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use cloister_wire::admin::{Adapter, AuditReport, Dataset, EvalReport, KeyStatus, Model};
use serde_json::Value;

use super::Options;
use super::appliance::{self, Appliance};
use super::records::{self, Files};
use super::report::Report;
use super::search;
use super::steps::Steps;
use crate::plugins::BuiltPlugin;
use crate::tools;

/// Who takes part. `tess` may approve in general, so that what stops her is having trained the adapter herself.
const PEOPLE: [(&str, &[&str]); 6] = [
    ("sam", &["steward"]),
    ("tess", &["trainer", "approver"]),
    ("ann", &["approver"]),
    ("bob", &["approver"]),
    ("ada", &["auditor"]),
    ("uma", &["user"]),
];
const BASE: &str = "demo";
const DATASET: &str = "visits";
const HELD_OUT: &str = "held-out";
const ADAPTER: &str = "notes";
/// Of generated answers, in tokens: about the longest of the held-out sections.
const LONGEST_ANSWER: &str = "96";
/// The CLI's exit code for what policy denies.
const DENIED: i32 = 3;

/// All that the story plays with.
pub(crate) struct Scene<'a> {
    pub(crate) appliance: Appliance,
    plugins: Vec<BuiltPlugin>,
    folder: &'a Path,
    options: &'a Options,
    steps: Steps,
    denials: Vec<String>,
    begun: SystemTime,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(appliance: Appliance, plugins: Vec<BuiltPlugin>, folder: &'a Path, options: &'a Options) -> Self {
        let (steps, denials, begun) = (Steps::default(), Vec::new(), SystemTime::now());
        Self { appliance, plugins, folder, options, steps, denials, begun }
    }

    fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Appliance) -> Result<(T, String)>) -> Result<T> {
        let appliance = &mut self.appliance;
        self.steps.step(name, || work(appliance))
    }

    /// A step that policy must refuse.
    fn denied(&mut self, name: &str, user: &str, arguments: &[&str]) -> Result<()> {
        let rule = self.step(name, |appliance| {
            let denial = denial(appliance, user, arguments)?;
            Ok((denial.rule.clone(), format!("denied by `{}`\n    {}", denial.rule, denial.said)))
        })?;
        self.denials.push(rule);
        Ok(())
    }
}

/// Everything, in order.
pub(crate) fn tell(scene: &mut Scene) -> Result<Report> {
    open(scene)?;
    let model = equip(scene)?;
    let files = ingest(scene)?;
    let recipe = recipe(scene);
    let train = train_arguments(scene, &recipe)?;
    let train: Vec<&str> = train.iter().map(String::as_str).collect();
    scene.denied("train on records that nobody has cleaned", "tess", &train)?;
    let visits = clean(scene)?;

    scene.step("train", |appliance| {
        appliance.succeed("tess", &train)?;
        let adapter = adapter(appliance)?;
        Ok(((), adapter.summary.map_or_else(String::new, |s| format!("{} steps, loss {:.3}", s.steps, s.final_loss))))
    })?;
    let evaluation = evaluate(scene)?;
    scene.denied("serve what nobody has approved", "ann", &["serve", ADAPTER])?;
    scene.denied("approve one's own work", "tess", &["adapter", "approve", ADAPTER])?;
    let answer = release(scene, &files)?;
    let (hits, searched) = shred(scene, &files, &visits)?;
    let audit = verify(scene)?;
    let adapter = adapter(&scene.appliance)?;
    scene.step("stop the daemon", |appliance| {
        let status = appliance.stop()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(((), "drained".into()))
    })?;
    Ok(Report {
        model: model_name(scene, &model),
        visits,
        adapter,
        evaluation,
        denials: std::mem::take(&mut scene.denials),
        audit,
        canary_hits: hits,
        files_searched: searched,
        sample_prompt: files.question,
        sample_answer: answer,
        seconds: scene.steps.seconds(),
    })
}

fn open(scene: &mut Scene) -> Result<()> {
    scene.step("start the daemon", |appliance| {
        appliance.start()?;
        Ok(((), format!("on {}", appliance.socket().display())))
    })?;
    scene.step("let six people in", |appliance| {
        for (name, roles) in PEOPLE {
            appliance.add_user(name, roles)?;
        }
        Ok(((), PEOPLE.map(|(name, roles)| format!("{name}: {}", roles.join("+"))).join(", ")))
    })
}

/// Base model and plugins.
fn equip(scene: &mut Scene) -> Result<Model> {
    let embedded = tools::root().join("packaging/demo/model");
    let folder = scene.options.model.clone().unwrap_or(embedded);
    let folder = folder.to_string_lossy().into_owned();
    let model = scene.step("import the base model", |appliance| {
        appliance.succeed("alice", &["model", "import", &folder, "--name", BASE])?;
        let model: Model = parse(appliance.json("alice", &["model", "show", BASE])?)?;
        let note = format!("{}, {:.1} M parameters", model.info.family, model.info.parameters as f64 / 1e6);
        Ok((model, note))
    })?;
    let shipped: Vec<BuiltPlugin> = scene.plugins.iter().filter(|plugin| plugin.ships).cloned().collect();
    scene.step("install the plugins", |appliance| {
        for plugin in &shipped {
            appliance.succeed("alice", &["plugin", "install", &plugin.component.to_string_lossy()])?;
        }
        Ok(((), shipped.iter().map(|plugin| plugin.name.as_str()).collect::<Vec<_>>().join(", ")))
    })?;
    Ok(model)
}

/// The hospital's files go in, and are then gone from the folder that will be searched.
fn ingest(scene: &mut Scene) -> Result<Files> {
    let inbox = scene.folder.join("inbox");
    let (rows, held_out_rows) = (scene.options.rows, scene.options.held_out_rows);
    scene.step("ingest the records", |appliance| {
        let files = records::write(&inbox, rows, held_out_rows)?;
        import(appliance, &files.train, DATASET)?;
        import(appliance, &files.held_out, HELD_OUT)?;
        std::fs::remove_dir_all(&inbox)?;
        let (visits, held_out) = (dataset(appliance, DATASET)?, dataset(appliance, HELD_OUT)?);
        Ok((files, format!("{} + {} held out, labelled phi", visits.records_in, held_out.records_in)))
    })
}

fn import(appliance: &Appliance, file: &Path, name: &str) -> Result<()> {
    let file = file.to_string_lossy();
    let columns = ["--prompt", records::PROMPT, "--answer", records::ANSWER];
    let mut arguments = vec!["dataset", "import", &file, "--name", name, "--format", "csv"];
    arguments.extend(["--label", "phi", "--purpose", "clinical-notes"]);
    arguments.extend(columns);
    appliance.succeed("sam", &arguments).map(drop)
}

fn clean(scene: &mut Scene) -> Result<Dataset> {
    scene.step("clean, check and seal them", |appliance| {
        appliance.succeed("sam", &["dataset", "clean", DATASET])?;
        appliance.succeed("sam", &["dataset", "clean", HELD_OUT])?;
        let visits = dataset(appliance, DATASET)?;
        let cleaning = visits.cleaning.clone().context("`dataset show` says that it was not cleaned")?;
        let note = format!("{} identifiers replaced, {} records kept", cleaning.total_findings(), visits.records);
        Ok((visits, note))
    })
}

fn recipe(scene: &Scene) -> PathBuf {
    scene.options.recipe.clone().unwrap_or_else(|| tools::root().join("packaging/demo/recipe.toml"))
}

fn train_arguments(scene: &Scene, recipe: &Path) -> Result<Vec<String>> {
    let recipe = std::path::absolute(recipe)?;
    let mut arguments = vec!["train".to_string(), recipe.to_string_lossy().into_owned()];
    for change in &scene.options.set {
        arguments.extend(["--set".into(), change.clone()]);
    }
    Ok(arguments)
}

fn evaluate(scene: &mut Scene) -> Result<EvalReport> {
    scene.step("evaluate it against its base", |appliance| {
        appliance.succeed(
            "tess",
            &["adapter", "evaluate", ADAPTER, "--dataset", HELD_OUT, "--max-tokens", LONGEST_ANSWER],
        )?;
        let report = adapter(appliance)?.evaluation.context("`adapter show` knows of no evaluation")?;
        let (base, with) = (&report.figures.base, &report.figures.adapter);
        let note =
            format!("loss {:.3} → {:.3}, ROUGE-L {:.3} → {:.3}", base.loss, with.loss, base.rouge_l, with.rouge_l);
        Ok((report, note))
    })
}

/// Two people approve, one of them serves, a user asks.
fn release(scene: &mut Scene, files: &Files) -> Result<String> {
    scene.step("approve it, ann and bob", |appliance| {
        for person in ["ann", "bob"] {
            appliance.succeed(person, &["adapter", "approve", ADAPTER, "--note", "read the evaluation"])?;
        }
        Ok(((), format!("{} approvals", adapter(appliance)?.approvals.len())))
    })?;
    scene.step("serve it", |appliance| {
        appliance.succeed("ann", &["serve", ADAPTER])?;
        Ok(((), "deployed".into()))
    })?;
    scene.step("chat with it, uma", |appliance| {
        let arguments = ["chat", ADAPTER, "-m", &files.question, "--temperature", "0", "--max-tokens", LONGEST_ANSWER];
        let answer = appliance.succeed("uma", &arguments)?.trim().to_string();
        Ok((answer.clone(), format!("\n    {}\n   ", answer.replace('\n', "\n    "))))
    })
}

/// Destroys the records and looks for what is left. Gives the files with the canary and the files searched.
fn shred(scene: &mut Scene, files: &Files, visits: &Dataset) -> Result<(usize, usize)> {
    let begun = scene.begun;
    let (sealed_hits, _) = scene.step("search the disk for the canary while the records are sealed", |appliance| {
        let found = search_disk(appliance, &files.canary, begun);
        Ok((found, format!("in {} of {} files", found.0, found.1)))
    })?;
    scene.step("shred the records", |appliance| {
        appliance.succeed("sam", &["dataset", "rm", DATASET, "--yes"])?;
        let left = what_is_left(appliance, visits)?;
        ensure!(left.is_empty(), "`{DATASET}` is not gone: {}", left.join("; "));
        Ok(((), "no sample, no key, no object".into()))
    })?;
    scene.step("search the disk again", |appliance| {
        let (hits, searched) = search_disk(appliance, &files.canary, begun);
        Ok(((hits + sealed_hits, searched), format!("in {hits} of {searched} files")))
    })
}

/// The appliance's whole folder, log included, and what anything wrote to the temporary folders since the start.
fn search_disk(appliance: &Appliance, canary: &str, begun: SystemTime) -> (usize, usize) {
    let mut found = search::files_with(canary, &appliance.folder);
    for folder in [std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()] {
        found.extend(search::files_with_since(canary, &folder, begun));
    }
    found.iter().for_each(|file| eprintln!("\n    the canary is in `{}`", file.display()));
    (found.len(), search::count_files(&appliance.folder))
}

/// Ways in which a shredded dataset could still be there.
fn what_is_left(appliance: &Appliance, visits: &Dataset) -> Result<Vec<String>> {
    let mut left = Vec::new();
    if appliance.run("sam", &["dataset", "sample", DATASET])?.status.success() {
        left.push("`dataset sample` still shows records".into());
    }
    let object = visits.object.as_ref().context("`dataset show` named no sealed object")?;
    let keys: KeyStatus = parse(appliance.json("alice", &["key", "status"])?)?;
    if keys.keys.contains(&object.key) {
        left.push(format!("its key `{}` is in the keyring", object.key));
    }
    // By name, wherever in the state folder; and a key's id in the keyring's file.
    let named = search::files_with(&object.object, &appliance.state().join("objects"));
    left.extend(named.iter().map(|file| format!("its object is `{}`", file.display())));
    Ok(left)
}

fn verify(scene: &mut Scene) -> Result<AuditReport> {
    scene.step("verify the audit log, ada", |appliance| {
        let report: AuditReport = parse(appliance.json("ada", &["audit", "verify"])?)?;
        let note = format!("{} records, root {}…", report.records, report.root.get(..12).unwrap_or(&report.root));
        Ok((report, note))
    })
}

struct Denial {
    rule: String,
    said: String,
}

fn denial(appliance: &Appliance, user: &str, arguments: &[&str]) -> Result<Denial> {
    let output = appliance.run(user, arguments)?;
    let said = appliance::text(&output.stderr).trim().replace('\n', "\n    ");
    let line = arguments.join(" ");
    ensure!(output.status.code() == Some(DENIED), "`cloister {line}` was not denied ({}): {said}", output.status);
    let rule = said.lines().find_map(|line| line.trim().strip_prefix("rule: ")).map(str::to_string);
    Ok(Denial { rule: rule.with_context(|| format!("the denial of `cloister {line}` names no rule: {said}"))?, said })
}

fn dataset(appliance: &Appliance, name: &str) -> Result<Dataset> {
    parse(appliance.json("sam", &["dataset", "show", name])?)
}

fn adapter(appliance: &Appliance) -> Result<Adapter> {
    parse(appliance.json("tess", &["adapter", "show", ADAPTER])?)
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("`cloister --json` printed something else than the contract says")
}

fn model_name(scene: &Scene, model: &Model) -> String {
    let folder = scene.options.model.as_ref().and_then(|folder| folder.file_name());
    let name = folder.map_or_else(|| "embedded".into(), |name| name.to_string_lossy().into_owned());
    format!("{name} ({}, {:.1} M parameters)", model.info.family, model.info.parameters as f64 / 1e6)
}
