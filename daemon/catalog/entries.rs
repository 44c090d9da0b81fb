//! Which types of `cloister_wire::admin` are entries, under which folder, by which name.

use super::{Entry, decode};
use cloister_wire::admin;

macro_rules! entries {
    ($($entry:ty => $kind:literal, $id:ident;)*) => {
        /// Every kind; what lies elsewhere under `catalog/` is not ours.
        pub(super) const KINDS: [&str; [$($kind),*].len()] = [$($kind),*];

        /// Whether an entry's JSON is of its kind's form and holds its id.
        pub(super) fn check(kind: &str, json: &[u8], id: &str) -> Result<(), String> {
            match kind {
                $($kind => decode::<$entry>(json, id).map(drop),)*
                _ => Err("its kind is not known here".to_owned()),
            }
        }

        $(impl Entry for $entry {
            const KIND: &'static str = $kind;

            fn id(&self) -> &str {
                &self.$id
            }
        })*
    };
}

entries! {
    admin::Model => "models", name;
    admin::Dataset => "datasets", name;
    admin::Plugin => "plugins", name;
    admin::Job => "jobs", id;
    admin::Adapter => "adapters", name;
    admin::Deployment => "deployments", adapter;
}
