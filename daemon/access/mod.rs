//! Who is asking: a certificate from the local authority *and* the socket's peer credentials make
//! a [`Principal`]; either alone does not.
//!
//! | file | what |
//! |---|---|
//! | `ca` | the local certificate authority: makes every certificate that the door accepts |
//! | `tls` | the two sides' TLS configuration: 1.3 only, client certificate required |
//! | `users` | the registry: which certificate is whose, with which roles, and which are revoked |
//! | `principal` | certificate + peer credentials → principal, or why not |
//! | `approvals` | dual control: who counts as an approver |
//!
//! What always holds: a certificate that the registry does not list opens nothing, even if the
//! authority signed it; revoking takes effect at the next connection, because no TLS session is
//! ever resumed. What a principal may do is decided elsewhere (`policy`).

mod approvals;
mod ca;
mod principal;
#[cfg(test)]
mod tests;
mod tls;
mod users;

pub use approvals::distinct_approvers;
pub use ca::{Authority, CaError, ServerIdentity, bundle, fingerprint};
pub use principal::{PeerCredentials, Principal, Refusal, identify};
pub use tls::{SERVER_NAME, TlsError, client_config, server_config, server_name};
pub use users::{ADMINISTRATOR, Entry, NewUser, Registry, UserError};
