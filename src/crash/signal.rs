//! Names of signals.

use nix::sys::signal::Signal;

/// The C library's SIGRTMIN. The kernel's first real-time signal is 32; the C library reserves the first two for itself
/// (signal(7)).
const LIBC_RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// The name without `SIG`: `SEGV`, `RTMIN+3`. A signal without a name is shown as its number, `None` as `unknown`.
#[must_use]
pub fn name(signal: Option<u32>) -> String {
    let Some(number) = signal else { return "unknown".to_owned() };
    let named = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
    match named {
        Some(signal) => signal.as_str().trim_start_matches("SIG").to_owned(),
        None if number == LIBC_RTMIN => "RTMIN".to_owned(),
        None if (LIBC_RTMIN..=RTMAX).contains(&number) => format!("RTMIN+{}", number - LIBC_RTMIN),
        None => number.to_string(),
    }
}

/// A short description of the signal (signal(7)); empty if there is nothing to add to the name.
#[must_use]
pub fn meaning(signal: Option<u32>) -> &'static str {
    match signal.and_then(|number| i32::try_from(number).ok()).and_then(|number| Signal::try_from(number).ok()) {
        Some(Signal::SIGSEGV) => "invalid memory reference",
        Some(Signal::SIGABRT) => "abort",
        Some(Signal::SIGBUS) => "bad memory access, or a mapped file that was cut",
        Some(Signal::SIGFPE) => "arithmetic error",
        Some(Signal::SIGILL) => "illegal instruction",
        Some(Signal::SIGTRAP) => "trap",
        Some(Signal::SIGSYS) => "system call refused by seccomp",
        Some(Signal::SIGQUIT) => "quit from the keyboard",
        Some(Signal::SIGXCPU) => "CPU time limit exceeded",
        Some(Signal::SIGXFSZ) => "file size limit exceeded",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_are_those_of_alert_rules() {
        let cases =
            [(Some(11), "SEGV"), (Some(6), "ABRT"), (Some(31), "SYS"), (Some(34), "RTMIN"), (Some(64), "RTMIN+30")];
        for (number, expected) in cases {
            assert_eq!(name(number), expected);
        }
        assert_eq!((name(Some(0)), name(Some(99)), name(None)), ("0".into(), "99".into(), "unknown".into()));
    }
}
