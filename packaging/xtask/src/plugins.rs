//! `cargo xtask plugins`: builds every guest for WebAssembly and makes components of them.
//!
//! Out come `TARGET/plugins/NAME.wasm` and `NAME.toml`, a manifest with name, version, world and SHA-256. The site's
//! daemon signs a manifest when a plugin is installed; nothing is signed here, because no key belongs on a build
//! machine. A guest that imports anything at all is refused.
//!
//! Two toolchains can build a guest: the one that runs this, where it has the `wasm32-unknown-unknown` library, or
//! Debian's `rustc-web`, which builds the library from `rust-web-src`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

/// Every guest: package, world, and whether it ships. What does not ship is for the sandbox's tests.
const GUESTS: [Guest; 3] = [
    Guest { name: "redact", world: "cleaner", ships: true },
    Guest { name: "quality", world: "scorer", ships: true },
    Guest { name: "hostile", world: "cleaner", ships: false },
];
const TARGET: &str = "wasm32-unknown-unknown";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

struct Guest {
    name: &'static str,
    world: &'static str,
    ships: bool,
}

/// A component on disk.
#[derive(Debug, Clone)]
pub struct BuiltPlugin {
    /// The package, the file's stem and the manifest's name.
    pub name: String,
    /// `NAME.wasm`.
    pub component: PathBuf,
    /// `NAME.toml`.
    pub manifest: PathBuf,
    /// Whether it belongs into a package; test guests do not.
    pub ships: bool,
}

/// Builds every guest of the workspace at `root`; what is up to date is left alone.
pub fn build(root: &Path) -> Result<Vec<BuiltPlugin>> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = root.join(target); // an absolute path stays as it is
    let guests = target.join("plugins-build");
    Toolchain::find()?.build(root, &guests)?;
    let out = target.join("plugins");
    fs::create_dir_all(&out).with_context(|| format!("`{}` cannot be made", out.display()))?;
    let version = workspace_version(root)?;
    let modules = guests.join(TARGET).join("release");
    GUESTS.iter().map(|guest| componentise(guest, &version, &modules, &out)).collect()
}

enum Toolchain {
    /// The one that runs us: its sysroot has the target.
    Ours,
    /// Debian's, with the library built from source.
    Debian,
}

impl Toolchain {
    fn find() -> Result<Self> {
        if has_target("rustc")? {
            return Ok(Self::Ours);
        }
        if !debian_is_installed() {
            install_debian()?;
        }
        Ok(Self::Debian)
    }

    fn build(&self, root: &Path, target: &Path) -> Result<()> {
        let mut cargo = match self {
            Self::Ours => Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
            Self::Debian => Command::new(DEBIAN_CARGO),
        };
        cargo.current_dir(root).env("CARGO_TARGET_DIR", target);
        // Cargo sets these for the xtask process; they describe the host's toolchain, not the guests'.
        for inherited in
            ["RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER"]
        {
            cargo.env_remove(inherited);
        }
        cargo.args(["build", "--quiet", "--release", "--lib", "--target", TARGET]);
        for guest in &GUESTS {
            cargo.args(["--package", guest.name]);
        }
        if matches!(self, Self::Debian) {
            cargo
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1") // `-Zbuild-std` is unstable in name only: Debian ships the matching source
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "rust-lld")
                .arg("-Zbuild-std=std,panic_abort");
        }
        let status = cargo.status().context("cargo could not be started for the plugins")?;
        ensure!(status.success(), "the plugins did not build; the compiler's message is above");
        Ok(())
    }
}

/// Whether `rustc`'s sysroot has a standard library for the target.
fn has_target(rustc: &str) -> Result<bool> {
    let answer = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .with_context(|| format!("`{rustc}` could not be started"))?;
    let folder = String::from_utf8_lossy(&answer.stdout);
    Ok(fs::read_dir(folder.trim()).is_ok_and(|mut entries| entries.next().is_some()))
}

fn debian_is_installed() -> bool {
    let source = Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]).output().is_ok_and(|answer| {
        let sysroot = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/std/Cargo.toml").exists()
    });
    source && Path::new(DEBIAN_CARGO).exists() && Command::new("rust-lld").arg("--version").output().is_ok()
}

fn install_debian() -> Result<()> {
    let packages = DEBIAN_PACKAGES.join(" ");
    let remedy = format!(
        "plugins need a WebAssembly standard library: `rustup target add {TARGET}`, \
         or on Debian 12 as root `apt-get install {packages}`"
    );
    ensure!(is_root() && Path::new("/usr/bin/apt-get").exists(), "{remedy}");
    eprintln!("plugins: no {TARGET} library here; running `apt-get install -y {packages}`");
    let status = Command::new("/usr/bin/apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .args(DEBIAN_PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status();
    ensure!(status.is_ok_and(|status| status.success()) && debian_is_installed(), "apt-get failed; {remedy}");
    Ok(())
}

/// Root owns what root runs: the owner of our own `/proc` entry is our effective user.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn componentise(guest: &Guest, version: &str, modules: &Path, out: &Path) -> Result<BuiltPlugin> {
    let module = modules.join(format!("{}.wasm", guest.name));
    let plugin = BuiltPlugin {
        name: guest.name.into(),
        component: out.join(format!("{}.wasm", guest.name)),
        manifest: out.join(format!("{}.toml", guest.name)),
        ships: guest.ships,
    };
    if modified(&plugin.manifest) >= modified(&module) && plugin.component.exists() {
        return Ok(plugin);
    }
    let bytes = fs::read(&module).with_context(|| format!("`{}` cannot be read", module.display()))?;
    let component = encode(&bytes).with_context(|| format!("plugin `{}` makes no component", guest.name))?;
    write(&plugin.component, &component)?;
    let digest = sha256(&plugin.component)?;
    let Guest { name, world, .. } = guest;
    let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\nworld = \"{world}\"\nsha256 = \"{digest}\"\n");
    // Last, because its time says that the component is complete.
    write(&plugin.manifest, manifest.as_bytes())?;
    Ok(plugin)
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    // The encoder refuses a module that imports what no adapter gives, and no adapter is given.
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// Written beside and renamed, so that no reader ever sees half a component.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes).with_context(|| format!("`{}` cannot be written", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("`{}` cannot be renamed", partial.display()))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// By coreutils, which every Debian has: no hashing crate for one line of xtask.
fn sha256(path: &Path) -> Result<String> {
    let answer = Command::new("sha256sum").arg(path).output().context("`sha256sum` could not be started")?;
    let text = String::from_utf8_lossy(&answer.stdout);
    match text.split(' ').next() {
        Some(digest) if digest.len() == 64 => Ok(digest.to_owned()),
        _ => bail!("`sha256sum {}` gave no digest", path.display()),
    }
}

/// Guests share the workspace's version.
fn workspace_version(root: &Path) -> Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("the workspace's Cargo.toml cannot be read")?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.context("the workspace's Cargo.toml has no version")?.to_owned())
}
