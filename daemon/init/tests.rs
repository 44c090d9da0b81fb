//! Init as a whole, and cut short at every write.

use super::*;
use cloister_vault::{Fault, Faulty};
use std::os::unix::fs::MetadataExt;
use tempfile::TempDir;

struct Site {
    dir: TempDir,
    settings: Settings,
    args: InitArgs,
}

impl Site {
    /// With a credential: a passphrase costs Argon2's time in each of many runs. In memory where that can
    /// be, for the same reason: each run syncs some thirty times.
    fn new() -> Self {
        let in_memory = tempfile::tempdir_in("/dev/shm");
        let dir = in_memory.or_else(|_| tempfile::tempdir()).unwrap();
        let settings = Settings { state_dir: dir.path().join("state"), allow_root: true, ..Default::default() };
        let args = InitArgs {
            admin: Some("ada".into()),
            identity_out: Some(dir.path().join("identity")),
            credential: Some(dir.path().join("keys/root.key")),
            ..Default::default()
        };
        Self { dir, settings, args }
    }

    fn init(&self, storage: Arc<dyn Storage>) -> Result<Initialised, InitError> {
        make(&Plan::new(&self.settings, &self.args, &Accounts::of_this_machine())?, storage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// All parts fit together: what the daemon and the CLI would load.
    fn check(&self) {
        let source = RootSource::credential_file(&self.path("keys/root.key")).unwrap();
        Vault::open(Arc::new(cloister_vault::Disk), self.path("state"), &source).unwrap();
        let (ca, server, key) =
            (self.read("state/tls/ca.pem"), self.read("state/tls/server.pem"), "state/tls/server.key");
        crate::access::server_config(&ca, &server, &self.read(key)).unwrap();
        Authority::load(&ca, &self.read("state/tls/ca.key")).unwrap();
        assert_eq!(ca, self.read("identity/ca.pem"));
        let (certificate, key) = (self.read("identity/certificate.pem"), self.read("identity/key.pem"));
        crate::access::client_config(&ca, &certificate, &key).unwrap();
        let registry = Registry::parse(self.read("state/access/users.json").as_bytes()).unwrap();
        let [user] = &registry.list()[..] else { panic!("one administrator") };
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
        assert_eq!((user.name.as_str(), user.uid), ("ada", Some(rustix::process::getuid().as_raw())));
        assert_eq!(user.fingerprint, crate::access::fingerprint(&pem.contents));
    }
}

#[test]
fn a_new_appliance_is_whole_and_private() {
    let site = Site::new();
    let done = site.init(Arc::new(cloister_vault::Disk)).unwrap();
    site.check();
    for secret in
        ["state/tls/ca.key", "state/tls/server.key", "identity/key.pem", "keys/root.key", "state/keyring.json"]
    {
        assert_eq!(std::fs::metadata(site.path(secret)).unwrap().mode() & 0o777, 0o600, "{secret}");
    }
    let steps = done.to_string();
    assert_eq!(steps.lines().filter(|line| line.starts_with(char::is_numeric)).count(), 5, "{steps}");
}

#[test]
fn an_appliance_is_never_initialised_again() {
    let site = Site::new();
    site.init(Arc::new(cloister_vault::Disk)).unwrap();
    let before = site.read("state/keyring.json");
    let error = site.init(Arc::new(cloister_vault::Disk)).unwrap_err();
    assert!(matches!(error, InitError::Initialised(_)), "{error}");
    assert_eq!(before, site.read("state/keyring.json"));
    site.check();
}

#[test]
fn an_init_cut_short_at_any_write_can_be_repeated() {
    for fault in [Fault::Kill, Fault::Crash, Fault::Error] {
        for at in 1.. {
            let site = Site::new();
            let cut = site.init(Arc::new(Faulty::at(at, fault)));
            match site.init(Arc::new(cloister_vault::Disk)) {
                Ok(_) => assert!(cut.is_err(), "{fault:?} at {at}"),
                // Cut after the keyring's rename: it is an appliance, and whole.
                Err(InitError::Initialised(_)) => {}
                Err(error) => panic!("{fault:?} at {at}: {error}"),
            }
            site.check();
            if cut.is_ok() {
                assert!(at > 20, "the fault was never met");
                break;
            }
        }
    }
}

#[test]
fn somebody_elses_identity_is_left_alone() {
    let site = Site::new();
    std::fs::create_dir(site.path("identity")).unwrap();
    std::fs::write(site.path("identity/ca.pem"), "another appliance's").unwrap();
    let error = site.init(Arc::new(cloister_vault::Disk)).unwrap_err();
    assert!(matches!(error, InitError::IdentityInUse(_)), "{error}");
    assert_eq!(site.read("identity/ca.pem"), "another appliance's");
}

#[test]
fn the_key_must_not_lie_beside_the_data() {
    let mut site = Site::new();
    site.args.credential = Some(site.path("state/root.key"));
    assert!(matches!(site.init(Arc::new(cloister_vault::Disk)), Err(InitError::CredentialInside(_))));
}

#[test]
fn a_passphrase_file_gives_its_first_line() {
    let mut site = Site::new();
    std::fs::write(site.path("passphrase"), "correct horse battery\nstaple\n").unwrap();
    site.args.passphrase_file = Some(site.path("passphrase"));
    site.args.credential = None;
    site.init(Arc::new(cloister_vault::Disk)).unwrap();
    let source = RootSource::passphrase("correct horse battery");
    Vault::open(Arc::new(cloister_vault::Disk), site.path("state"), &source).unwrap();
}

#[test]
fn a_name_that_is_none_is_refused_before_anything_is_made() {
    let mut site = Site::new();
    site.args.admin = Some("../ada".into());
    assert!(matches!(site.init(Arc::new(cloister_vault::Disk)), Err(InitError::AdminName { .. })));
    assert!(!site.path("state").exists());
}
