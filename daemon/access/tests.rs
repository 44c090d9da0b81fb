#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The door as a peer meets it: real handshakes over a Unix socket pair.

use super::*;
use cloister_wire::admin::Identity;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const NOW: i64 = 1_795_000_000;

struct House {
    authority: Authority,
    server: ServerIdentity,
    registry: Registry,
}

fn known_roles() -> Vec<String> {
    ["administrator", "steward", "user"].map(str::to_owned).to_vec()
}

fn stored(_: &[u8]) -> Result<(), String> {
    Ok(())
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

impl House {
    fn new() -> Self {
        let authority = Authority::create(NOW).unwrap();
        let server = authority.issue_server(NOW).unwrap();
        Self { authority, server, registry: Registry::default() }
    }

    fn config(&self) -> Arc<ServerConfig> {
        server_config(self.authority.certificate(), &self.server.certificate, &self.server.key).unwrap()
    }

    fn admit(&mut self, name: &str, role: &str, uid: Option<u32>) -> Identity {
        let identity = self.authority.issue_client(name, NOW).unwrap();
        let roles = BTreeSet::from([role.to_owned()]);
        let fingerprint = &identity.fingerprint;
        let user = NewUser { name, roles: &roles, uid, fingerprint, now: "2026-11-24T12:00:00Z" };
        self.registry.add(&user, &known_roles(), stored).unwrap();
        identity
    }
}

fn credentials(stream: &UnixStream) -> PeerCredentials {
    let peer = rustix::net::sockopt::socket_peercred(stream).unwrap();
    PeerCredentials { uid: peer.uid.as_raw(), gid: peer.gid.as_raw(), pid: Some(peer.pid.as_raw_nonzero().get()) }
}

/// The server's side: handshake, identify, greet.
fn serve(stream: UnixStream, house: &House, groups: &[u32]) -> Result<Principal, String> {
    let peer = credentials(&stream);
    let mut connection = ServerConnection::new(house.config()).unwrap();
    let mut stream = stream;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| format!("handshake: {error}"))?;
    }
    let certificate = connection.peer_certificates().unwrap()[0].to_vec();
    let principal = identify(&house.registry, groups, peer, &certificate).map_err(|error| error.to_string())?;
    let mut stream = StreamOwned::new(connection, stream);
    writeln!(stream, "hello {}", principal.name).and_then(|()| stream.flush()).map_err(|e| e.to_string())?;
    stream.conn.send_close_notify();
    stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    Ok(principal)
}

/// Both sides; what the client read, and whom the server saw.
fn meet(
    house: &House,
    client: Arc<rustls::ClientConfig>,
    groups: &[u32],
) -> (io::Result<String>, Result<Principal, String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(ours, house, groups));
        let connection = ClientConnection::new(client, server_name().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, theirs);
        let mut read = String::new();
        // Reading shakes hands as well; a word of its own could meet a server that has greeted and gone.
        let result = stream.read_to_string(&mut read);
        drop(stream);
        (result.map(|_| read), server.join().unwrap())
    })
}

fn client(identity: &Identity) -> Arc<rustls::ClientConfig> {
    let bundle = bundle(identity);
    client_config(&bundle, &bundle, &bundle).unwrap()
}

#[test]
fn a_registered_certificate_from_the_bound_uid_is_let_in() {
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", Some(own_uid()));
    let (read, seen) = meet(&house, client(&ada), &[]);
    assert_eq!(read.unwrap(), "hello ada\n");
    let seen = seen.unwrap();
    assert_eq!((seen.name.as_str(), seen.uid), ("ada", own_uid()));
    assert!(seen.roles.contains("administrator"));
}

