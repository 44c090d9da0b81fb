//! How much memory the process has used at most. `/proc/self/status` is opened before the worker locks
//! itself in, and read again whenever the figure is wanted: afterwards no file can be opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Peak resident memory of this process.
#[derive(Debug)]
pub struct PeakRss {
    status: File,
}

impl PeakRss {
    /// To be called before the process gives up opening files.
    pub fn open() -> io::Result<Self> {
        Ok(PeakRss { status: File::open("/proc/self/status")? })
    }

    /// In bytes; 0 when the kernel does not say.
    pub fn bytes(&self) -> u64 {
        let mut text = [0; 8192];
        let read = self.status.read_at(&mut text, 0).unwrap_or(0);
        parse(&String::from_utf8_lossy(&text[..read])).unwrap_or(0)
    }
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_touched() {
        let peak = PeakRss::open().unwrap();
        let before = peak.bytes();
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(before > 0 && peak.bytes() >= before.max(touched.len() as u64));
    }
}
