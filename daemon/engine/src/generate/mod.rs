//! From a prompt to an answer: `sampler` (which token comes next), `stop` (where an answer ends), `scheduler`
//! (many requests at once, joining and leaving between steps), `serve` (the scheduler behind the daemon's
//! messages).
//!
//! INVARIANT: what an answer draws depends on its own seed and position alone, never on its neighbours.

mod sampler;
pub mod scheduler;
pub mod serve;
mod stop;

pub use sampler::Sampler;
pub use scheduler::{Event, Refusal, Request, Scheduler};
