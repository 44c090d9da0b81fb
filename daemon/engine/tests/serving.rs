//! Serving: many requests at once, each as if it were alone; and the process behind its socket.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod kit;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::rc::Rc;

use cloister_engine::adapt::{Adapter, LoraPair};
use cloister_engine::generate::{Event, Refusal, Request, Scheduler};
use cloister_engine::model::{Decoder, Tokenizer};
use cloister_wire::engine::{FailureKind, FinishReason, FromEngine, Generate, Open, Prompt, Sampling, ToEngine};
use cloister_wire::frame::{Channel, Frame};
use cloister_wire::record::Message;
use tch::{Device, Kind, Tensor};

fn sampling(temperature: f64, max_tokens: u32) -> Sampling {
    Sampling { temperature, top_p: 0.95, max_tokens: Some(max_tokens), stop: Vec::new(), seed: 5 }
}

/// An adapter that changes the model's answers.
fn adapter(decoder: &Decoder, value: f64) -> Rc<Adapter> {
    let pair = |out, columns| {
        let full = |size: [i64; 2]| Tensor::full(size, value, (Kind::Float, Device::Cpu));
        LoraPair { a: full([2, columns]), b: full([out, 2]), scale: 1.0, dropout: 0.0 }
    };
    let modules =
        decoder.linear_modules().into_iter().filter(|m| m.path.ends_with("q_proj") || m.path.ends_with("up_proj"));
    Rc::new(Adapter { modules: modules.map(|m| (m.path.clone(), pair(m.out_features, m.in_features))).collect() })
}

/// Runs until nothing is left; text and end of each request.
fn finish(scheduler: &mut Scheduler) -> BTreeMap<u64, (String, FinishReason, u64, u64)> {
    let (mut texts, mut ended) = (BTreeMap::<u64, String>::new(), BTreeMap::new());
    while !scheduler.is_idle() {
        for event in scheduler.step().unwrap() {
            match event {
                Event::Text { id, text } => *texts.entry(id).or_default() += &text,
                Event::Finished { id, reason, prompt_tokens, completion_tokens } => {
                    ended.insert(id, (texts.remove(&id).unwrap_or_default(), reason, prompt_tokens, completion_tokens));
                }
                Event::Failed { id } => panic!("request {id} failed"),
            }
        }
    }
    ended
}

fn requests(tokenizer: &Tokenizer, adapters: [Option<Rc<Adapter>>; 3]) -> Vec<Request> {
    let prompts = ["has fever", "1: has cough and rash, 2: has ache, 3: has rash", "a"];
    (0..12)
        .map(|id| Request {
            id,
            adapter: adapters[id as usize % 3].clone(),
            prompt: tokenizer.encode(prompts[id as usize % 2]).unwrap(),
            sampling: sampling(if id % 4 == 0 { 0.0 } else { 0.8 }, 10 + id as u32),
        })
        .collect()
}

#[test]
fn an_answer_does_not_depend_on_its_neighbours() {
    let (decoder, tokenizer) = (kit::decoder(kit::NF4), kit::tokenizer());
    let adapters = || [None, Some(adapter(&decoder, 0.3)), Some(adapter(&decoder, -0.4))];
    let mut together = Scheduler::new(&decoder, &tokenizer);
    requests(&tokenizer, adapters()).into_iter().for_each(|r| together.submit(r).unwrap());
    let together = finish(&mut together);
    for request in requests(&tokenizer, adapters()) {
        let id = request.id;
        let mut alone = Scheduler::new(&decoder, &tokenizer);
        alone.submit(request).unwrap();
        assert_eq!(finish(&mut alone)[&id], together[&id], "request {id}");
    }
    // Requests 0 and 4 are greedy and read the same; only their adapters differ.
    assert!(!together[&4].0.starts_with(&together[&0].0), "adapters act");
}

#[test]
fn requests_join_and_leave_between_steps() {
    let (decoder, tokenizer) = (kit::decoder(kit::NF4), kit::tokenizer());
    let mut scheduler = Scheduler::new(&decoder, &tokenizer);
    let mut all = requests(&tokenizer, [None, None, None]).into_iter();
    scheduler.submit(all.next().unwrap()).unwrap();
    scheduler.step().unwrap();
    all.for_each(|r| scheduler.submit(r).unwrap());
    scheduler.step().unwrap();
    let Some(Event::Finished { reason, completion_tokens, .. }) = scheduler.cancel(0) else { panic!("not cancelled") };
    assert_eq!((reason, completion_tokens), (FinishReason::Cancelled, 2));
    assert!(scheduler.cancel(0).is_none());
    let rest = finish(&mut scheduler);
    assert_eq!(rest.keys().copied().collect::<Vec<_>>(), (1..12).collect::<Vec<_>>());
}

