//! The official `openai` client, unmodified, talks to the appliance through its socket with a user's certificate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::path::PathBuf;
use std::process::Command;

use kit::Kit;

/// Prints one JSON object with what the client saw.
const SCRIPT: &str = r#"
import json, ssl, sys
import httpx, openai

socket, identity, adapter = sys.argv[1:4]
tls = ssl.create_default_context(cafile=f"{identity}/ca.pem")
tls.load_cert_chain(f"{identity}/certificate.pem", f"{identity}/key.pem")
transport = httpx.HTTPTransport(uds=socket, verify=tls)
client = openai.OpenAI(base_url="https://localhost/v1", api_key="none", http_client=httpx.Client(transport=transport),
                       max_retries=0)
messages = [{"role": "user", "content": "Doctor: Any allergies? Patient: No."}]
same = dict(model=adapter, messages=messages, max_tokens=12, temperature=0)

models = [model.id for model in client.models.list()]
whole = client.chat.completions.create(**same)
chunks = list(client.chat.completions.create(**same, stream=True, stream_options={"include_usage": True}))
text = client.completions.create(model=adapter, prompt="The patient is", max_tokens=8, temperature=0)
warm = dict(model=adapter, messages=messages, max_tokens=12, temperature=0.9, top_p=0.95, seed=5)
first = whole.choices[0].message.content
stopped = client.chat.completions.create(**same, stop=[first[2:4]])

def refusal(**arguments):
    try:
        client.chat.completions.create(**arguments)
    except openai.APIStatusError as error:
        return error.status_code
    return None

print(json.dumps({
    "models": models,
    "content": first,
    "role": whole.choices[0].message.role,
    "finish": whole.choices[0].finish_reason,
    "usage": whole.usage.model_dump(),
    "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    "streamed_finish": [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
    "streamed_usage": [c.usage.model_dump() for c in chunks if c.usage],
    "text": text.choices[0].text,
    "warm": [client.chat.completions.create(**warm).choices[0].message.content for _ in range(2)],
    "stopped": stopped.choices[0].message.content,
    "stopped_finish": stopped.choices[0].finish_reason,
    "unknown_model": refusal(model="nobody", messages=messages),
    "bad_temperature": refusal(model=adapter, messages=messages, temperature=9),
}))
"#;

#[test]
fn the_official_client_lists_chats_streams_and_completes() {
    let Some(python) = python() else {
        println!(
            "skipped: the official openai client: no Python with `openai` and `httpx` (set CLOISTER_PEERS_PYTHON)"
        );
        return;
    };
    let kit = Kit::equipped();
    kit.dataset("visits", 40);
    kit.train("notes");
    kit.release("notes");

    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(kit.socket()).arg(kit.identity("uma")).arg("notes");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}\n{}", kit::appliance::text(&output.stderr), kit.log_tail(20));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    assert!(seen["models"].as_array().unwrap().contains(&"notes".into()), "{seen}");
    assert_eq!(seen["role"], "assistant");
    let content = seen["content"].as_str().unwrap();
    assert!(!content.trim().is_empty(), "{seen}");
    assert_eq!(seen["streamed"], seen["content"], "streamed and whole answers differ");
    assert_eq!(seen["streamed_finish"], serde_json::json!([seen["finish"]]));
    assert_eq!(seen["streamed_usage"], serde_json::json!([seen["usage"]]));
    let usage = |key: &str| seen["usage"][key].as_u64().unwrap();
    assert_eq!(usage("prompt_tokens") + usage("completion_tokens"), usage("total_tokens"));
    assert!((1..=12).contains(&usage("completion_tokens")), "{seen}");
    assert!(!seen["text"].as_str().unwrap().is_empty());
    assert_eq!(seen["warm"][0], seen["warm"][1], "the same seed gave two answers");
    assert!(content.starts_with(seen["stopped"].as_str().unwrap()) && seen["stopped"] != seen["content"], "{seen}");
    assert_eq!(seen["stopped_finish"], "stop");
    assert_eq!((&seen["unknown_model"], &seen["bad_temperature"]), (&404.into(), &400.into()));
}

/// A Python that can import the client: the suite's choice, else the system's own.
fn python() -> Option<PathBuf> {
    let candidates = [std::env::var_os("CLOISTER_PEERS_PYTHON").map(PathBuf::from), Some(PathBuf::from("python3"))];
    candidates.into_iter().flatten().find(|python| {
        let check = Command::new(python).args(["-c", "import openai, httpx"]).output();
        check.is_ok_and(|output| output.status.success())
    })
}
