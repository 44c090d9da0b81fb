//! Reads the schema and the rules, and refuses the whole set rather than run without one rule.
//!
//! A rule that names something the schema does not know, that can never apply, that has no `@id`,
//! `@reason` or (on a `forbid`) `@remedy`, or whose text asks for a fact that does not exist, is
//! refused with its file and line. Validation is Cedar's strict mode, and its warnings count.
//!
//! What always holds for a loaded set: every action of [`Action`](super::Action) and every field
//! of the facts is known to the schema, so that a decision does not fail for want of one.

use super::{Effect, PolicySet, Request, Rule, query};
use cedar_policy::{self as cedar, PolicyId, SchemaFragment, ValidationMode, Validator};
use miette::Diagnostic;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The schema's file name.
const SCHEMA: &str = "schema.cedarschema";
/// The file whose rules come first, and so are named first in a denial.
const BASELINE: &str = "baseline.cedar";

/// The files that Cloister comes with, as name and text, for `cloisterd init` to write.
pub const BUILT_IN: [(&str, &str); 3] = [
    (SCHEMA, include_str!("../../policies/schema.cedarschema")),
    (BASELINE, include_str!("../../policies/baseline.cedar")),
    ("hipaa.cedar", include_str!("../../policies/hipaa.cedar")),
];

/// One file's name and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name, without the folder.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// The policies were not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file or the folder could not be read.
    #[error("cannot read `{}`: {source}; check `policy.dir` in the configuration", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder lacks the schema or has no rules.
    #[error("`{}` holds no {what}; copy it from the package's `policies` folder", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Something in the files is wrong.
    #[error("the policies are refused:{}", listed(.0))]
    Invalid(Vec<Problem>),
}

/// One thing wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "`{}` line {line}: {}", self.file, self.what),
            None => write!(f, "`{}`: {}", self.file, self.what),
        }
    }
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl PolicySet {
    /// Loads `schema.cedarschema` and every `*.cedar` file of `dir`.
    ///
    /// # Errors
    /// [`LoadError`]: a file cannot be read, or a rule is refused.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let schema = read(&dir.join(SCHEMA)).map_err(|error| match error {
            LoadError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                LoadError::Missing { dir: dir.to_owned(), what: "`schema.cedarschema`" }
            }
            other => other,
        })?;
        let rules = files_ending(dir, "cedar")?;
        if rules.is_empty() {
            return Err(LoadError::Missing { dir: dir.to_owned(), what: "`*.cedar` file" });
        }
        Self::from_sources(&schema, &rules)
    }

    /// Loads `schema.cedarschema` and the named files (`hipaa` is `hipaa.cedar`) of `dir`.
    ///
    /// # Errors
    /// As [`load`](Self::load), and `Missing` for a name without a file.
    pub fn load_regimes(dir: &Path, regimes: &[String]) -> Result<Self, LoadError> {
        let schema = read(&dir.join(SCHEMA))?;
        let mut files = files_ending(dir, "cedar")?;
        files.retain(|file| regimes.iter().any(|name| file.name == format!("{name}.cedar")));
        if files.len() != regimes.len() {
            return Err(LoadError::Missing { dir: dir.to_owned(), what: "file of a name in `policy.regimes`" });
        }
        Self::from_sources(&schema, &files)
    }

    /// Loads the rules that Cloister comes with.
    ///
    /// # Errors
    /// None as built: a test loads them.
    pub fn built_in() -> Result<Self, LoadError> {
        let source = |(name, text): (&str, &str)| Source { name: name.to_owned(), text: text.to_owned() };
        let [schema, baseline, hipaa] = BUILT_IN.map(source);
        Self::from_sources(&schema, &[baseline, hipaa])
    }

    /// Loads from texts. The order of `files` does not matter.
    ///
    /// # Errors
    /// [`LoadError::Invalid`], with everything that is wrong.
    pub fn from_sources(schema: &Source, files: &[Source]) -> Result<Self, LoadError> {
        let mut files = files.to_vec();
        files.sort_by_key(|file| (file.name != BASELINE, file.name.clone()));
        let digest = digest(schema, &files);

        let (parsed, roles) = parse_schema(schema)?;
        let (all, rules) = parse_rules(&files)?;
        let mut problems = validate(&parsed, &all, &rules, &files);
        problems.extend(check_facts(&parsed, schema));
        problems.extend(check_placeholders(&rules));
        if !problems.is_empty() {
            problems.sort();
            problems.dedup();
            return Err(LoadError::Invalid(problems));
        }
        let permits = subset(&all, cedar::Effect::Permit).map_err(|error| invalid(BASELINE, error))?;
        Ok(Self { schema: parsed, all, permits, rules, roles, digest })
    }
}