#[test]
fn lengths_are_counted_and_limited() {
    let (decoder, tokenizer) = (kit::decoder(kit::NF4), kit::tokenizer());
    let context = decoder.config().max_positions as usize;
    let mut scheduler = Scheduler::new(&decoder, &tokenizer);
    let mut request = |len: usize, max_tokens| {
        let mut sampling = sampling(0.0, 1);
        sampling.max_tokens = max_tokens;
        let request = Request { id: len as u64, adapter: None, prompt: vec![70; len], sampling };
        scheduler.submit(request)
    };
    assert_eq!(request(0, None), Err(Refusal::Empty));
    assert_eq!(request(5, Some(0)), Err(Refusal::NoTokens));
    assert_eq!(request(context, None), Err(Refusal::TooLong { tokens: context, context }));
    request(7, Some(3)).unwrap();
    request(context - 2, None).unwrap();
    let ended = finish(&mut scheduler);
    assert!(ended[&7].2 == 7 && ended[&7].3 <= 3);
    assert!(ended[&(context as u64 - 2)].3 <= 2, "an answer ends with the context");
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_shown() {
    let (decoder, tokenizer) = (kit::decoder(kit::NF4), kit::tokenizer());
    let run = |stop: Vec<String>| {
        let mut scheduler = Scheduler::new(&decoder, &tokenizer);
        let sampling = Sampling { stop, ..sampling(0.9, 40) };
        let prompt = tokenizer.encode("has fever").unwrap();
        scheduler.submit(Request { id: 1, adapter: None, prompt, sampling }).unwrap();
        finish(&mut scheduler).remove(&1).unwrap()
    };
    let (whole, ..) = run(Vec::new());
    let at = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    let stop: String = whole[at..].chars().take(3).collect();
    let (cut, reason, ..) = run(vec![stop.clone()]);
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!(cut, whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn an_adapter_that_overflows_fails_its_own_requests_alone() {
    let (decoder, tokenizer) = (kit::decoder(kit::NF4), kit::tokenizer());
    let mut scheduler = Scheduler::new(&decoder, &tokenizer);
    for (id, adapter) in [(1, Some(adapter(&decoder, 1e19))), (2, None)] {
        let prompt = tokenizer.encode("has fever").unwrap();
        scheduler.submit(Request { id, adapter, prompt, sampling: sampling(0.0, 4) }).unwrap();
    }
    let mut events = Vec::new();
    while !scheduler.is_idle() {
        events.extend(scheduler.step().unwrap());
    }
    assert!(events.contains(&Event::Failed { id: 1 }), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Finished { id: 2, .. })), "{events:?}");
}

/// The real binary with a model folder opened for it.
struct Engine {
    channel: Channel,
    child: std::process::Child,
}

impl Engine {
    fn start(folder: &str, skip: &str) -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cloister-engine"))
            .stdin(Stdio::from(OwnedFd::from(theirs.into_stream())))
            .spawn()
            .unwrap();
        let mut engine = Engine { channel: ours, child };
        let (mut names, mut files) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(kit::fixture(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name != skip {
                files.push(File::open(kit::fixture(folder).join(&name)).unwrap());
                names.push(name);
            }
        }
        let open = Open { files: names, device: "cpu".into(), quantization: Default::default(), threads: 1 };
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        engine.channel.send_with(&ToEngine::Open(open), &[], &descriptors).unwrap();
        engine
    }

    fn send(&mut self, message: ToEngine) {
        self.channel.send(&message).unwrap();
    }

    fn recv(&mut self) -> FromEngine {
        let frame: Frame<FromEngine> = self.channel.recv().unwrap().unwrap();
        frame.message
    }

    /// The exit code, once the connection has ended.
    fn end(mut self) -> Option<i32> {
        self.channel.shutdown();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn the_process_inspects_a_model() {
    let mut engine = Engine::start("tiny", "");
    engine.send(ToEngine::Inspect);
    let FromEngine::Inspected(info) = engine.recv() else { panic!("not inspected") };
    assert_eq!((info.family.as_str(), info.layers, info.vocabulary, info.chat_template), ("llama", 2, 300, true));
    assert_eq!(engine.end(), Some(0));
}

#[test]
fn a_broken_model_fails_the_task_with_its_reason() {
    let mut engine = Engine::start("tiny", "model.safetensors");
    engine.send(ToEngine::Serve);
    let FromEngine::Failed(failure) = engine.recv() else { panic!("not failed") };
    assert_eq!(failure.kind, FailureKind::Model);
    assert!(failure.message.contains("`model.safetensors` is missing"), "{}", failure.message);
    assert_eq!(engine.end(), Some(1));
}

#[test]
fn the_process_serves_answers_pings_and_leaves_with_its_daemon() {
    let mut engine = Engine::start("tiny", "");
    engine.send(ToEngine::Serve);
    assert!(matches!(engine.recv(), FromEngine::Opened(_)));
    engine.send(ToEngine::Ping);
    assert!(matches!(engine.recv(), FromEngine::Pong { peak_rss_bytes } if peak_rss_bytes > 0));
    let generate = |id, adapter: Option<&str>| {
        let prompt = Prompt::Chat(vec![Message::new("user", "1: has fever")]);
        ToEngine::Generate(Generate { id, adapter: adapter.map(Into::into), prompt, sampling: sampling(0.0, 6) })
    };
    engine.send(generate(1, Some("nobody")));
    assert!(matches!(engine.recv(), FromEngine::Refused { id: 1, reason } if reason.contains("`nobody`")));
    engine.send(ToEngine::AddAdapter { adapter: "empty".into() });
    assert!(matches!(engine.recv(), FromEngine::AdapterRefused { adapter, .. } if adapter == "empty"));
    engine.send(generate(2, None));
    let prompt_tokens = loop {
        match engine.recv() {
            FromEngine::Text { id: 2, .. } => {}
            FromEngine::Finished { id: 2, prompt_tokens, .. } => break prompt_tokens,
            other => panic!("{other:?}"),
        }
    };
    assert!(prompt_tokens > 3);
    assert_eq!(engine.end(), Some(0));
}