#[test]
fn no_certificate_is_refused_in_the_handshake() {
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", None);
    let mut roots = rustls::RootCertStore::empty();
    let der =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(ada.ca.as_bytes());
    roots.add(der.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let without = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (read, seen) = meet(&house, Arc::new(without), &[]);
    assert!(read.is_err());
    assert!(seen.unwrap_err().starts_with("handshake:"));
}

#[test]
fn a_foreign_authority_is_refused_in_the_handshake() {
    let house = House::new();
    let mut foreign = House::new();
    let mallory = foreign.admit("ada", "administrator", None);
    // Mallory trusts our server, and shows a certificate that another authority signed.
    let config = client_config(house.authority.certificate(), &mallory.certificate, &mallory.key).unwrap();
    let (read, seen) = meet(&house, config, &[]);
    assert!(read.is_err());
    assert!(seen.unwrap_err().starts_with("handshake:"));
}

#[test]
fn a_client_refuses_a_server_of_another_authority() {
    let house = House::new();
    let mut other = House::new();
    let ada = other.admit("ada", "administrator", None);
    let (read, _) = meet(&house, client(&ada), &[]);
    assert!(read.unwrap_err().to_string().contains("certificate"));
}

#[test]
fn a_servers_certificate_is_no_clients() {
    let house = House::new();
    let config = client_config(house.authority.certificate(), &house.server.certificate, &house.server.key).unwrap();
    let (read, seen) = meet(&house, config, &[]);
    assert!(read.is_err() && seen.unwrap_err().starts_with("handshake:"));
}

#[test]
fn a_signed_certificate_that_is_not_registered_is_refused() {
    let mut house = House::new();
    house.admit("ada", "administrator", None);
    let stray = house.authority.issue_client("ada", NOW).unwrap();
    let (_, seen) = meet(&house, client(&stray), &[]);
    assert!(seen.unwrap_err().contains("not registered"));
}

#[test]
fn a_revoked_certificate_is_refused() {
    let mut house = House::new();
    house.admit("ada", "administrator", None);
    let uma = house.admit("uma", "user", None);
    assert!(meet(&house, client(&uma), &[]).1.is_ok());
    house.registry.revoke("uma", "2026-11-24T13:00:00Z", stored).unwrap();
    assert!(meet(&house, client(&uma), &[]).1.unwrap_err().contains("revoked"));
}

#[test]
fn another_uid_with_a_stolen_certificate_is_refused() {
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", Some(own_uid() + 1));
    assert!(meet(&house, client(&ada), &[]).1.unwrap_err().contains("bound to uid"));
}

#[test]
fn a_peer_outside_the_allowed_groups_is_refused() {
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", None);
    let own_gid = rustix::process::getgid().as_raw();
    assert!(meet(&house, client(&ada), &[own_gid]).1.is_ok());
    assert!(meet(&house, client(&ada), &[4_000_000_001]).1.unwrap_err().contains("none of the groups"));
}

#[test]
fn a_supplementary_group_counts_only_for_the_same_uid() {
    let groups = rustix::process::getgroups().unwrap();
    let Some(group) = groups.first().map(|group| group.as_raw()) else {
        eprintln!("skipped: this process has no supplementary group");
        return;
    };
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", None);
    let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
        ada.certificate.as_bytes(),
    );
    let der = der.unwrap();
    let peer = PeerCredentials { uid: own_uid(), gid: 4_000_000_001, pid: Some(std::process::id() as i32) };
    assert!(identify(&house.registry, &[group], peer, &der).is_ok());
    let reused_pid = PeerCredentials { uid: own_uid() + 1, ..peer };
    assert!(matches!(identify(&house.registry, &[group], reused_pid, &der), Err(Refusal::NotInGroup { .. })));
    let no_pid = PeerCredentials { pid: None, ..peer };
    assert!(identify(&house.registry, &[group], no_pid, &der).is_err());
}

#[test]
fn older_tls_is_refused() {
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", None);
    let mut config = (*client(&ada)).clone();
    assert!(config.alpn_protocols.contains(&b"http/1.1".to_vec()));
    config.alpn_protocols = vec![b"spdy/1".to_vec()];
    assert!(meet(&house, Arc::new(config), &[]).0.is_err(), "an unknown protocol is refused");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let (read, seen) = meet(&house, Arc::new(versions), &[]);
    assert!(read.is_err() && seen.unwrap_err().contains("handshake"));
}

#[test]
fn an_authority_read_back_signs_what_the_first_is_trusted_for() {
    let mut house = House::new();
    let certificate = house.authority.certificate().to_owned();
    house.authority = Authority::load(&certificate, &house.authority.key()).unwrap();
    let ada = house.admit("ada", "administrator", None);
    assert!(meet(&house, client(&ada), &[]).1.is_ok());
    let other = Authority::create(NOW).unwrap();
    assert!(matches!(Authority::load(&certificate, &other.key()), Err(CaError::Mismatch)));
    assert!(Authority::load("", "").is_err());
}

