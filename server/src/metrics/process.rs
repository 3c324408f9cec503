//! What this process takes of its machine, from `/proc/self`.

use std::fs;

use serde::Serialize;

/// Clock ticks a second in `/proc/self/stat`: the kernel's `USER_HZ`, the same on every Linux that this runs on.
const TICKS: f64 = 100.0;

/// A snapshot. What cannot be found out is missing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct ProcessStats {
    /// Memory in use.
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) open_files_max: Option<u64>,
    /// Of all its threads, in user and system mode.
    pub(crate) cpu_seconds: Option<f64>,
}

impl ProcessStats {
    /// Looks now. Reads three small files and a directory that the kernel makes up.
    pub(crate) fn look() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        Self {
            resident_bytes: read("status").as_deref().and_then(resident_bytes),
            // One is the directory that is being read.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64 - 1),
            open_files_max: read("limits").as_deref().and_then(open_files_max),
            cpu_seconds: read("stat").as_deref().and_then(cpu_seconds),
        }
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "exact for 285 million years")]
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2048 * 1024));
        assert_eq!(resident_bytes("VmRSS:\tx kB\n"), None);
        let limits = "Limit  Soft Limit\nMax open files            1024                 4096   files\n";
        assert_eq!(open_files_max(limits), Some(1024));
        let stat = "1 (a ) b) S 0 1 1 0 -1 4 5 6 7 8 150 50 9 9 20 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        let own = ProcessStats::look();
        assert!(own.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{own:?}");
        assert!(own.open_files.is_some_and(|count| count >= 3), "{own:?}");
        assert!(own.open_files_max.is_some() && own.cpu_seconds.is_some(), "{own:?}");
    }
}