/// Every file of `dir` with that extension, sorted by name.
pub(super) fn files_ending(dir: &Path, extension: &str) -> Result<Vec<Source>, LoadError> {
    let unreadable = |source| LoadError::Read { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Source, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Source { name, text })
}

/// The schema, and the roles it enumerates.
fn parse_schema(source: &Source) -> Result<(cedar::Schema, Vec<String>), LoadError> {
    let refuse = |error: &dyn Diagnostic| LoadError::Invalid(vec![problem(source, error)]);
    let (schema, warnings) = cedar::Schema::from_cedarschema_str(&source.text).map_err(|error| refuse(&error))?;
    if let Some(warning) = warnings.into_iter().next() {
        return Err(refuse(&warning));
    }
    let (fragment, _) = SchemaFragment::from_cedarschema_str(&source.text).map_err(|error| refuse(&error))?;
    let json = fragment.to_json_value().map_err(|error| refuse(&error))?;
    let roles = json.pointer("//entityTypes/Role/enum");
    let roles: Vec<String> = roles
        .and_then(|roles| roles.as_array())
        .map(|roles| roles.iter().filter_map(|role| role.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    if roles.is_empty() {
        return Err(invalid(&source.name, "`entity Role enum [...]` is missing or empty"));
    }
    Ok((schema, roles))
}

/// Parses every file, and gives each rule the name in its `@id`.
fn parse_rules(files: &[Source]) -> Result<(cedar::PolicySet, Vec<Rule>), LoadError> {
    let mut all = cedar::PolicySet::new();
    let mut rules: Vec<Rule> = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        let parsed = match cedar::PolicySet::from_str(&file.text) {
            Ok(parsed) => parsed,
            Err(error) => {
                problems.push(problem(file, &error));
                continue;
            }
        };
        if parsed.templates().next().is_some() {
            problems.push(Problem {
                file: file.name.clone(),
                line: None,
                what: "templates (`?principal`, `?resource`) are not used here; write a rule instead".to_owned(),
            });
        }
        for policy in parsed.policies() {
            match rule(file, policy) {
                Err(found) => problems.push(found),
                Ok(rule) => {
                    if all.add(policy.new_id(PolicyId::new(&rule.id))).is_err() {
                        problems.push(at(&rule, format!("there is another rule `{}`", rule.id)));
                    }
                    rules.push(rule);
                }
            }
        }
    }
    if !problems.is_empty() {
        return Err(LoadError::Invalid(problems));
    }
    let place = |rule: &Rule| (files.iter().position(|file| file.name == rule.file), rule.line);
    rules.sort_by_key(place);
    Ok((all, rules))
}

fn rule(file: &Source, policy: &cedar::Policy) -> Result<Rule, Problem> {
    let refuse = |line, what| Problem { file: file.name.clone(), line, what };
    let annotation = |name| policy.annotation(name).map(str::trim).filter(|text| !text.is_empty());
    let Some(id) = annotation("id") else {
        return Err(refuse(None, format!("a rule has no `@id`: {}", first_line(&policy.to_string()))));
    };
    let line = line_of_id(&file.text, id);
    let effect = match policy.effect() {
        cedar::Effect::Permit => Effect::Permit,
        cedar::Effect::Forbid => Effect::Forbid,
    };
    let Some(reason) = annotation("reason") else {
        return Err(refuse(line, format!("rule `{id}` has no `@reason`")));
    };
    let remedy = match (annotation("remedy"), effect) {
        (Some(remedy), _) => remedy,
        (None, Effect::Permit) => "",
        (None, Effect::Forbid) => return Err(refuse(line, format!("rule `{id}` has no `@remedy`"))),
    };
    Ok(Rule {
        id: id.to_owned(),
        effect,
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
        file: file.name.clone(),
        line: line.unwrap_or(1),
    })
}

fn validate(schema: &cedar::Schema, all: &cedar::PolicySet, rules: &[Rule], files: &[Source]) -> Vec<Problem> {
    let result = Validator::new(schema.clone()).validate(all, ValidationMode::Strict);
    let place = |id: &PolicyId, error: &dyn Diagnostic| {
        let rule = rules.iter().find(|rule| rule.id == id.to_string());
        let file = rule.and_then(|rule| files.iter().find(|file| file.name == rule.file));
        match (rule, file) {
            (Some(rule), Some(file)) => {
                let mut found = problem(file, error);
                found.line = found.line.or(Some(rule.line));
                found
            }
            _ => Problem { file: BASELINE.to_owned(), line: None, what: error.to_string() },
        }
    };
    let errors = result.validation_errors().map(|error| place(error.policy_id(), error));
    // A rule that can never apply is a warning to Cedar; a forbid that never fires is a hole.
    let warnings = result.validation_warnings().map(|warning| place(warning.policy_id(), warning));
    errors.chain(warnings).collect()
}

/// The schema must accept what the daemon will hand in.
fn check_facts(schema: &cedar::Schema, source: &Source) -> Vec<Problem> {
    let unfit = Request::samples().into_iter().filter_map(|request| {
        let why = query(schema, &request).err()?;
        let what = format!("`{}` on {} does not fit: {why}", request.action, request.resource.kind());
        Some(Problem { file: source.name.clone(), line: None, what })
    });
    unfit.collect()
}

/// `{resource.recrods}` would reach a reader as it stands; refuse it here.
fn check_placeholders(rules: &[Rule]) -> Vec<Problem> {
    let known: BTreeSet<String> =
        Request::samples().iter().flat_map(|request| request.named_facts().into_iter().map(|(name, _)| name)).collect();
    let mut problems = Vec::new();
    for rule in rules {
        for name in placeholders(&rule.reason).chain(placeholders(&rule.remedy)) {
            if !known.contains(name) {
                problems.push(at(rule, format!("rule `{}` asks for an unknown fact `{{{name}}}`", rule.id)));
            }
        }
    }
    problems
}

fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

/// The rules of one effect alone.
pub(super) fn subset(all: &cedar::PolicySet, effect: cedar::Effect) -> Result<cedar::PolicySet, String> {
    let chosen = all.policies().filter(|policy| policy.effect() == effect).cloned();
    cedar::PolicySet::from_policies(chosen).map_err(|error| error.to_string())
}

fn problem(file: &Source, error: &dyn Diagnostic) -> Problem {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let mut what = error.to_string();
    if let Some(help) = error.help() {
        what.push_str(&format!(" ({help})"));
    }
    Problem { file: file.name.clone(), line: offset.map(|offset| line_at(&file.text, offset)), what }
}

fn at(rule: &Rule, what: String) -> Problem {
    Problem { file: rule.file.clone(), line: Some(rule.line), what }
}

fn invalid(file: &str, what: impl Into<String>) -> LoadError {
    LoadError::Invalid(vec![Problem { file: file.to_owned(), line: None, what: what.into() }])
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

fn line_of_id(text: &str, id: &str) -> Option<usize> {
    let annotation = format!("@id(\"{id}\")");
    text.lines().position(|line| line.contains(&annotation)).map(|index| index + 1)
}

fn first_line(text: &str) -> String {
    text.split_whitespace().take(12).collect::<Vec<_>>().join(" ")
}

/// Over names and texts with their lengths, so that no two different sets read the same.
fn digest(schema: &Source, files: &[Source]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for source in std::iter::once(schema).chain(files) {
        for part in [&source.name, &source.text] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
