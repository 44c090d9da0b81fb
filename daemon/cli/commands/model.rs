//! `cloister model`: base models, Hugging Face folders of safetensors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use cloister_wire::admin::{ApiError, Model};
use hyper::Method;
use serde_json::Value;

use super::Context;
use crate::client::{Reply, Upload, admin};
use crate::error::{self, CliError, invalid};
use crate::{files, progress, prompt, render, values};

/// Files that are taken if they are there.
const SMALL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
];

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Upload a Hugging Face folder; the engine checks it before it is kept
    #[command(after_help = "Example:\n  cloister model import ./Qwen2.5-0.5B-Instruct --name qwen")]
    Import {
        /// The folder: config.json, tokenizer.json, *.safetensors
        folder: PathBuf,
        /// What it is called here
        #[arg(long, value_parser = values::name)]
        name: String,
    },
    /// List base models
    #[command(after_help = "Example:\n  cloister model list")]
    List,
    /// Show a base model and its files
    #[command(after_help = "Example:\n  cloister model show qwen")]
    Show {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
    },
    /// Compare every file with the digest of its import
    #[command(after_help = "Example:\n  cloister model verify qwen")]
    Verify {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
    },
    /// Remove a base model
    #[command(after_help = "Example:\n  cloister model rm qwen --yes")]
    Rm {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Import { folder, name } => import(context, &folder, &name).await,
        Verb::List => list(context).await,
        Verb::Show { name } => show(context, &name).await,
        Verb::Verify { name } => verify(context, &name).await,
        Verb::Rm { name, yes } => remove(context, &name, yes).await,
    }
}

