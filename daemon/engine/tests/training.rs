//! The training loop on a tiny model: what it learns, that it repeats, stops and resumes to the byte, and
//! what it refuses.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::sync::{Mutex, PoisonError};

use cloister_engine::adapt::peft;
use cloister_engine::model::Quantization;
use cloister_engine::task::{Inputs, TaskError};
use cloister_engine::train;
use cloister_wire::engine::{FailureKind, FromEngine, TrainSummary, TrainTask};
use cloister_wire::recipe::Recipe;
use cloister_wire::record::Message;
use kit::{Daemon, NF4, decoder, inputs, recipe, records, tokenizer};

const SHORT: &str = "[lora]\nrank = 4\ndropout = 0.1\n[training]\nbatch_size = 6\nmicro_batch_size = 2\n\
                     learning_rate = 5e-3\nepochs = 2\nevaluate_every = 3\ncheckpoint_every = 0\n";

/// libtorch's generator, which dropout draws from, belongs to the process: one task at a time, as in the
/// engine.
static ONE_TASK: Mutex<()> = Mutex::new(());

fn train_on(daemon: &mut Daemon, recipe: &Recipe, inputs: &Inputs, resume: bool) -> Result<(), TaskError> {
    let _one = ONE_TASK.lock().unwrap_or_else(PoisonError::into_inner);
    let task = TrainTask { recipe: recipe.clone(), resume };
    train::run(daemon, &decoder(NF4), &tokenizer(), &task, inputs)
}

fn adapter(daemon: &Daemon) -> &[u8] {
    &daemon.files[peft::WEIGHTS_FILE]
}

fn summary(daemon: &Daemon) -> TrainSummary {
    match daemon.messages.last() {
        Some(FromEngine::Trained(summary)) => summary.clone(),
        other => panic!("the run ended with {other:?}"),
    }
}

fn uninterrupted(recipe: &Recipe) -> Daemon {
    let mut daemon = Daemon::default();
    train_on(&mut daemon, recipe, &inputs(&records(1..=20), &records(21..=24)), false).unwrap();
    daemon
}

fn failure(recipe: &Recipe, inputs: &Inputs, resume: bool) -> (FailureKind, String) {
    let failure = train_on(&mut Daemon::default(), recipe, inputs, resume).unwrap_err().failure();
    (failure.kind, failure.message)
}

