//! What is read of the node's process and of the machine, and how a figure is printed.

use std::{
    fs,
    time::{Duration, Instant},
};

/// Bytes of a MiB.
pub const MIB: f64 = 1024.0 * 1024.0;
/// The system counts a process's time in hundredths of a second, on all that Linux runs on.
const TICKS_PER_S: f64 = 100.0;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// Prints a figure that has no target.
pub fn show(name: &str, value: f64) {
    println!("{name}: {}", number(value));
}

/// Prints a figure, its target, and whether it was met.
pub fn judge(name: &str, value: f64, target: Target) {
    let (met, sign, bound) = match target {
        Target::AtMost(bound) => (value <= bound, "<=", bound),
        Target::AtLeast(bound) => (value >= bound, ">=", bound),
    };
    let met = if met { "met" } else { "MISSED" };
    println!(
        "{name}: {} (target {sign} {}: {met})",
        number(value),
        number(bound)
    );
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The value below which so many hundredths of all lie; `values` must not be empty.
pub fn percentile(values: &mut [f64], hundredths: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * hundredths / 100.0).ceil() as usize;
    values[at.clamp(1, values.len()) - 1]
}

/// Milliseconds of a duration.
pub fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// The node's process, as the system sees it.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// The memory that it has in use, in MiB.
    pub fn resident_mib(self) -> f64 {
        self.status("VmRSS") / 1024.0
    }

    /// The most memory that it ever had in use, in MiB.
    pub fn peak_mib(self) -> f64 {
        self.status("VmHWM") / 1024.0
    }

    fn status(self, key: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}:")));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The time that it has computed for, in seconds.
    pub fn cpu_s(self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it runs");
        // After the name, which may hold anything, in parentheses.
        let fields = stat.rsplit(')').next().expect("fields");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / TICKS_PER_S
    }

    /// Watches how much of a core it uses from now on.
    pub fn watch(self) -> Watch {
        Watch {
            process: self,
            since: Instant::now(),
            cpu_s: self.cpu_s(),
        }
    }
}

/// A stretch of a process's life.
#[derive(Debug)]
pub struct Watch {
    process: Process,
    since: Instant,
    cpu_s: f64,
}

impl Watch {
    /// Seconds since it began.
    pub fn wall_s(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    /// Seconds that the process has computed for.
    pub fn cpu_s(&self) -> f64 {
        self.process.cpu_s() - self.cpu_s
    }

    /// Hundredths of one core that it used.
    pub fn percent(&self) -> f64 {
        self.cpu_s() / self.wall_s() * 100.0
    }
}

/// All bytes that ever crossed the loopback interface, with the headers of IP and TCP.
pub fn loopback_bytes() -> f64 {
    let table = fs::read_to_string("/proc/net/dev").expect("Linux");
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let sent = line.and_then(|line| line.split_whitespace().nth(8));
    sent.and_then(|sent| sent.parse().ok())
        .expect("a loopback interface")
}

/// How busy the machine is, so that figures taken on a busy one can be told.
pub fn load() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = load.split_whitespace().next();
    first.and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
