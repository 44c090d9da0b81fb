//! Token ids and rendered chats against transformers (fixtures/make_chat.py).
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::path::{Path, PathBuf};

use cloister_engine::model::{ModelFiles, Tokenizer};
use cloister_engine::train::data::{self, Limit};
use cloister_wire::recipe::OverLong;
use cloister_wire::record::{Message, Record};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn load(folder: &Path) -> Tokenizer {
    Tokenizer::load(&ModelFiles::open_folder(folder).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn check(name: &str, tokenizer: &Tokenizer) {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(fixtures().join("chat.json")).unwrap()).unwrap();
    for case in all[name]["chats"].as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let text = tokenizer.render_chat(&messages, case["generate"].as_bool().unwrap()).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap(), "{name}");
        assert_eq!(tokenizer.encode(&text).unwrap(), ids(&case["ids"]), "{name}: {text}");
    }
    for case in all[name]["texts"].as_array().unwrap() {
        let found = tokenizer.encode_prompt(case["text"].as_str().unwrap()).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{name}");
        assert_eq!(tokenizer.decode(&found).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn the_demo_model_is_tokenised_as_transformers_does() {
    let tokenizer = load(&fixtures().join("demo"));
    check("demo", &tokenizer);
    assert_eq!(tokenizer.eos_ids(), [2]);
}

#[test]
fn qwen_is_tokenised_as_transformers_does() {
    let Some(folder) = qwen() else {
        println!("skipped: no Qwen folder; set CLOISTER_QWEN to one to run this");
        return;
    };
    let tokenizer = load(&folder);
    check("qwen", &tokenizer);
    assert!(tokenizer.eos_ids().contains(&151_645));
}

/// Of a conversation the last answer and its end token are learnt, no line break behind it, and there is one
/// BOS at most.
fn check_learnt(tokenizer: &Tokenizer, answer_end: &str) {
    let messages =
        [("user", "Cough?"), ("assistant", "Since\nMonday."), ("user", "Fever?"), ("assistant", "No. 37 °C")];
    let messages = messages.map(|(role, content)| Message::new(role, content)).to_vec();
    let records = [Record { row: 1, messages: messages.clone() }];
    let limit = Limit { max_length: 1000, over_long: OverLong::Refuse };
    let example = data::examples(tokenizer, &records, limit).unwrap().examples.remove(0);
    let ids: Vec<u32> = example.ids.iter().map(|id| *id as u32).collect();
    let (prompt, learnt) = ids.split_at(example.learnt_from);
    let expected = [tokenizer.encode("No. 37 °C").unwrap(), vec![tokenizer.token_to_id(answer_end).unwrap()]].concat();
    assert_eq!(learnt, expected);
    // Exactly what the model is asked with when it serves.
    assert_eq!(prompt, tokenizer.encode(&tokenizer.render_chat(&messages[..3], true).unwrap()).unwrap());
    let bos = tokenizer.token_to_id("<|begin|>");
    assert_eq!(ids.iter().filter(|id| Some(**id) == bos).count(), usize::from(bos.is_some()));
}

#[test]
fn the_answer_and_its_end_token_are_learnt_and_nothing_else() {
    check_learnt(&load(&fixtures().join("demo")), "<|end|>");
    if let Some(folder) = qwen() {
        check_learnt(&load(&folder), "<|im_end|>");
    }
}

/// A Qwen folder, if there is one.
fn qwen() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var("CLOISTER_QWEN").unwrap_or_else(|_| "/work/scratch/qwen".into()));
    folder.join("tokenizer.json").exists().then_some(folder)
}

#[test]
fn a_stream_never_shows_half_a_character_and_loses_none() {
    let tokenizer = load(&fixtures().join("demo"));
    for text in ["naïve 日本語 👩‍⚕️ end", "plain words, 37.5 °C"] {
        let mut stream = tokenizer.stream();
        let mut shown = String::new();
        for id in tokenizer.encode(text).unwrap() {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "{piece:?}");
            shown += &piece;
        }
        shown += &stream.finish().unwrap();
        assert_eq!(shown, text);
    }
}

#[test]
fn a_folder_without_a_template_says_how_to_give_one() {
    let names = ["config.json", "tokenizer.json"];
    let files = names.map(|name| (name.to_owned(), std::fs::File::open(fixtures().join("demo").join(name)).unwrap()));
    let tokenizer = Tokenizer::load(&ModelFiles::new(files)).unwrap();
    let message = tokenizer.render_chat::<Value>(&[], true).unwrap_err().to_string();
    assert!(message.contains("chat_template.jinja"), "{message}");
}