#[test]
fn held_out_loss_falls_and_everything_is_reported() {
    let recipe = recipe(&SHORT.replace("epochs = 2", "epochs = 8"));
    let daemon = uninterrupted(&recipe);
    let summary = summary(&daemon);
    assert_eq!((summary.steps, summary.examples), (32, 20));
    let (before, after) = (summary.held_out_before.unwrap(), summary.held_out_after.unwrap());
    assert!(after < 0.6 * before, "{before} → {after}");
    let steps: Vec<u64> = daemon
        .messages
        .iter()
        .filter_map(|m| match m {
            FromEngine::HeldOut(loss) => Some(loss.step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 32]);
    assert_eq!(daemon.losses().len(), 32);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let first = uninterrupted(&recipe(SHORT));
    assert!(first.files == uninterrupted(&recipe(SHORT)).files);
    let other = Recipe { seed: 5, ..recipe(SHORT) };
    assert!(adapter(&first) != adapter(&uninterrupted(&other)));
}

#[test]
fn stopped_anywhere_and_resumed_is_uninterrupted_to_the_byte() {
    let recipe = recipe(SHORT);
    let whole = uninterrupted(&recipe);
    let mut stops = 0;
    // Each turn of the loop asks; so do micro-batches and held-out passes in between.
    for stop_at in (0..).step_by(3) {
        let mut inputs = inputs(&records(1..=20), &records(21..=24));
        let mut first = Daemon::stopping_at(stop_at);
        train_on(&mut first, &recipe, &inputs, false).unwrap();
        if let Some(FromEngine::Trained(_)) = first.messages.last() {
            break;
        }
        assert!(matches!(first.messages.last(), Some(FromEngine::Stopped { .. })));
        kit::send_file(&mut inputs, "checkpoint", &first.files["checkpoint"]);
        let mut second = Daemon::default();
        train_on(&mut second, &recipe, &inputs, true).unwrap();
        assert!(adapter(&second) == adapter(&whole), "stopped at question {stop_at}");
        assert_eq!(summary(&second).held_out_before, summary(&whole).held_out_before);
        stops += 1;
    }
    assert!(stops > 8, "{stops}");
}

#[test]
fn recomputing_blocks_gives_the_gradients_of_keeping_them() {
    let run = |recompute: bool| uninterrupted(&recipe(&format!("{SHORT}recompute = {recompute}\n"))).losses();
    // A recipe of its own, but the same seed, so the same dropout masks.
    for (kept, recomputed) in run(false).iter().zip(run(true)) {
        assert!((kept - recomputed).abs() < 1e-4, "{kept} {recomputed}");
    }
}

#[test]
fn the_split_into_micro_batches_does_not_change_the_loss() {
    let without_dropout = SHORT.replace("dropout = 0.1\n", "");
    let run = |micro: &str| uninterrupted(&recipe(&without_dropout.replace("micro_batch_size = 2", micro))).losses();
    for (one, other) in run("micro_batch_size = 1").iter().zip(run("")) {
        assert!((one - other).abs() < 1e-4, "{one} {other}");
    }
}

#[test]
fn a_checkpoint_of_another_run_or_a_damaged_one_is_refused() {
    let mut daemon = Daemon::stopping_at(12);
    let inputs_of = || inputs(&records(1..=20), &records(21..=24));
    train_on(&mut daemon, &recipe(SHORT), &inputs_of(), false).unwrap();
    let checkpoint = daemon.files["checkpoint"].clone();
    let resume = |recipe: &Recipe, mut inputs: Inputs, bytes: &[u8]| {
        kit::send_file(&mut inputs, "checkpoint", bytes);
        failure(recipe, &inputs, true)
    };
    let other_recipe = Recipe { seed: 5, ..recipe(SHORT) };
    let (kind, message) = resume(&other_recipe, inputs_of(), &checkpoint);
    assert!(kind == FailureKind::Adapter && message.contains("another recipe"), "{message}");
    let (_, message) = resume(&recipe(SHORT), inputs(&records(1..=19), &[]), &checkpoint);
    assert!(message.contains("another dataset"), "{message}");
    let (_, message) = resume(&recipe(SHORT), inputs_of(), &checkpoint[..checkpoint.len() - 1]);
    assert!(message.contains("damaged"), "{message}");
    let mut flipped = checkpoint.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let (_, message) = resume(&recipe(SHORT), inputs_of(), &flipped);
    assert!(message.contains("digest"), "{message}");
}

#[test]
fn a_loss_that_is_no_number_names_the_rows_and_writes_no_adapter() {
    let wild = SHORT.replace("learning_rate = 5e-3", "learning_rate = 1.0\nmax_grad_norm = 0.0\nweight_decay = 0.0");
    let recipe = recipe(&wild.replace("rank = 4", "rank = 4\nalpha = 1e30"));
    let mut daemon = Daemon::default();
    let failure = train_on(&mut daemon, &recipe, &inputs(&records(1..=20), &[]), false).unwrap_err().failure();
    assert_eq!(failure.kind, FailureKind::Numeric);
    assert!(failure.message.contains("rows "), "{}", failure.message);
    assert!(daemon.files.is_empty());
}

/// Every weight is finite here, and still no answer is: only the held-out loss shows it.
#[test]
fn an_adapter_whose_held_out_loss_is_no_number_is_not_written() {
    let wild = SHORT.replace("learning_rate = 5e-3", "learning_rate = 1.0\nmax_steps = 1\nwarmup_ratio = 0.0");
    let recipe = recipe(
        &wild.replace("rank = 4", "rank = 4\nalpha = 1e16\ntargets = [\"gate_proj\", \"up_proj\", \"down_proj\"]"),
    );
    let mut daemon = Daemon::default();
    let inputs = inputs(&records(1..=20), &records(21..=24));
    let failure = train_on(&mut daemon, &recipe, &inputs, false).unwrap_err().failure();
    assert_eq!(failure.kind, FailureKind::Numeric);
    assert!(failure.message.contains("after step 1") && failure.message.contains("NaN"), "{}", failure.message);
    assert!(daemon.files.is_empty());
}

#[test]
fn records_that_cannot_be_learnt_are_refused_by_row_and_without_their_text() {
    let mut long = records(1..=3);
    long[1].messages[0].content = "secret ".repeat(100);
    let (kind, message) = failure(&recipe(SHORT), &inputs(&long, &[]), false);
    assert!(kind == FailureKind::Data && message.contains("row 2") && !message.contains("secret"), "{message}");
    let (_, message) = failure(&recipe(SHORT), &inputs(&records(1..=3), &long), false);
    assert!(message.starts_with("held-out records:"), "{message}");
    let mut empty = records(1..=3);
    empty[2].messages[1] = Message::new("assistant", "  ");
    let (_, message) = failure(&recipe(SHORT), &inputs(&empty, &[]), false);
    assert!(message.contains("row 3"), "{message}");
    assert!(failure(&recipe(SHORT), &inputs(&[], &[]), false).1.contains("no record"));
    let (kind, message) = failure(&recipe("[lora]\ntargets = [\"c_attn\"]\n"), &inputs(&records(1..=3), &[]), false);
    assert!(kind == FailureKind::Recipe && message.contains("c_attn"), "{message}");
}

#[test]
fn an_unquantised_base_trains_as_well() {
    let task = TrainTask { recipe: recipe(SHORT), resume: false };
    let mut daemon = Daemon::default();
    let inputs = inputs(&records(1..=20), &[]);
    train::run(&mut daemon, &decoder(Quantization::None), &tokenizer(), &task, &inputs).unwrap();
    assert!(summary(&daemon).final_loss < daemon.losses()[0]);
}
