//! libtorch 2.13.0, the version that `tch` 0.26 names: `$LIBTORCH`, the cache, or fetched into the cache.
//!
//! It comes out of PyTorch's wheel, whose `lib` and `include` are a libtorch. `libtorch_cpu.so` also wants CUDA's
//! runtime and CUPTI, small wheels of their own. A fetched folder appears whole or not at all: it is unpacked
//! beside its final place, under a lock, and renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tools;

/// What `tch` 0.26 is written against.
pub(crate) const VERSION: &str = "2.13.0";

/// The libraries that computing on a CPU needs, of the many in the wheel.
const CPU_LIBRARIES: [&str; 5] = ["libtorch.so", "libtorch_cpu.so", "libtorch_global_deps.so", "libc10.so", "libgomp*"];
/// What these need of CUDA even so.
const CPU_CUDA_LIBRARIES: [&str; 2] = ["libcudart.so*", "libcupti.so*"];

/// libtorch's folder, fetched if need be.
pub(crate) fn ensure() -> Result<PathBuf> {
    find_or_fetch(false)
}

/// The task: says where libtorch is, on stdout, and how to use it by hand.
pub(crate) fn print(cuda: bool) -> Result<()> {
    let folder = find_or_fetch(cuda)?;
    println!("{}", folder.display());
    eprintln!("  by hand: export LIBTORCH={0} LD_LIBRARY_PATH={0}/lib", folder.display());
    Ok(())
}

fn find_or_fetch(cuda: bool) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("LIBTORCH").filter(|value| !value.is_empty()).map(PathBuf::from) {
        check_given(&folder, cuda)?;
        return Ok(folder);
    }
    let cache = tools::cache()?;
    let folder = cache.join(format!("libtorch-{VERSION}{}", if cuda { "-cuda" } else { "" }));
    if is_whole(&folder) {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create the cache folder `{}`", cache.display()))?;
    let lock = File::create(cache.join("libtorch.lock")).context("cannot lock the cache folder")?;
    lock.lock().context("cannot lock the cache folder")?;
    // Another xtask may have fetched it while this one waited.
    if !is_whole(&folder) {
        fetch(&folder, cuda)?;
    }
    Ok(folder)
}

fn check_given(folder: &Path, cuda: bool) -> Result<()> {
    let file = folder.join("build-version");
    let found = fs::read_to_string(&file).with_context(|| {
        format!("`LIBTORCH` is `{}`, which is no libtorch: `{}` cannot be read", folder.display(), file.display())
    })?;
    // A build may carry a local part: 2.13.0+cpu, 2.13.0+cu130.
    if found.trim().split('+').next() != Some(VERSION) {
        bail!("`LIBTORCH` is libtorch {}, and {VERSION} is needed: unset it to have that fetched", found.trim());
    }
    if cuda && !folder.join("lib/libtorch_cuda.so").exists() {
        bail!("`LIBTORCH` is `{}`, which has no CUDA: unset it to have one with CUDA fetched", folder.display());
    }
    Ok(())
}

/// Only a finished folder is ever renamed into place; the version guards against one that was made by hand.
fn is_whole(folder: &Path) -> bool {
    fs::read_to_string(folder.join("build-version")).is_ok_and(|version| version.trim() == VERSION)
}

fn fetch(folder: &Path, cuda: bool) -> Result<()> {
    tools::require(&["python3-pip"], || tools::succeeds(Command::new("python3").args(["-m", "pip", "--version"])))?;
    let part = folder.with_extension("part");
    // What a killed run left behind; nobody else works there, since the lock is ours.
    remove(&part)?;
    let wheels = part.join("wheels");
    fs::create_dir_all(&wheels).with_context(|| format!("cannot create `{}`", wheels.display()))?;
    let made = download(&wheels, cuda).and_then(|()| unpack(&wheels, &part, cuda)).and_then(|()| finish(&part, folder));
    if made.is_err() {
        remove(&part)?;
    }
    made
}

fn download(wheels: &Path, cuda: bool) -> Result<()> {
    let size = if cuda { "about 3 GB" } else { "540 MB" };
    eprintln!("▸ fetching libtorch {VERSION} from PyPI ({size}, once)");
    let torch = format!("torch=={VERSION}");
    // With CUDA, the wheel's own dependencies name the right cuBLAS, cuDNN, NCCL …
    let dependencies = if cuda { None } else { Some("--no-deps") };
    let fixed = if cuda { &[][..] } else { &["nvidia-cuda-runtime>=13,<13.1", "nvidia-cuda-cupti>=13,<13.1"] };
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
    pip.args(["--only-binary=:all:", "--dest"]).arg(wheels).args(dependencies).arg(torch).args(fixed);
    // stdout is the task's answer alone.
    tools::run(pip.stdout(Stdio::null())).context("libtorch cannot be fetched; without a network, set `LIBTORCH`")
}

fn unpack(wheels: &Path, part: &Path, cuda: bool) -> Result<()> {
    eprintln!("▸ unpacking");
    for entry in fs::read_dir(wheels)? {
        let wheel = entry?.path();
        let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rules = match name.split('-').next().unwrap_or_default() {
            "torch" => torch_rules(cuda),
            library if library.starts_with("nvidia_") => cuda_rules(cuda),
            _ => continue,
        };
        let unpack = ["-c", include_str!("unpack.py")];
        let status = Command::new("python3").args(unpack).arg(&wheel).arg(part).args(rules).status()?;
        if !status.success() {
            bail!("`{name}` cannot be unpacked into `{}` ({status})", part.display());
        }
    }
    Ok(())
}

/// Pattern in the wheel = folder in libtorch.
fn torch_rules(cuda: bool) -> Vec<String> {
    let libraries: &[&str] = if cuda { &["*.so*"] } else { &CPU_LIBRARIES };
    let libraries = libraries.iter().map(|name| format!("torch/lib/{name}=lib/"));
    libraries.chain(["include", "share"].map(|folder| format!("torch/{folder}/*={folder}"))).collect()
}

fn cuda_rules(cuda: bool) -> Vec<String> {
    let libraries: &[&str] = if cuda { &["*.so*"] } else { &CPU_CUDA_LIBRARIES };
    libraries.iter().map(|name| format!("nvidia/*/lib/{name}=lib/")).collect()
}

fn finish(part: &Path, folder: &Path) -> Result<()> {
    for needed in ["lib/libtorch_cpu.so", "lib/libc10.so", "include/torch/csrc/api/include/torch/torch.h"] {
        if !part.join(needed).exists() {
            bail!("PyTorch's wheel held no `{needed}`: its layout has changed");
        }
    }
    remove(&part.join("wheels"))?;
    fs::write(part.join("build-version"), format!("{VERSION}\n"))?;
    remove(folder)?;
    fs::rename(part, folder).with_context(|| format!("cannot move libtorch to `{}`", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}
