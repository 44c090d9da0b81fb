//! Base against adapter on the tiny model.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use cloister_engine::adapt::peft;
use cloister_engine::evaluate::{self, Answering, answer};
use cloister_engine::task::{Inputs, TaskError};
use cloister_engine::train;
use cloister_wire::engine::{EvaluateTask, Evaluation, FailureKind, FromEngine, TrainTask};
use kit::{Daemon, NF4, decoder, inputs, recipe, records, tokenizer};

fn evaluation(daemon: &Daemon) -> Evaluation {
    match daemon.messages.last() {
        Some(FromEngine::Evaluated(evaluation)) => evaluation.clone(),
        other => panic!("the evaluation ended with {other:?}"),
    }
}

/// An adapter that has learnt the records' pattern, and the inputs with it.
fn trained() -> Inputs {
    let text = "[lora]\nrank = 8\n[training]\nbatch_size = 4\nlearning_rate = 1e-2\nepochs = 30\nevaluate_every = 0\n";
    let task = TrainTask { recipe: recipe(text), resume: false };
    let mut daemon = Daemon::default();
    train::run(&mut daemon, &decoder(NF4), &tokenizer(), &task, &inputs(&records(1..=16), &[])).unwrap();
    let mut inputs = inputs(&[], &records(17..=22));
    for name in [peft::CONFIG_FILE, peft::WEIGHTS_FILE] {
        kit::send_file(&mut inputs, name, &daemon.files[name]);
    }
    inputs
}

#[test]
fn a_trained_adapter_beats_its_base_on_every_figure() {
    let inputs = trained();
    let mut daemon = Daemon::default();
    let task = EvaluateTask { generate: 4, max_tokens: 16 };
    evaluate::run(&mut daemon, &decoder(NF4), &tokenizer(), &task, &inputs).unwrap();
    let found = evaluation(&daemon);
    assert_eq!((found.records, found.generated), (6, 4));
    assert!(found.adapter.loss < 0.5 * found.base.loss, "{found:?}");
    assert!((found.adapter.perplexity - found.adapter.loss.exp()).abs() < 1e-9);
    assert!(found.adapter.rouge_l > found.base.rouge_l + 0.3, "{found:?}");
    let last = daemon.messages.iter().rev().find_map(|message| match message {
        FromEngine::Evaluating { done, total } => Some((*done, *total)),
        _ => None,
    });
    assert_eq!(last, Some((20, 20)));
}

#[test]
fn answers_do_not_depend_on_their_neighbours() {
    let (decoder, tokenizer) = (decoder(NF4), tokenizer());
    let adapter = evaluate::read_adapter(&decoder, &trained()).unwrap();
    let how = Answering { decoder: &decoder, tokenizer: &tokenizer, adapter: Some(&adapter), max_tokens: 12 };
    let mut prompts: Vec<String> =
        records(1..=20).iter().map(|r| tokenizer.render_chat(&r.messages[..1], true).unwrap()).collect();
    // Too long to be read in one pass beside each other.
    let long = (1..=3).map(|n| format!("{}{}", "has ache, has rash. ".repeat(7 + n), prompts[n]));
    let long: Vec<String> = long.collect();
    prompts.extend(long);
    let together = answer::<TaskError>(how, &prompts, || Ok(true)).unwrap().unwrap();
    for (prompt, one) in prompts.iter().zip(&together) {
        let alone = answer::<TaskError>(how, std::slice::from_ref(prompt), || Ok(true)).unwrap().unwrap();
        assert_eq!(&alone[0], one);
    }
}

#[test]
fn a_loss_that_is_no_number_is_an_error_and_not_a_figure() {
    let mut inputs = trained();
    let config = String::from_utf8(inputs.file(peft::CONFIG_FILE).unwrap().to_vec()).unwrap();
    let wild = config.replace(r#""lora_alpha": 32"#, r#""lora_alpha": 1e30"#);
    assert_ne!(wild, config);
    kit::send_file(&mut inputs, peft::CONFIG_FILE, wild.as_bytes());
    let task = EvaluateTask { generate: 0, max_tokens: 4 };
    let failure =
        evaluate::run(&mut Daemon::default(), &decoder(NF4), &tokenizer(), &task, &inputs).unwrap_err().failure();
    assert_eq!(failure.kind, FailureKind::Numeric);
    assert!(failure.message.contains("with the adapter"), "{}", failure.message);
}

#[test]
fn a_half_sent_adapter_or_no_records_are_errors() {
    let task = EvaluateTask { generate: 1, max_tokens: 4 };
    let run = |inputs: &Inputs| {
        evaluate::run(&mut Daemon::default(), &decoder(NF4), &tokenizer(), &task, inputs).unwrap_err().to_string()
    };
    assert!(run(&inputs(&[], &records(1..=2))).contains("adapter_config.json"));
    assert!(run(&inputs(&[], &[])).contains("no record"));
}
