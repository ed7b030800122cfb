//! Clocks that several processes of one machine share, and what the system counted of this one.

use std::time::Duration;

use anyhow::Context;
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// CLOCK_MONOTONIC: comparable between processes, unlike an `Instant`.
pub(crate) fn now() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time that this process has used.
pub(crate) fn process_cpu() -> Duration {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time that another process has used; `None` when it is gone.
pub(crate) fn cpu_of(process: u32) -> Option<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(process).ok()?)).ok()?;
    clock.now().ok().map(Duration::from)
}

/// CPU time that this thread has used.
pub(crate) fn thread_cpu() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    Duration::from(clock_gettime(clock).expect("Linux has this clock"))
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> anyhow::Result<u64> {
    resident_of(std::process::id())
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_of(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("there is no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
