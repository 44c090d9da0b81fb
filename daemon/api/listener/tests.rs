//! The door as its peers meet it.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use warp::{Filter, Reply};

use super::*;
use crate::api::testing::{House, get, own_uid};

/// Answers with the caller's name; `/slow` only after `go`.
fn routes(begun: Arc<Notify>, go: Arc<Notify>) -> BoxedFilter<(warp::reply::Response,)> {
    let name = warp::path!("name").and(warp::ext::get::<Principal>()).map(|who: Principal| who.name.into_response());
    let slow = warp::path!("slow").then(move || {
        let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
        async move {
            begun.notify_one();
            go.notified().await;
            "done".into_response()
        }
    });
    name.or(slow).unify().boxed()
}

fn plain() -> BoxedFilter<(warp::reply::Response,)> {
    routes(Arc::default(), Arc::default())
}

async fn text<B: Body<Error: std::fmt::Debug>>(response: Response<B>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_known_certificate_from_its_uid_is_let_in_by_name() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let door = house.open(plain(), House::limits());
    let mut client = door.connect(&ada).await;
    for _ in 0..2 {
        let answer = client.send_request(get("/name")).await.unwrap();
        assert_eq!(text(answer).await, (200, "ada".into()), "also the second time, on the same connection");
    }
}

#[tokio::test]
async fn a_certificate_from_another_uid_or_unknown_reaches_no_route() {
    let mut house = House::new();
    let bound_elsewhere = house.admit("bo", own_uid() + 1);
    let unknown = house.issue("eve");
    let door = house.open(plain(), House::limits());
    for identity in [bound_elsewhere, unknown] {
        let answer = door.connect(&identity).await.send_request(get("/name")).await.unwrap();
        let (status, body) = text(answer).await;
        assert!(status == 403 && body.contains("cloister user add"), "{body}");
        assert!(!body.contains("uid") && !body.contains(&identity.fingerprint), "why is for the log: {body}");
    }
}

#[tokio::test]
async fn another_authoritys_certificate_fails_the_handshake() {
    let house = House::new();
    let door = house.open(plain(), House::limits());
    let stranger = House::new().issue("ada");
    let here = house.issue("ada");
    let mixed = cloister_wire::admin::Identity { ca: here.ca, ..stranger };
    // In TLS 1.3 the client is done before the server has looked: the refusal is met on reading.
    if let Ok(mut stream) = door.handshake(&mixed).await {
        let _ = stream.write_all(b"GET /name HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        assert!(ended.is_err() && answer.is_empty(), "{ended:?}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_closed_after_the_handshake_timeout() {
    let house = House::new();
    let door = house.open(plain(), House::limits());
    let mut stream = UnixStream::connect(&door.socket).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 16])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_closed_after_the_header_timeout() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let door = house.open(plain(), House::limits());
    let mut stream = door.handshake(&ada).await.unwrap();
    stream.write_all(b"GET /name HTTP/1.1\r\nho").await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok() && !String::from_utf8_lossy(&answer).contains("200"), "{answer:?}");
}

#[tokio::test]
async fn a_revocation_holds_for_connections_that_are_open() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let door = house.open(plain(), House::limits());
    let mut client = door.connect(&ada).await;
    assert_eq!(text(client.send_request(get("/name")).await.unwrap()).await.0, 200);
    door.registry.write().unwrap().revoke("ada", "2026-11-24T13:00:00Z", |_| Ok::<_, String>(())).unwrap();
    assert_eq!(text(client.send_request(get("/name")).await.unwrap()).await.0, 403);
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_the_others_go_on() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let door = house.open(plain(), DoorLimits { max_connections: 1, ..House::limits() });
    let mut first = door.connect(&ada).await;
    assert!(door.handshake(&ada).await.is_err());
    assert_eq!(text(first.send_request(get("/name")).await.unwrap()).await.1, "ada");
}

#[tokio::test]
async fn one_uid_cannot_take_every_connection() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let door = house.open(plain(), DoorLimits { max_connections: 4, ..House::limits() });
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(door.handshake(&ada).await.unwrap());
    }
    assert!(door.handshake(&ada).await.is_err(), "the fourth is for somebody else");
    held.clear();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(door.handshake(&ada).await.is_ok(), "a closed connection's place is free again");
}

#[tokio::test]
async fn shutdown_lets_a_running_request_end_and_takes_no_new_one() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let door = house.open(routes(Arc::clone(&begun), Arc::clone(&go)), House::limits());
    let mut client = door.connect(&ada).await;
    let running = tokio::spawn(async move { text(client.send_request(get("/slow")).await.unwrap()).await });
    begun.notified().await;
    door.stop.send_replace(true);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(UnixStream::connect(&door.socket).await.is_err(), "the listener is closed first");
    assert!(!door.served.is_finished());
    go.notify_one();
    assert_eq!(running.await.unwrap(), (200, "done".into()));
    tokio::time::timeout(Duration::from_secs(2), door.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_cuts_off_what_does_not_end_in_time() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let begun = Arc::new(Notify::new());
    let limits = DoorLimits { drain: Duration::from_millis(100), ..House::limits() };
    let door = house.open(routes(Arc::clone(&begun), Arc::default()), limits);
    let mut client = door.connect(&ada).await;
    let running = tokio::spawn(async move { client.send_request(get("/slow")).await.is_err() });
    begun.notified().await;
    door.stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(2), door.served).await.unwrap().unwrap();
    assert!(running.await.unwrap());
}
