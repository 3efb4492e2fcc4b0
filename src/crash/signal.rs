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

/// The signal that a person means: `SEGV`, `segv`, `SIGSEGV`, `11`, `RTMIN+3`, `RTMAX-2`. `None` if there is no such signal.
#[must_use]
pub fn parse(text: &str) -> Option<u32> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = bare.parse() {
        // The kernel has as many (`_NSIG`).
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let real_time = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(LIBC_RTMIN),
        (_, Some("")) => Some(RTMAX),
        (Some(above), _) => above.strip_prefix('+').and_then(|above| LIBC_RTMIN.checked_add(above.parse().ok()?)),
        (_, Some(below)) => below.strip_prefix('-').and_then(|below| RTMAX.checked_sub(below.parse().ok()?)),
        (None, None) => {
            // Other names of the same signals (signal(7)).
            let name = match bare {
                "IOT" => "ABRT",
                "CLD" => "CHLD",
                "POLL" => "IO",
                name => name,
            };
            return format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as u32);
        }
    };
    real_time.filter(|number| (LIBC_RTMIN..=RTMAX).contains(number))
}

/// A short description of the signal (signal(7)); empty if there is nothing to add to the name.
#[must_use]
pub fn meaning(signal: Option<u32>) -> &'static str {
    match signal.and_then(|number| i32::try_from(number).ok()).and_then(|number| Signal::try_from(number).ok()) {
        Some(Signal::SIGSEGV) => "invalid memory reference",
        Some(Signal::SIGABRT) => "abort",
        Some(Signal::SIGBUS) => "bad memory access, or a mapped file that was truncated",
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

/// The name of an `si_code`, and what it says (sigaction(2), include/uapi/asm-generic/siginfo.h). `None` if it is not known.
#[must_use]
pub fn code(signal: Option<u32>, code: i32) -> Option<(&'static str, &'static str)> {
    let signal = signal.and_then(|number| i32::try_from(number).ok()).and_then(|number| Signal::try_from(number).ok());
    Some(match (signal, code) {
        (_, 0) => ("SI_USER", "sent by a process with kill(2)"),
        (_, 128) => match signal {
            // The processor does not tell which address it was (x86: a general protection fault).
            Some(Signal::SIGSEGV | Signal::SIGBUS) => {
                ("SI_KERNEL", "an access that has no address, or a privileged instruction")
            }
            _ => ("SI_KERNEL", "sent by the kernel"),
        },
        (_, -1) => ("SI_QUEUE", "sent by a process with sigqueue(3)"),
        (_, -2) => ("SI_TIMER", "a timer expired"),
        (_, -3) => ("SI_MESGQ", "a message queue has a message"),
        (_, -4) => ("SI_ASYNCIO", "an asynchronous operation ended"),
        (_, -5) => ("SI_SIGIO", "input or output is possible"),
        (_, -6) => ("SI_TKILL", "sent to this thread, as by abort(3) and raise(3)"),
        (Some(Signal::SIGSEGV), 1) => ("SEGV_MAPERR", "nothing is mapped there"),
        (Some(Signal::SIGSEGV), 2) => ("SEGV_ACCERR", "the mapping does not allow the access"),
        (Some(Signal::SIGSEGV), 3) => ("SEGV_BNDERR", "a bounds check failed"),
        (Some(Signal::SIGSEGV), 4) => ("SEGV_PKUERR", "a memory protection key does not allow the access"),
        (Some(Signal::SIGSEGV), 8) => ("SEGV_MTEAERR", "a memory tag does not match, found later"),
        (Some(Signal::SIGSEGV), 9) => ("SEGV_MTESERR", "a memory tag does not match"),
        (Some(Signal::SIGSEGV), 10) => ("SEGV_CPERR", "control flow protection"),
        (Some(Signal::SIGBUS), 1) => ("BUS_ADRALN", "the address is not aligned"),
        (Some(Signal::SIGBUS), 2) => ("BUS_ADRERR", "nothing is behind the mapping, as after the end of a mapped file"),
        (Some(Signal::SIGBUS), 3) => ("BUS_OBJERR", "a hardware error"),
        (Some(Signal::SIGBUS), 4) => ("BUS_MCEERR_AR", "a memory error"),
        (Some(Signal::SIGBUS), 5) => ("BUS_MCEERR_AO", "a memory error elsewhere in the process"),
        (Some(Signal::SIGFPE), 1) => ("FPE_INTDIV", "an integer was divided by zero"),
        (Some(Signal::SIGFPE), 2) => ("FPE_INTOVF", "an integer overflowed"),
        (Some(Signal::SIGFPE), 3) => ("FPE_FLTDIV", "a floating-point number was divided by zero"),
        (Some(Signal::SIGFPE), 4) => ("FPE_FLTOVF", "a floating-point number overflowed"),
        (Some(Signal::SIGFPE), 5) => ("FPE_FLTUND", "a floating-point number underflowed"),
        (Some(Signal::SIGFPE), 6) => ("FPE_FLTRES", "an inexact floating-point result"),
        (Some(Signal::SIGFPE), 7) => ("FPE_FLTINV", "an invalid floating-point operation"),
        (Some(Signal::SIGFPE), 8) => ("FPE_FLTSUB", "a subscript is out of range"),
        (Some(Signal::SIGILL), 1) => ("ILL_ILLOPC", "an unknown instruction"),
        (Some(Signal::SIGILL), 2) => ("ILL_ILLOPN", "an instruction with an invalid operand"),
        (Some(Signal::SIGILL), 3) => ("ILL_ILLADR", "an invalid addressing mode"),
        (Some(Signal::SIGILL), 4) => ("ILL_ILLTRP", "an invalid trap"),
        (Some(Signal::SIGILL), 5) => ("ILL_PRVOPC", "a privileged instruction"),
        (Some(Signal::SIGILL), 6) => ("ILL_PRVREG", "a privileged register"),
        (Some(Signal::SIGILL), 7) => ("ILL_COPROC", "a coprocessor error"),
        (Some(Signal::SIGILL), 8) => ("ILL_BADSTK", "a stack error"),
        (Some(Signal::SIGTRAP), 1) => ("TRAP_BRKPT", "a breakpoint instruction"),
        (Some(Signal::SIGTRAP), 2) => ("TRAP_TRACE", "a single step"),
        (Some(Signal::SIGTRAP), 3) => ("TRAP_BRANCH", "a branch"),
        (Some(Signal::SIGTRAP), 4) => ("TRAP_HWBKPT", "a hardware breakpoint or watchpoint"),
        (Some(Signal::SIGTRAP), 6) => ("TRAP_PERF", "an event of perf_event_open(2)"),
        (Some(Signal::SIGSYS), 1) => ("SYS_SECCOMP", "a seccomp(2) filter refused a system call"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{name, parse};

    #[test]
    fn every_spelling_of_a_signal_is_the_same_signal() {
        for text in ["SEGV", "segv", "SIGSEGV", "sigsegv", "SigSegv", "11", "SIG11"] {
            assert_eq!(parse(text), Some(11), "{text}");
        }
        for number in 1..=64 {
            assert_eq!(parse(&name(Some(number))), Some(number));
            assert_eq!(parse(&format!("SIG{}", name(Some(number)))), Some(number));
        }
        assert_eq!([parse("iot"), parse("RTMAX"), parse("rtmax-1"), parse("RTMIN")], [6, 64, 63, 34].map(Some));
        for text in
            ["", "foo", "SIG", "0", "65", "-11", "RTMIN+31", "RTMIN-1", "RTMAX-31", "RTMIN+", "SEGV ", "SIGSIGSEGV"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

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
