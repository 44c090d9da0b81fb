//! The client against a small TLS server on a Unix socket: what arrives, and how each failure is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use cloister_wire::admin::JobEvent;
use indicatif::ProgressBar;

use super::door::{Door, Read, http};
use super::*;

const DENIAL: &str = r#"{"code":"denied","message":"`visits` may not be imported","rule":"no-import","remedy":"ask"}"#;

#[tokio::test]
async fn an_answer_is_read_as_a_type_and_as_it_came() {
    let door = Door::new();
    let server = door.serve(Read::All, http("200 OK", r#"{"b": 1, "a": [2.50]}"#));
    let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
    let reply: Reply<Value> = client.get(&admin(&["models", "a/b"])).await.unwrap();
    assert_eq!(reply.value, serde_json::json!({ "a": [2.5], "b": 1 }));
    let request = String::from_utf8(server.await.unwrap()).unwrap();
    assert!(request.starts_with("GET /admin/v1/models/a%2Fb HTTP/1.1\r\n"), "{request}");
}

#[tokio::test]
async fn an_upload_is_one_line_of_json_and_the_file() {
    let door = Door::new();
    let file = door.folder.path().join("visits.csv");
    // Longer than a piece, so that it is cut.
    let content: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    fs::write(&file, &content).unwrap();
    let server = door.serve(Read::All, http("200 OK", "{}"));
    let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
    let bar = ProgressBar::hidden();
    let upload = Upload::with_head(&serde_json::json!({ "format": "csv" }), &file, bar.clone()).unwrap();
    let _: Reply<Value> = client.upload(Method::POST, &admin(&["datasets", "visits"]), upload).await.unwrap();
    let request = server.await.unwrap();
    let head = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let body = &request[head + 4..];
    assert!(body.starts_with(b"{\"format\":\"csv\"}\n") && body.ends_with(&content));
    assert_eq!((bar.position(), body.len()), (3_000_001, 3_000_001 + 17));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_daemon_that_refuses_an_upload_midway_is_still_heard() {
    // The race between its answer and our writing is real: once is not enough.
    for _ in 0..60 {
        let door = Door::new();
        let file = door.folder.path().join("visits.csv");
        fs::write(&file, vec![b'x'; 20 << 20]).unwrap();
        let server = door.serve(Read::Head, http("403 Forbidden", DENIAL));
        let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
        let upload = Upload::file(&file, ProgressBar::hidden());
        let error = client.upload::<Value>(Method::PUT, "/admin/v1/x", upload).await.unwrap_err();
        assert_eq!((error.code, error.rule.as_deref()), (ErrorCode::Denied, Some("no-import")), "{error}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn events_come_line_by_line_however_they_are_cut() {
    let door = Door::new();
    let first = r#"{"progress":{"held_out":{"step":5,"loss":1.5,"tokens":10}}}"#;
    let (head, tail) = first.split_at(20);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let body = [chunk(head), chunk(&format!("{tail}\n\nlast")), chunk(" line"), "0\r\n\r\n".into()].concat();
    let _server = door.serve(Read::All, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
    let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
    let mut lines = client.lines("/admin/v1/jobs/x/events").await.unwrap();
    let event: JobEvent = serde_json::from_slice(&lines.next().await.unwrap().unwrap()).unwrap();
    assert!(matches!(event, JobEvent::Progress(_)));
    assert_eq!(lines.next().await.unwrap().unwrap(), b"");
    assert_eq!(lines.next().await.unwrap().unwrap(), b"last line");
    assert_eq!(lines.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_not_an_end() {
    let door = Door::new();
    let _server = door.serve(Read::All, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n".into());
    let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
    let mut lines = client.lines("/x").await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), b"a");
    assert_eq!(lines.next().await.unwrap_err().code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_certificate_of_another_appliance_is_refused_in_words() {
    let (door, other) = (Door::new(), Door::new());
    let server = door.serve(Read::All, http("200 OK", "{}"));
    let client = Client::new(&door.socket(), &other.identity(&door)).unwrap();
    let error = client.get::<Value>("/admin/v1/status").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains("refused the certificate"), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_daemon_of_another_ca_is_not_trusted() {
    let (door, other) = (Door::new(), Door::new());
    let _server = door.serve(Read::All, http("200 OK", "{}"));
    let client = Client::new(&door.socket(), &door.identity(&other)).unwrap();
    let error = client.get::<Value>("/admin/v1/status").await.unwrap_err();
    assert!(error.message.contains("does not come from the CA"), "{error}");
}

#[tokio::test]
async fn a_missing_socket_and_a_deaf_one_are_told_apart() {
    let door = Door::new();
    let client = Client::new(&door.socket(), &door.identity(&door)).unwrap();
    let error = client.get::<Value>("/x").await.unwrap_err();
    assert!(error.message.contains("is cloisterd running?"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(door.socket()).unwrap());
    let error = client.get::<Value>("/x").await.unwrap_err();
    assert!(error.message.contains("nobody listens"), "{error}");
    assert_eq!(error.code.exit_code(), 6);
}

#[test]
fn failures_keep_their_code_whatever_form_they_come_in() {
    assert_eq!(parse_error(403, DENIAL.as_bytes()).rule.as_deref(), Some("no-import"));
    let openai = parse_error(404, br#"{"error": {"message": "no model `x`", "type": "invalid_request_error"}}"#);
    assert_eq!((openai.code, openai.message.as_str()), (ErrorCode::NotFound, "no model `x`"));
    for (status, code) in [(400, ErrorCode::Invalid), (500, ErrorCode::Failed), (503, ErrorCode::Unavailable)] {
        assert_eq!(parse_error(status, b"<html>").code, code);
    }
}

#[test]
fn no_name_can_change_the_route() {
    assert_eq!(admin(&["users", "../models", "a b?c"]), "/admin/v1/users/..%2Fmodels/a%20b%3Fc");
}
