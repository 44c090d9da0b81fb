//! Text ↔ token ids, and the chat template: `tokenizer.json` through `tokenizers`, the template through
//! `template`. A rendered template already holds its special tokens, so it is encoded without adding any:
//! no double BOS.

use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use super::template::Template;
use super::{ModelError, ModelFiles};

/// A model's tokenizer and its chat template.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    template: Option<Template>,
    eos_ids: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` and the end ids.
    pub fn load(files: &ModelFiles) -> Result<Self, ModelError> {
        let remedy = "import the folder with its fast tokenizer (`tokenizer.json`)";
        let text = files.required_text("tokenizer.json", remedy)?;
        let mut inner = text
            .parse::<tokenizers::Tokenizer>()
            .map_err(|e| wrong("tokenizer.json", format!("does not parse: {e}; restore it from the model's source")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| wrong("tokenizer.json", format!("cannot be used: {e}")))?;
        let settings = Settings::load(files)?;
        let template = Template::load(files, &settings)?;
        let mut eos_ids = ModelConfig::load(files)?.eos_ids;
        eos_ids.extend(settings.eos_token.as_ref().and_then(|token| inner.token_to_id(token.text())));
        eos_ids.sort_unstable();
        eos_ids.dedup();
        Ok(Tokenizer { inner, template, eos_ids })
    }

    /// Ids of a text, adding no special token: for rendered templates and parts of them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_with(text, false)
    }

    /// Ids of a bare prompt, with the special tokens that the model's tokenizer puts around a text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        // The library's message may quote the text, which may be a record: it is not passed on.
        let encoding = self
            .inner
            .encode_fast(text, special)
            .map_err(|_| wrong("tokenizer.json", "cannot encode this text".into()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(ids, true).map_err(|_| wrong("tokenizer.json", "cannot decode these ids".into()))
    }

    /// A decoder for ids that arrive one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, state: StreamState::default() }
    }

    /// The id of a token, if it is one.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Refuses a tokenizer that can yield ids which the embedding does not have.
    pub fn check_vocabulary(&self, embedding_rows: i64) -> Result<(), ModelError> {
        let largest = self.inner.get_vocab(true).into_values().max().map_or(0, i64::from);
        if largest < embedding_rows {
            return Ok(());
        }
        let reason = format!(
            "has a token of id {largest} where config.json's vocab_size is {embedding_rows}; \
             take both files from the same model"
        );
        Err(wrong("tokenizer.json", reason))
    }

    /// Ids that end an answer.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Whether the folder holds a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Renders messages (objects with `role` and `content`) as the model was trained to read them.
    pub fn render_chat<M: Serialize>(&self, messages: &[M], add_generation_prompt: bool) -> Result<String, ModelError> {
        let template = self.template.as_ref().ok_or_else(|| {
            let reason = "holds no chat template, and there is no chat_template.jinja; \
                          add one to the folder and import it again, or use plain completions";
            wrong("tokenizer_config.json", reason.into())
        })?;
        template.render(messages, add_generation_prompt)
    }
}

/// What decoding remembers between ids.
#[derive(Debug, Default, Clone)]
pub struct StreamState {
    ids: Vec<u32>,
    /// Ids before this are only context for those after.
    context: usize,
    /// Ids before this are already text.
    emitted: usize,
}

impl StreamState {
    /// Adds an id and returns the text that is now certain: never half a UTF-8 character.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, ModelError> {
        self.ids.push(id);
        let before = tokenizer.decode(&self.ids[self.context..self.emitted])?;
        let now = tokenizer.decode(&self.ids[self.context..])?;
        if now.ends_with(char::REPLACEMENT_CHARACTER) || !now.starts_with(&before) {
            return Ok(String::new());
        }
        self.context = self.emitted;
        self.emitted = self.ids.len();
        Ok(now[before.len()..].to_owned())
    }

    /// What is left at the end, an incomplete character shown as U+FFFD.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, ModelError> {
        let before = tokenizer.decode(&self.ids[self.context..self.emitted])?;
        let now = tokenizer.decode(&self.ids[self.context..])?;
        self.context = self.ids.len();
        self.emitted = self.ids.len();
        Ok(now.strip_prefix(&before).unwrap_or_default().to_owned())
    }
}

/// Decodes ids as they arrive.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    state: StreamState,
}

impl TextStream<'_> {
    /// Adds an id and returns the text that is now certain.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        self.state.push(self.tokenizer, id)
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Result<String, ModelError> {
        self.state.finish(self.tokenizer)
    }
}

/// The parts of `tokenizer_config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Settings {
    pub(super) bos_token: Option<Token>,
    pub(super) eos_token: Option<Token>,
    pub(super) pad_token: Option<Token>,
    pub(super) unk_token: Option<Token>,
    pub(super) chat_template: Option<Templates>,
}

/// A token, as a string or as an object with its content.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Token {
    Text(String),
    Added { content: String },
}

/// One template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) template: String,
}

impl Token {
    pub(super) fn text(&self) -> &str {
        match self {
            Token::Text(text) | Token::Added { content: text } => text,
        }
    }
}

impl Settings {
    fn load(files: &ModelFiles) -> Result<Self, ModelError> {
        match files.text("tokenizer_config.json")? {
            None => Ok(Settings::default()),
            Some(text) => {
                serde_json::from_str(&text).map_err(|e| wrong("tokenizer_config.json", format!("does not parse: {e}")))
            }
        }
    }
}

pub(super) fn wrong(file: &str, reason: String) -> ModelError {
    ModelError::Tokenizer { file: file.to_owned(), reason }
}
