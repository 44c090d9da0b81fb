//! Compiles the C++ of `shim/` against libtorch and writes where libtorch is found at run time: beside the
//! installed binary, else where it was at build time.

use std::path::PathBuf;

const SOURCES: [&str; 2] = ["shim/linear.cpp", "shim/state.cpp"];
const HEADERS: [&str; 2] = ["shim/shim.h", "shim/guard.h"];

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    for file in SOURCES.iter().chain(&HEADERS) {
        println!("cargo:rerun-if-changed={file}");
    }
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        eprintln!("set LIBTORCH to a libtorch 2.13.0 folder; `cargo xtask libtorch` fetches one and says where");
        std::process::exit(1);
    };
    let include = libtorch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        // As system folders: libtorch's own headers are not ours to warn about.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .opt_level(2)
        .files(SOURCES)
        .compile("cloister_shim");
    let lib = libtorch.join("lib");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/cloister");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