async fn import(context: &Context, folder: &Path, name: &str) -> Result<(), CliError> {
    let files = files_of(folder)?;
    let client = context.client()?;
    let bar = progress::transfer(files.iter().map(|file| file.bytes).sum());
    for file in &files {
        progress::plain(&format!("sending {} ({})", file.name, render::bytes(file.bytes)));
        bar.set_message(file.name.clone());
        let upload = Upload::file(&folder.join(&file.name), bar.clone());
        client.upload::<Value>(Method::PUT, &admin(&["models", name, "files", &file.name]), upload).await?;
    }
    bar.finish_and_clear();
    let checking = progress::spinner(format!("the engine reads `{name}`"));
    let reply = client.post_empty(&admin(&["models", name, "commit"])).await;
    checking.finish_and_clear();
    context.print(&reply?, describe);
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Piece {
    name: String,
    bytes: u64,
}

/// What of a folder is sent; a folder that cannot be a model is refused before a byte of it is.
fn files_of(folder: &Path) -> Result<Vec<Piece>, ApiError> {
    let present = names_in(folder)?;
    refuse_what_is_no_model(folder, &present)?;
    let mut wanted: BTreeSet<&String> = present.iter().filter(|name| SMALL_FILES.contains(&name.as_str())).collect();
    let index = present.iter().find(|name| name.ends_with(".safetensors.index.json"));
    let shards = match index {
        Some(index) => shards_of(folder, index, &present)?,
        None => present.iter().filter(|name| name.ends_with(".safetensors")).cloned().collect(),
    };
    wanted.extend(index);
    wanted.extend(&shards);
    wanted.into_iter().map(|name| piece(folder, name)).collect()
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>, ApiError> {
    if !prompt::is_folder(folder) {
        return Err(invalid(format!("`{}` is not a folder", folder.display()))
            .remedy("name a Hugging Face folder with config.json, tokenizer.json and *.safetensors"));
    }
    let entries = fs::read_dir(folder).map_err(|error| error::file("read", folder, &error))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn refuse_what_is_no_model(folder: &Path, present: &BTreeSet<String>) -> Result<(), ApiError> {
    let place = folder.display();
    let any = |endings: &[&str]| present.iter().any(|name| endings.iter().any(|ending| name.ends_with(ending)));
    if present.contains("adapter_config.json") && !present.contains("config.json") {
        return Err(invalid(format!("`{place}` is a PEFT adapter, not a base model"))
            .remedy("`cloister adapter import` takes it, once its base model is here"));
    }
    if !any(&[".safetensors"]) && any(&[".bin", ".pt", ".pth", ".ckpt"]) {
        return Err(invalid(format!("`{place}` holds its weights as pickles, which can run code when they are read"))
            .remedy(
                "convert it where that is safe: `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, \
                 safe_serialization=True)`, then import OUT",
            ));
    }
    if !any(&[".safetensors"]) && any(&[".gguf"]) {
        return Err(invalid(format!("`{place}` holds GGUF, which cannot be trained"))
            .remedy("import the model's original folder of safetensors"));
    }
    for (needed, missing) in [
        ("config.json", !present.contains("config.json")),
        ("*.safetensors", !any(&[".safetensors"])),
        ("tokenizer.json", !present.contains("tokenizer.json")),
    ] {
        if missing {
            return Err(invalid(format!("`{place}` has no {needed}")).remedy(match needed {
                "tokenizer.json" => "`AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` writes it",
                _ => "name a whole Hugging Face folder; was the download finished?",
            }));
        }
    }
    Ok(())
}

/// The files that the index names, so that a second copy of the weights in the folder is not sent too.
fn shards_of(folder: &Path, index: &str, present: &BTreeSet<String>) -> Result<BTreeSet<String>, ApiError> {
    let path = folder.join(index);
    let unusable = |why: &str| {
        invalid(format!("`{}` {why}", path.display())).remedy("download the folder again; was it finished?")
    };
    let value: Value =
        serde_json::from_slice(&files::read(&path)?).map_err(|error| unusable(&format!("is not JSON: {error}")))?;
    let map = value.get("weight_map").and_then(Value::as_object).ok_or_else(|| unusable("has no `weight_map`"))?;
    let shards: BTreeSet<String> = map.values().filter_map(Value::as_str).map(String::from).collect();
    match shards.iter().find(|shard| !present.contains(*shard)) {
        Some(missing) => Err(unusable(&format!("names `{missing}`, which is not in the folder"))),
        None => Ok(shards),
    }
}

fn piece(folder: &Path, name: &str) -> Result<Piece, ApiError> {
    let path = folder.join(name);
    let metadata = fs::metadata(&path).map_err(|error| error::file("read", &path, &error))?;
    Ok(Piece { name: name.into(), bytes: metadata.len() })
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<Model>> = context.client()?.get(&admin(&["models"])).await?;
    context.print(&reply, |models| {
        let rows = models.iter().map(|model| {
            vec![
                model.name.clone(),
                model.info.family.clone(),
                render::magnitude(model.info.parameters),
                model.info.context.to_string(),
                render::bytes(model.files.values().map(|file| file.bytes).sum()),
                model.imported_by.clone(),
                model.imported_at.clone(),
            ]
        });
        render::table(&["name", "family", "parameters", "context", "size", "imported by", "at"], rows)
    });
    Ok(())
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["models", name])).await?;
    context.print(&reply, |model: &Model| {
        let rows =
            model.files.iter().map(|(name, file)| vec![name.clone(), render::bytes(file.bytes), file.sha256.clone()]);
        format!("{}\n\n{}", describe(model), render::table(&["file", "size", "SHA-256"], rows))
    });
    Ok(())
}

fn describe(model: &Model) -> String {
    let info = &model.info;
    render::facts([
        ("name", model.name.clone()),
        ("family", info.family.clone()),
        ("parameters", render::magnitude(info.parameters)),
        ("layers", format!("{} of width {}", info.layers, info.hidden_size)),
        ("vocabulary", info.vocabulary.to_string()),
        ("context", format!("{} tokens", info.context)),
        ("chat template", if info.chat_template { "yes" } else { "no" }.into()),
        ("digest", model.digest.clone()),
        ("imported", format!("{} by {}", model.imported_at, model.imported_by)),
    ])
}

async fn verify(context: &Context, name: &str) -> Result<(), CliError> {
    let client = context.client()?;
    let bar = progress::spinner(format!("reading every file of `{name}`"));
    let reply: Result<Reply<Model>, _> = client.post_empty(&admin(&["models", name, "verify"])).await;
    bar.finish_and_clear();
    context.print(&reply?, |model| {
        format!("`{}` is as it was imported: {} files, digest {}", model.name, model.files.len(), model.digest)
    });
    Ok(())
}

async fn remove(context: &Context, name: &str, yes: bool) -> Result<(), CliError> {
    let client = context.client()?;
    prompt::confirm_name("model", name, yes)?;
    let reply: Reply<Value> = client.delete(&admin(&["models", name])).await?;
    context.print(&reply, |_| format!("`{name}` is removed"));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        folder
    }

    fn sent(folder: &Path) -> Vec<String> {
        files_of(folder).unwrap().into_iter().map(|piece| piece.name).collect()
    }

    #[test]
    fn what_belongs_to_a_model_is_sent_and_nothing_else() {
        let folder =
            folder_of(&["config.json", "tokenizer.json", "model.safetensors", "README.md", "pytorch_model.bin"]);
        assert_eq!(sent(folder.path()), ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn an_index_decides_which_shards_are_sent() {
        let folder = folder_of(&["config.json", "tokenizer.json", "a.safetensors", "consolidated.safetensors"]);
        let index = folder.path().join("model.safetensors.index.json");
        fs::write(&index, r#"{"weight_map": {"x": "a.safetensors"}}"#).unwrap();
        assert_eq!(
            sent(folder.path()),
            ["a.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json"]
        );
        fs::write(&index, r#"{"weight_map": {"x": "b.safetensors"}}"#).unwrap();
        assert!(files_of(folder.path()).unwrap_err().message.contains("names `b.safetensors`"));
    }

    #[test]
    fn a_folder_that_is_no_model_is_refused_with_what_to_do() {
        for (names, word, remedy) in [
            (vec!["config.json", "pytorch_model.bin"], "pickles", "safe_serialization"),
            (vec!["adapter_config.json", "adapter_model.safetensors"], "PEFT adapter", "adapter import"),
            (vec!["model.gguf"], "GGUF", "safetensors"),
            (vec!["config.json", "model.safetensors"], "no tokenizer.json", "AutoTokenizer"),
            (vec![], "no config.json", "download"),
        ] {
            let error = files_of(folder_of(&names).path()).unwrap_err();
            assert!(error.message.contains(word), "{}", error.message);
            assert!(error.remedy.unwrap().contains(remedy));
        }
    }
}
