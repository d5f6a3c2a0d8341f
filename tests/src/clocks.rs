//! The clocks of processes, which a test can turn: a laptop sleeps, a day goes by.
//!
//! Programs read two clocks. The wall clock says what time it is; the steady one measures how long something takes,
//! and stands still while the machine sleeps. A test cannot wait for a day, nor put the machine to sleep, and must not
//! touch the machine's clocks. So the processes are started with a wall clock that is behind, and it is turned
//! towards the right time later: with the steady clock, and time has gone by; without it, and the machine has slept.
//!
//! It is the program as it is released: a small library that is loaded before it (`LD_PRELOAD`) takes the place of the
//! system's `clock_gettime`. The compiler for it is the one that links Rust programs.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

/// Names the file that says how far the clocks are turned: the wall clock back, and the steady one ahead, in
/// seconds.
const FILE: &str = "KITH_TEST_CLOCKS";

/// The library. Whoever asks for another clock gets the system's answer.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *turned;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("KITH_TEST_CLOCKS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) turned = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && turned && clock == CLOCK_REALTIME) now->tv_sec -= turned[0];
    if (status == 0 && turned && clock == CLOCK_MONOTONIC) now->tv_sec += turned[1];
    return status;
}
"#;

/// The clocks of some processes.
#[derive(Debug)]
pub struct Clocks {
    dir: TempDir,
    file: File,
    turned: Mutex<Turned>,
}

/// By how much, in seconds.
#[derive(Debug)]
struct Turned {
    wall_back: u64,
    steady_ahead: u64,
}

impl Clocks {
    /// Makes clocks of which the wall clock is behind.
    pub fn behind(by: Duration) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kith-test-clocks-")
            .tempdir()
            .expect("the machine has room for a temporary directory");
        let clocks = Self {
            file: File::create(dir.path().join("turned")).expect("a file"),
            dir,
            turned: Mutex::new(Turned {
                wall_back: by.as_secs(),
                steady_ahead: 0,
            }),
        };
        clocks.turn(|_| {});
        clocks.compile();
        clocks
    }

    /// What a process is to be started with.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library()), (FILE, self.turned())]
    }

    /// What the wall clock says.
    pub fn wall(&self) -> SystemTime {
        let turned = self.turned.lock().expect("nobody panics with it");
        SystemTime::now() - Duration::from_secs(turned.wall_back)
    }

    /// The machine has slept for so long: the wall clock went on.
    pub fn sleep(&self, time: Duration) {
        self.turn(|turned| turned.wall_back -= time.as_secs());
    }

    /// So much time has gone by: both clocks went on.
    pub fn pass(&self, time: Duration) {
        self.turn(|turned| {
            turned.wall_back -= time.as_secs();
            turned.steady_ahead += time.as_secs();
        });
    }

    fn turn(&self, turn: impl FnOnce(&mut Turned)) {
        let mut turned = self.turned.lock().expect("nobody panics with it");
        turn(&mut turned);
        let numbers = [turned.wall_back, turned.steady_ahead].map(u64::to_ne_bytes);
        // In place, since it is mapped.
        let written = self.file.write_all_at(&numbers.concat(), 0);
        written.expect("the file can be written");
    }

    fn turned(&self) -> PathBuf {
        self.dir.path().join("turned")
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("clocks.so")
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
            "the library that turns clocks could not be compiled"
        );
        let library = fs::metadata(self.library());
        assert!(library.is_ok_and(|library| library.len() > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_process_sees_the_wall_clock_that_it_is_given() {
        let clocks = Clocks::behind(9 * HOUR);
        let behind = || {
            let output = Command::new("date")
                .arg("+%s")
                .envs(clocks.environment())
                .output();
            let seconds = String::from_utf8(output.unwrap().stdout).unwrap();
            let seen =
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().unwrap());
            let behind = SystemTime::now().duration_since(seen).unwrap_or_default();
            (behind + HOUR / 2).as_secs() / HOUR.as_secs()
        };
        assert_eq!(behind(), 9);
        clocks.sleep(4 * HOUR);
        assert_eq!(behind(), 5);
        clocks.pass(5 * HOUR);
        assert_eq!(behind(), 0);
    }
}
