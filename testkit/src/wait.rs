//! Waiting for a condition, with a deadline. The only place of the tests that sleeps: between two looks at a
//! condition that somebody else makes true, never in the hope that something has happened meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long to rest between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until `look` gives a value, and returns it.
///
/// # Panics
/// When the deadline passes first; the message names `what` was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    match within(deadline, &mut look) {
        Some(value) => value,
        None => panic!("waited {deadline:?} in vain: {what}"),
    }
}

/// As [`eventually`], but gives `None` at the deadline.
pub fn within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        // Before the look: who was kept from running until after the deadline looks once more.
        let is_last = start.elapsed() >= deadline;
        if let Some(value) = look() {
            return Some(value);
        }
        if is_last {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Runs `work` on a thread of its own and gives its result, or `None` if it is not back at the deadline.
/// The thread is left behind in that case: for work that ends when its resource is taken away.
pub fn on_time<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = std::sync::mpsc::channel();
    thread::spawn(move || {
        // The receiver is gone when the deadline has passed; then nobody wants the value.
        let _ = done.send(work());
    });
    result.recv_timeout(deadline).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        let value = eventually("three looks", Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value, 3);
    }

    #[test]
    fn the_deadline_ends_the_wait() {
        assert_eq!(within(Duration::from_millis(1), || None::<()>), None);
        let (held, never) = std::sync::mpsc::channel::<()>();
        assert_eq!(on_time(Duration::from_millis(1), move || never.recv()), None);
        drop(held);
    }
}
