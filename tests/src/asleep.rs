//! A machine that sleeps, as far as one process can tell.
//!
//! While a machine sleeps its processes stand still, and so does their steady clock; the wall clock goes on. A
//! test can stop a process (SIGSTOP), but both clocks go on, and a steady clock cannot be held. So the difference
//! is made at the other end: the process is started with a wall clock that is behind, and when it wakes the clock is
//! right. It is the program as it is released: a small library that is loaded before it (`LD_PRELOAD`) takes the
//! place of the system's `clock_gettime`. The compiler for it is the one that links Rust programs.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// How long a sleep takes, by the wall clock. Much longer than what a node takes for a sleep, and short enough that
/// nothing which is said before and after is out of its time.
pub const SLEEP: Duration = Duration::from_mins(5);

/// Names the file that says by how many seconds the wall clock is behind. Without it the clock is right, and the test
/// that wanted another one fails.
const FILE: &str = "WALL_CLOCK_BEHIND";

/// The library. Whatever asks for another clock gets the system's answer.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static time_t behind(void) {
    char text[32] = "";
    const char *path = getenv("WALL_CLOCK_BEHIND");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && clock == CLOCK_REALTIME) now->tv_sec -= behind();
    return status;
}
"#;

/// The wall clock of one process, which is behind by a [`SLEEP`] until it is set right.
#[derive(Debug)]
pub struct WallClock {
    dir: TempDir,
}

impl WallClock {
    /// Makes a clock that is behind.
    pub fn behind() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kith-test-clock-")
            .tempdir();
        let clock = Self {
            dir: dir.expect("the machine has room for a temporary directory"),
        };
        clock.set(SLEEP);
        clock.compile();
        clock
    }

    /// What the process is to be started with.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library()), (FILE, self.file())]
    }

    /// Sets it right.
    pub fn set_right(&self) {
        self.set(Duration::ZERO);
    }

    fn set(&self, behind: Duration) {
        // Replaced in one step: the process reads it at any moment.
        let new = self.dir.path().join("new");
        fs::write(&new, behind.as_secs().to_string()).expect("the file can be written");
        fs::rename(new, self.file()).expect("the file can be replaced");
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("behind")
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("clock.so")
    }

    fn compile(&self) {
        let mut compiler = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-x", "c", "-", "-o"])
            .arg(self.library())
            .stdin(Stdio::piped())
            .spawn()
            .expect("`cc` links Rust programs, so it is there");
        let mut source = compiler.stdin.take().expect("it was asked for");
        let written = source.write_all(LIBRARY.as_bytes());
        drop(source);
        let ended = compiler.wait();
        assert!(
            written.is_ok() && ended.is_ok_and(|status| status.success()),
            "the library that sets a clock back could not be compiled"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_process_sees_a_clock_that_is_behind_until_it_is_set_right() {
        let clock = WallClock::behind();
        let behind = || {
            let output = Command::new("date")
                .arg("+%s")
                .envs(clock.environment())
                .output();
            let seconds = String::from_utf8(output.unwrap().stdout).unwrap();
            let seen =
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().unwrap());
            SystemTime::now().duration_since(seen).unwrap_or_default()
        };
        assert!(behind() >= SLEEP);
        clock.set_right();
        assert!(behind() < SLEEP / 2);
    }
}
