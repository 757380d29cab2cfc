//! What a process uses, from `/proc`.

use std::{fs, time::Duration};

/// The kernel's unit of CPU time in `/proc`, which is a hundredth of a second on every architecture that we build for.
const TICK: Duration = Duration::from_millis(10);

/// What a process uses now, and has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Memory in use now, in kB.
    pub rss_kb: u64,
    /// The most memory that was ever in use, in kB.
    pub peak_rss_kb: u64,
    /// CPU time, user and system, in steps of 10 ms.
    pub cpu_time: Duration,
    /// Bytes that went to a disk.
    pub written_bytes: u64,
}

impl Usage {
    pub(super) fn of(process: u32) -> Self {
        let read = |file: &str| {
            let path = format!("/proc/{process}/{file}");
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let status = read("status");
        Self {
            rss_kb: number(&status, "VmRSS:"),
            peak_rss_kb: number(&status, "VmHWM:"),
            cpu_time: cpu_time(&read("stat")),
            written_bytes: number(&read("io"), "write_bytes:"),
        }
    }
}

/// A line of `/proc/PID/status` or `/proc/PID/io`; a process that has ended and not been waited for has no memory, and no
/// such line.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().expect("the kernel writes a number"))
}

/// The 14th and 15th field of `/proc/PID/stat`; the second is a name that may have blanks and ends with a parenthesis.
fn cpu_time(stat: &str) -> Duration {
    let after_name = stat.rsplit_once(") ").expect("the kernel writes a name").1;
    let fields = after_name.split(' ').skip(11).take(2);
    fields.map(|field| TICK * field.parse::<u32>().expect("the kernel writes a number")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_time() {
        let stat = "7 (a ) name) S 1 7 7 0 -1 4194560 100 0 0 0 120 34 0 0 20 0 1 0 100 1000 10 18446744073709551615";
        assert_eq!(cpu_time(stat), Duration::from_millis(1540));
    }
}
