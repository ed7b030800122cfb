//! A wall clock that a test moves under one process, as if somebody set the clock of its machine. The machine's own is left alone.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, process::Command};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::temp_dir;

const SHIM: &str = include_str!("clock/shim.c");

/// A clock that is right until it is set.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    _home: TempDir,
}

impl Clock {
    /// Compiles what a process needs to follow it.
    ///
    /// # Panics
    ///
    /// When the C compiler that Rust's linker needs does not work.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it runs a compiler")]
    pub fn new() -> Self {
        let home = temp_dir();
        let [source, library, path] = ["shim.c", "shim.so", "ahead"].map(|name| home.path().join(name));
        std::fs::write(&source, SHIM).expect("a fresh folder can be written");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let compiled = compiled.expect("cc runs");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let file = File::create(&path).expect("a fresh folder can be written");
        let clock = Self { library, path, file, _home: home };
        clock.set_ahead(0);
        clock
    }

    /// From now on it is so many seconds ahead of the real time; behind it, if negative.
    ///
    /// # Panics
    ///
    /// When the file is gone.
    pub fn set_ahead(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("the file is there");
    }

    /// The environment of a process that follows it.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library.clone()), ("TEST_CLOCK_AHEAD", self.path.clone())]
    }
}

/// How far a time is ahead of the real one, in seconds.
#[must_use]
pub fn ahead(time: Timestamp) -> i64 {
    let span: SignedDuration = time.duration_since(Timestamp::now());
    span.as_secs()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use jiff::Timestamp;

    use super::{Clock, ahead};

    #[test]
    fn a_process_follows_it_and_this_one_does_not() {
        let clock = Clock::new();
        let read = || {
            let date = Command::new("date").arg("+%s").envs(clock.environment()).output().unwrap();
            let seconds: i64 = String::from_utf8(date.stdout).unwrap().trim().parse().unwrap();
            ahead(Timestamp::from_second(seconds).unwrap())
        };
        for seconds in [0, 3600, -3600] {
            clock.set_ahead(seconds);
            assert!((read() - seconds).abs() <= 2, "{} instead of {seconds}", read());
        }
    }
}
