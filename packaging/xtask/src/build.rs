//! Building, always with the same environment and flags: what differs is built again, and torch-sys and wasmtime
//! take many minutes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::plugins::{self, BuiltPlugin};
use crate::{libtorch, tools};

/// Cargo with libtorch at hand, in the checkout.
pub(crate) fn cargo(libtorch: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` told us about the package xtask in variables that build scripts watch (ring's does): left in
    // place they would rebuild half the tree whenever a person calls cargo directly in between.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) || matches!(&*text, "OUT_DIR" | "CARGO") {
            command.env_remove(&name);
        }
    }
    // A relative target folder was meant from where the person stands, and cargo runs in the checkout.
    command.current_dir(tools::root()).env("CARGO_TARGET_DIR", tools::target());
    with_libtorch(&mut command, libtorch);
    command
}

/// Lets a program find libtorch when it is built and when it runs.
pub(crate) fn with_libtorch(command: &mut Command, libtorch: &Path) {
    let mut path = libtorch.join("lib").into_os_string();
    if let Some(callers) = std::env::var_os("LD_LIBRARY_PATH").filter(|value| !value.is_empty()) {
        path.push(":");
        path.push(callers);
    }
    command.env("LIBTORCH", libtorch).env("LD_LIBRARY_PATH", path);
}

/// Builds every binary once; gives their folder.
pub(crate) fn all() -> Result<PathBuf> {
    // torch-sys and the shim are C++.
    tools::require(&["g++"], || tools::succeeds(Command::new("c++").arg("--version")))?;
    let libtorch = libtorch::ensure()?;
    tools::run(cargo(&libtorch).args(["build", "--workspace"]))?;
    Ok(tools::target().join("debug"))
}

/// Builds every plugin.
pub(crate) fn plugins() -> Result<Vec<BuiltPlugin>> {
    plugins::build(&tools::root())
}

/// The task: says where each plugin lies.
pub(crate) fn print_plugins() -> Result<()> {
    for plugin in plugins()? {
        println!("{}", plugin.component.display());
    }
    Ok(())
}
