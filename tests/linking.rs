//! The daemon, which holds the keys, and the CLI link neither libtorch nor wasmtime: read from the binaries' own
//! dynamic sections, and from the dependency tree.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::path::Path;
use std::process::Command;

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _};
use object::{Endianness, StringTable};

const CLI: &str = env!("CARGO_BIN_EXE_cloister");
const DAEMON: &str = env!("CARGO_BIN_EXE_cloisterd");

#[test]
fn daemon_and_cli_need_only_the_system_libraries() {
    const SYSTEM: [&str; 6] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-", "libdl.so.2", "libpthread.so.0"];
    for binary in [DAEMON, CLI] {
        let needed = needed_libraries(Path::new(binary));
        assert!(needed.iter().any(|library| library == "libc.so.6"), "{binary} has no dynamic section to speak of");
        for library in &needed {
            assert!(SYSTEM.iter().any(|known| library.starts_with(known)), "{binary} needs `{library}`");
        }
    }
}

#[test]
fn the_engine_links_libtorch_and_this_test_can_see_it() {
    let needed = needed_libraries(&kit::binaries().join("cloister-engine"));
    assert!(needed.iter().any(|library| library.starts_with("libtorch_cpu")), "{needed:?}");
}

#[test]
fn the_dependency_tree_keeps_tensors_and_plugins_out_of_the_daemon() {
    let tree = dependencies("cloister");
    for foreign in ["tch", "torch-sys", "wasmtime", "cranelift-codegen", "tokenizers", "reqwest"] {
        assert!(!tree.contains(&foreign.to_string()), "`cloister` depends on `{foreign}`");
    }
    assert!(tree.contains(&"rustls".to_string()), "the tree was not read: {tree:?}");
    assert!(dependencies("cloister-engine").contains(&"tch".to_string()));
    assert!(!dependencies("cloister-engine").contains(&"wasmtime".to_string()));
    assert!(dependencies("cloister-sandbox").contains(&"wasmtime".to_string()));
    assert!(!dependencies("cloister-sandbox").contains(&"tch".to_string()));
}

/// Names of the packages that a package is built from, build scripts' aside.
fn dependencies(package: &str) -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments =
        ["tree", "--offline", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let output = Command::new(cargo).current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap();
    let text = kit::appliance::text(&output.stdout);
    assert!(output.status.success(), "{}", kit::appliance::text(&output.stderr));
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect()
}

/// The dynamic section's `DT_NEEDED` entries.
fn needed_libraries(binary: &Path) -> Vec<String> {
    let data = std::fs::read(binary).unwrap();
    let data = data.as_slice();
    let elf = FileHeader64::<Endianness>::parse(data).unwrap();
    let endian = elf.endian().unwrap();
    let sections = elf.sections(endian, data).unwrap();
    let (entries, strings) = sections.dynamic(endian, data).unwrap().expect("no dynamic section");
    let strings: StringTable<'_> = sections.strings(endian, data, strings).unwrap();
    let needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    let name = |offset: u32| String::from_utf8_lossy(strings.get(offset).unwrap()).into_owned();
    needed.map(|entry| name(entry.val32(endian).unwrap())).collect()
}
