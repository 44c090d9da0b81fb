//! What is behind the door: the appliance, while the vault is open, and what there is of it while it is sealed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use cloister_vault::RootSource;

use crate::access::{Authority, Registry};
use crate::error::{Error, Result};
use crate::pipeline::Appliance;
use crate::pipeline::serve::Serving;
use crate::supervisor::Supervisor;

/// All that exists only while the vault is open.
#[derive(Debug)]
pub struct Opened {
    /// What the verbs work with.
    pub appliance: Arc<Appliance>,
    /// The jobs.
    pub supervisor: Supervisor,
    /// The engines that answer.
    pub serving: Arc<Serving>,
}

type Opener = Box<dyn Fn(RootSource) -> Result<Opened> + Send + Sync>;
type RegistryWriter = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

/// The daemon, seen from its API.
pub struct House {
    opened: RwLock<Option<Arc<Opened>>>,
    opener: Opener,
    /// Who may come in.
    pub users: Arc<RwLock<Registry>>,
    /// Stores the registry.
    pub write_users: RegistryWriter,
    /// Issues certificates.
    pub authority: Authority,
    /// When the daemon started.
    pub started: Instant,
    /// Largest JSON body.
    pub max_request_bytes: u64,
    /// Largest uploaded file.
    pub max_upload_bytes: u64,
    /// Policy cases, for `cloister policy test`.
    pub policy_cases: std::path::PathBuf,
}

/// What a [`House`] is made of.
pub struct HouseParts {
    /// Opens the vault and everything that needs it.
    pub opener: Opener,
    /// Who may come in.
    pub users: Arc<RwLock<Registry>>,
    /// Stores the registry.
    pub write_users: RegistryWriter,
    /// Issues certificates.
    pub authority: Authority,
    /// Largest JSON body.
    pub max_request_bytes: u64,
    /// Largest uploaded file.
    pub max_upload_bytes: u64,
    /// The folder of policy cases.
    pub policy_cases: std::path::PathBuf,
}

impl House {
    /// Sealed, at first.
    pub fn new(parts: HouseParts) -> Self {
        Self {
            opened: RwLock::new(None),
            opener: parts.opener,
            users: parts.users,
            write_users: parts.write_users,
            authority: parts.authority,
            started: Instant::now(),
            max_request_bytes: parts.max_request_bytes,
            max_upload_bytes: parts.max_upload_bytes,
            policy_cases: parts.policy_cases,
        }
    }

    /// Everything, if the vault is open.
    ///
    /// # Errors
    /// `Unavailable` while it is sealed.
    pub fn opened(&self) -> Result<Arc<Opened>> {
        self.peek()
            .ok_or_else(|| Error::unavailable("the vault is sealed").remedy("an administrator runs `cloister unseal`"))
    }

    /// Everything, or nothing while the vault is sealed.
    pub fn peek(&self) -> Option<Arc<Opened>> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the vault; twice is once.
    pub fn unseal(&self, source: RootSource) -> Result<Arc<Opened>> {
        let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*slot {
            return Ok(opened.clone());
        }
        let opened = Arc::new((self.opener)(source)?);
        *slot = Some(opened.clone());
        Ok(opened)
    }
}
