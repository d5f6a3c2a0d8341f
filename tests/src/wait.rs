//! Waiting for a condition, so that no test depends on how fast a machine is.

use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);

/// How long a process may take until it serves.
pub const UNTIL_READY: Duration = Duration::from_secs(60);

/// How long a process may take until it has ended by itself.
pub const UNTIL_STOPPED: Duration = Duration::from_secs(30);

/// How long one command may take.
pub const ONE_COMMAND: Duration = Duration::from_secs(90);

/// How long a message may take until everybody has it, on a machine that is busy with other things.
pub const UNTIL_DELIVERED: Duration = Duration::from_secs(120);

/// Looks again and again until there is something, and returns it.
///
/// # Panics
///
/// When `bound` has passed; the message names what was awaited.
pub fn wait_until<T>(awaited: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    wait_explained(awaited, bound, || {
        look().ok_or_else(|| "not yet".to_owned())
    })
}

/// Looks again and again until there is something; a look that finds nothing says what it saw instead.
///
/// # Panics
///
/// When `bound` has passed; the message names what was awaited and what the last look saw.
pub fn wait_explained<T>(
    awaited: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let late = start.elapsed() > bound;
        match look() {
            Ok(found) => return found,
            Err(seen) if late => panic!("waited {bound:?} until {awaited}: {seen}"),
            Err(_) => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_returned() {
        let mut looks = 0;
        let seen = wait_until("three looks", ONE_COMMAND, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, 3);
    }

    #[test]
    #[should_panic(expected = "until the moon is green: it is white")]
    fn a_bound_that_passes_names_what_was_awaited_and_seen() {
        wait_explained::<()>("the moon is green", Duration::ZERO, || {
            Err("it is white".to_owned())
        });
    }
}
