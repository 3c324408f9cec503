//! Reading `/proc/<tid>/status`: does a signal wait that would end the thread's read?
//!
//! What counts, of the signals that are pending and neither blocked nor ignored: SIGKILL always; those that end the
//! program by default; and of those it handles itself the four by which people and supervisors ask a program to stop.
//! Other handled signals do not count. Runtimes send them to their own threads all the time (suspension for garbage
//! collection, preemption, profiling timers, set*id), and no program expects a file's read to fail for them; in a
//! page fault, where an interrupted read is a SIGBUS, it would die of a signal it handles. Nor does job control count:
//! Ctrl-Z must not become a read error when the job goes on.

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
/// Handled or not, these ask the program to stop.
const STOP_REQUESTS: u64 = bit(libc::SIGINT) | bit(libc::SIGTERM) | bit(libc::SIGHUP) | bit(libc::SIGQUIT);

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
    let fatal = open & !caught & !IGNORED_BY_DEFAULT & !JOB_CONTROL;
    let asked = open & caught & STOP_REQUESTS;
    if pending & bit(libc::SIGKILL) != 0 || fatal | asked != 0 { Caller::Signalled } else { Caller::Waits }
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
    fn what_is_ignored_by_default_and_job_control_do_not_count() {
        let harmless = [libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG, libc::SIGCONT];
        let job_control = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        for signal in harmless.into_iter().chain(job_control) {
            for caught in [0, bit(signal)] {
                assert_eq!(judge(&status(0, bit(signal), 0, 0, caught)), Caller::Waits, "{signal}");
            }
        }
    }

    #[test]
    fn handled_signals_count_only_when_they_ask_to_stop() {
        for signal in 1..=64 {
            let (pending, asks) = (bit(signal), STOP_REQUESTS & bit(signal) != 0);
            let expected = if asks || signal == libc::SIGKILL { Caller::Signalled } else { Caller::Waits };
            assert_eq!(judge(&status(pending, 0, 0, 0, pending)), expected, "{signal}");
        }
        for fatal in [libc::SIGALRM, libc::SIGUSR1, libc::SIGPROF, 40] {
            assert_eq!(judge(&status(0, bit(fatal), 0, 0, 0)), Caller::Signalled, "{fatal}");
        }
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
