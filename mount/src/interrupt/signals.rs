//! Reading `/proc/<tid>/status`: does a signal wait that would end the thread's read?
//!
//! What counts: any pending signal that is neither blocked nor ignored, and SIGKILL always. What does not, because nobody
//! sends it to stop a read: signals whose default is to be ignored (a shell's SIGCHLD, Go's SIGURG, a resized
//! terminal), job control with its default action (Ctrl-Z must not become a read error when the job goes on), and
//! the timers of profilers.

/// What is known about the thread that waits for a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// It waits, and nothing calls it away.
    Waits,
    /// A signal awaits it.
    Signalled,
    /// There is no such thread any more: nobody waits for the answer.
    Gone,
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

const IGNORED_BY_DEFAULT: u64 =
    bit(libc::SIGCHLD) | bit(libc::SIGWINCH) | bit(libc::SIGURG) | bit(libc::SIGCONT);
const JOB_CONTROL: u64 = bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);
const PROFILERS: u64 = bit(libc::SIGPROF) | bit(libc::SIGVTALRM);

/// Looks a thread up by its number. Number 0 is a caller outside of our pid namespace: nothing is known about it.
pub(super) fn look_up(thread: u32) -> Caller {
    if thread == 0 {
        return Caller::Waits;
    }
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => judge(&status),
        Err(error) if is_gone(&error) => Caller::Gone,
        // No descriptors left, hidden by hidepid: nothing is known, and the read has its own deadline.
        Err(_) => Caller::Waits,
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Judges the text of a status file. Fields that are missing or make no sense count as empty.
fn judge(status: &str) -> Caller {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
    };
    let mask = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(0);
    if matches!(field("State").bytes().next(), Some(b'Z' | b'X' | b'x')) {
        return Caller::Gone;
    }
    let pending = mask("SigPnd") | mask("ShdPnd");
    let caught = mask("SigCgt");
    let open = pending & !mask("SigBlk") & !mask("SigIgn");
    let uninteresting = IGNORED_BY_DEFAULT | (JOB_CONTROL & !caught) | (PROFILERS & caught);
    if pending & bit(libc::SIGKILL) != 0 || open & !uninteresting != 0 {
        Caller::Signalled
    } else {
        Caller::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tcat\nState:\tD (disk sleep)\nTgid:\t71\nSigQ:\t1/95982\nSigPnd:\t{pending:016x}\n\
             ShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn a_thread_without_signals_waits_on() {
        assert_eq!(judge(&status(0, 0, 0, 0, 0)), Caller::Waits);
        assert_eq!(look_up(std::process::id()), Caller::Waits);
        assert_eq!(look_up(0), Caller::Waits);
    }

    #[test]
    fn ctrl_c_counts_from_either_queue_caught_or_not() {
        let int = bit(libc::SIGINT);
        for text in [status(int, 0, 0, 0, 0), status(0, int, 0, 0, 0), status(0, int, 0, 0, int)] {
            assert_eq!(judge(&text), Caller::Signalled);
        }
    }

    #[test]
    fn blocked_and_ignored_signals_do_not_count() {
        let int = bit(libc::SIGINT);
        assert_eq!(judge(&status(int, 0, int, 0, 0)), Caller::Waits);
        assert_eq!(judge(&status(0, int, 0, int, 0)), Caller::Waits);
        let term = bit(libc::SIGTERM);
        assert_eq!(judge(&status(int | term, 0, int, 0, 0)), Caller::Signalled);
    }

    #[test]
    fn sigkill_always_counts() {
        assert_eq!(judge(&status(bit(libc::SIGKILL), 0, u64::MAX, u64::MAX, 0)), Caller::Signalled);
    }

    #[test]
    fn signals_nobody_sends_to_stop_a_read_do_not_count() {
        for signal in [libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG, libc::SIGCONT] {
            for caught in [0, bit(signal)] {
                assert_eq!(judge(&status(0, bit(signal), 0, 0, caught)), Caller::Waits, "{signal}");
            }
        }
        assert_eq!(judge(&status(bit(libc::SIGTSTP), 0, 0, 0, 0)), Caller::Waits);
        assert_eq!(judge(&status(bit(libc::SIGTSTP), 0, 0, 0, bit(libc::SIGTSTP))), Caller::Signalled);
        assert_eq!(judge(&status(bit(libc::SIGPROF), 0, 0, 0, bit(libc::SIGPROF))), Caller::Waits);
        assert_eq!(judge(&status(bit(libc::SIGPROF), 0, 0, 0, 0)), Caller::Signalled);
    }

    #[test]
    fn a_zombie_waits_for_nothing() {
        let zombie = status(0, 0, 0, 0, 0).replace("D (disk sleep)", "Z (zombie)");
        assert_eq!(judge(&zombie), Caller::Gone);
        assert_eq!(look_up(1 << 23), Caller::Gone);
    }

    #[test]
    fn text_of_another_kernel_is_no_reason_to_interrupt() {
        for text in ["", "SigPnd:\tnot hex\n", "SigPnd\n", "ShdPnd:\n", "SigPnd:\tffffffffffffffffffff\n"] {
            assert_eq!(judge(text), Caller::Waits, "{text:?}");
        }
    }
}