#[test]
fn a_clock_that_fell_back_still_makes_lasting_certificates() {
    let authority = Authority::create(0).unwrap();
    let ada = authority.issue_client("ada", 0).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(ada.certificate.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let validity = certificate.validity();
    assert!(validity.not_before.timestamp() < 200_000);
    assert!(validity.not_after.timestamp() > NOW);
    let subject = certificate.subject().to_string();
    assert!(subject.contains("CN=ada") && subject.contains("O=Cloister"), "{subject}");
}

#[test]
fn the_last_administrator_stays() {
    let mut house = House::new();
    house.admit("ada", "administrator", None);
    house.admit("uma", "user", None);
    let error = house.registry.revoke("ada", "now", stored).unwrap_err();
    assert!(matches!(error, UserError::LastAdministrator(_)));
    house.admit("bea", "administrator", None);
    assert_eq!(house.registry.revoke("ada", "now", stored).unwrap().len(), 1);
    assert!(matches!(house.registry.revoke("ada", "now", stored), Err(UserError::Unknown(_))));
    assert!(matches!(house.registry.revoke("bea", "now", stored), Err(UserError::LastAdministrator(_))));
    house.admit("ada", "user", None);
    assert_eq!(house.registry.list().iter().filter(|user| user.name == "ada").count(), 2);
}

#[test]
fn a_change_that_cannot_be_written_is_not_made() {
    let mut house = House::new();
    house.admit("ada", "administrator", None);
    house.admit("uma", "user", None);
    let before = house.registry.clone();
    let error = house.registry.revoke("uma", "now", |_| Err("no space left")).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the registry: no space left");
    assert_eq!(house.registry, before);
}

#[test]
fn the_file_reads_back_and_damage_is_named() {
    let mut house = House::new();
    let mut bytes = Vec::new();
    let roles = BTreeSet::from(["user".to_owned()]);
    let user = NewUser { name: "uma", roles: &roles, uid: Some(7), fingerprint: "f", now: "now" };
    let keep = |new: &[u8]| -> Result<(), String> {
        bytes = new.to_vec();
        Ok(())
    };
    house.registry.add(&user, &known_roles(), keep).unwrap();
    assert_eq!(Registry::parse(&bytes).unwrap(), house.registry);
    assert!(Registry::parse(&bytes[..bytes.len() / 2]).unwrap_err().to_string().contains("line"));
    let newer = String::from_utf8(bytes).unwrap().replace("\"version\": 1", "\"version\": 2");
    assert!(Registry::parse(newer.as_bytes()).unwrap_err().to_string().contains("version 2"));
}

#[test]
fn bad_names_and_roles_are_refused() {
    let mut registry = Registry::default();
    let mut add = |name: &str, role: Option<&str>| {
        let roles = role.map(str::to_owned).into_iter().collect();
        let user = NewUser { name, roles: &roles, uid: None, fingerprint: "f", now: "now" };
        registry.add(&user, &known_roles(), stored)
    };
    for name in ["", "Ada", "../ada", "-ada", "a da", "a\nda", &"a".repeat(65)] {
        assert!(matches!(add(name, Some("user")), Err(UserError::BadName(_))), "{name}");
    }
    assert!(matches!(add("ada", Some("stewrad")), Err(UserError::UnknownRole { .. })));
    assert!(matches!(add("ada", None), Err(UserError::NoRole(_))));
    add("ada", Some("user")).unwrap();
    assert!(matches!(add("ada", Some("user")), Err(UserError::Exists(_))));
}

/// Python's `ssl` (OpenSSL) is what the `openai` client uses.
#[test]
fn pythons_ssl_accepts_the_certificates() {
    const SCRIPT: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.verify_flags |= ssl.VERIFY_X509_STRICT
context.load_cert_chain(sys.argv[3])
raw = socket.socket(socket.AF_UNIX); raw.connect(sys.argv[1])
with context.wrap_socket(raw, server_hostname="localhost") as tls:
    assert tls.version() == "TLSv1.3"
    print(tls.makefile().readline(), end="")
"#;
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let mut house = House::new();
    let ada = house.admit("ada", "administrator", Some(own_uid()));
    let dir = tempfile::tempdir().unwrap();
    let [socket, authority, own] = ["s", "ca.pem", "ada.pem"].map(|name| dir.path().join(name));
    std::fs::write(&authority, &ada.ca).unwrap();
    std::fs::write(&own, bundle(&ada).as_bytes()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(listener.accept().unwrap().0, &house, &[]));
        let output = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .args([&socket, &authority, &own])
            .output()
            .unwrap();
        drop(UnixStream::connect(&socket)); // where Python never came, the server stops waiting
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello ada\n", "{error}");
        assert_eq!(server.join().unwrap().unwrap().name, "ada");
    });
}
