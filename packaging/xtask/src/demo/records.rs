//! The demo's confidential records: dialogues of MTS-Dialog, in a file such as a hospital would have, with one
//! canary among them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::appliance;
use crate::tools;

/// The user's message of a record, made of the file's columns.
pub(crate) const PROMPT: &str = "Write the {section_header} section.\n\n{dialogue}";
/// The column with the answer.
pub(crate) const ANSWER: &str = "section_text";

/// One dialogue, as in the file.
struct Dialogue {
    header: String,
    text: String,
    section: String,
}

impl Dialogue {
    fn prompt(&self) -> String {
        PROMPT.replace("{section_header}", &self.header).replace("{dialogue}", &self.text)
    }
}

/// What was written.
pub(crate) struct Files {
    pub(crate) train: PathBuf,
    pub(crate) held_out: PathBuf,
    /// Stands in one record of `train` and nowhere else in the world.
    pub(crate) canary: String,
    /// A held-out prompt, for the chat.
    pub(crate) question: String,
}

/// Writes both files into a folder.
pub(crate) fn write(folder: &Path, rows: u32, held_out_rows: u32) -> Result<Files> {
    std::fs::create_dir_all(folder)?;
    let source = tools::root().join("packaging/demo/data");
    let canary = appliance::random_letters(24)?;

    let mut dialogues = read(&source.join("train.csv"), rows as usize)?;
    // In what the patient says and in the section that is learnt, so that both sides are looked for.
    let middle = dialogues.len() / 2;
    let Some(marked) = dialogues.get_mut(middle) else { bail!("there are no dialogues to train on") };
    marked.text.push_str(&format!("\nPatient: My street is called {canary}."));
    marked.section.push_str(&format!(" Lives in {canary}."));
    let train = folder.join("visits.csv");
    write_csv(&train, &dialogues)?;

    let examples = read(&source.join("validation.csv"), held_out_rows as usize)?;
    let held_out = folder.join("held-out.csv");
    write_csv(&held_out, &examples)?;
    // A short one, to be read on a terminal.
    let question = examples.iter().map(Dialogue::prompt).filter(|prompt| prompt.len() > 200);
    let question = question.min_by_key(String::len).context("there are no held-out dialogues")?;
    Ok(Files { train, held_out, canary, question })
}

fn read(file: &Path, rows: usize) -> Result<Vec<Dialogue>> {
    let mut reader = csv::Reader::from_path(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    let headers = reader.headers()?.clone();
    let column = |name: &str| {
        let found = headers.iter().position(|header| header == name);
        found.with_context(|| format!("`{}` has no column `{name}`", file.display()))
    };
    let (header, text, section) = (column("section_header")?, column("dialogue")?, column(ANSWER)?);
    let field = |row: &csv::StringRecord, index: usize| row.get(index).unwrap_or_default().to_string();
    let dialogues = reader.records().take(rows).map(|row| {
        let row = row?;
        Ok(Dialogue { header: field(&row, header), text: field(&row, text), section: field(&row, section) })
    });
    dialogues.collect()
}

fn write_csv(file: &Path, dialogues: &[Dialogue]) -> Result<()> {
    let mut writer = csv::Writer::from_path(file).with_context(|| format!("cannot write `{}`", file.display()))?;
    writer.write_record(["section_header", ANSWER, "dialogue"])?;
    for dialogue in dialogues {
        writer.write_record([&dialogue.header, &dialogue.section, &dialogue.text])?;
    }
    writer.flush().with_context(|| format!("cannot write `{}`", file.display()))
}
