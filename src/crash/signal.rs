//! Names of signals.

use nix::sys::signal::Signal;

/// The C library's SIGRTMIN. The kernel's first real-time signal is 32; the C library reserves the first two for itself
/// (signal(7)).
const LIBC_RTMIN: u32 = 34;
const RTMAX: u32 = 64;
/// `si_code` of a signal of the kernel's own that has no other one.
pub const SI_KERNEL: i32 = 0x80;

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
        (_, SI_KERNEL) => match signal {
            Some(Signal::SIGSEGV) => (
                "SI_KERNEL",
                "a general protection fault: an address that is not canonical, an operand that is not aligned, or a privileged instruction",
            ),
            Some(Signal::SIGBUS) => ("SI_KERNEL", "an access for which the processor gives no address"),
            Some(Signal::SIGTRAP) => ("SI_KERNEL", "a breakpoint instruction, or sent by the kernel"),
            _ => ("SI_KERNEL", "sent by the kernel"),
        },
        (_, -1) => ("SI_QUEUE", "sent by a process with sigqueue(3)"),
        (_, -2) => ("SI_TIMER", "a timer expired"),
        (_, -3) => ("SI_MESGQ", "a message queue has a message"),
        (_, -4) => ("SI_ASYNCIO", "an asynchronous operation ended"),
        (_, -5) => ("SI_SIGIO", "input or output is possible"),
        (_, -6) => ("SI_TKILL", "sent to this thread, as by abort(3) and raise(3)"),
        (_, -7) => ("SI_DETHREAD", "another thread called execve(2)"),
        (_, -60) => ("SI_ASYNCNL", "an asynchronous name lookup ended"),
        (Some(Signal::SIGSEGV), 1) => ("SEGV_MAPERR", "nothing is mapped there"),
        (Some(Signal::SIGSEGV), 2) => ("SEGV_ACCERR", "the mapping does not allow the access"),
        (Some(Signal::SIGSEGV), 3) => ("SEGV_BNDERR", "a bounds check failed"),
        (Some(Signal::SIGSEGV), 4) => ("SEGV_PKUERR", "a memory protection key does not allow the access"),
        (Some(Signal::SIGSEGV), 5) => ("SEGV_ACCADI", "memory tags (ADI) are not enabled there"),
        (Some(Signal::SIGSEGV), 6) => ("SEGV_ADIDERR", "a memory tag (ADI) does not match, found later"),
        (Some(Signal::SIGSEGV), 7) => ("SEGV_ADIPERR", "a memory tag (ADI) does not match"),
        (Some(Signal::SIGSEGV), 8) => ("SEGV_MTEAERR", "a memory tag (MTE) does not match, found later"),
        (Some(Signal::SIGSEGV), 9) => ("SEGV_MTESERR", "a memory tag (MTE) does not match"),
        (Some(Signal::SIGSEGV), 10) => {
            ("SEGV_CPERR", "control flow protection: a return address or a jump target that is not allowed")
        }
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
        (Some(Signal::SIGFPE), 9) => ("__FPE_DECOVF", "a decimal number overflowed"),
        (Some(Signal::SIGFPE), 10) => ("__FPE_DECDIV", "a decimal number was divided by zero"),
        (Some(Signal::SIGFPE), 11) => ("__FPE_DECERR", "an inexact decimal result"),
        (Some(Signal::SIGFPE), 12) => ("__FPE_INVASC", "invalid ASCII digits"),
        (Some(Signal::SIGFPE), 13) => ("__FPE_INVDEC", "invalid decimal digits"),
        (Some(Signal::SIGFPE), 14) => ("FPE_FLTUNK", "a floating-point error that the processor does not tell"),
        (Some(Signal::SIGFPE), 15) => ("FPE_CONDTRAP", "a conditional trap"),
        (Some(Signal::SIGILL), 1) => ("ILL_ILLOPC", "an unknown instruction"),
        (Some(Signal::SIGILL), 2) => ("ILL_ILLOPN", "an instruction with an invalid operand"),
        (Some(Signal::SIGILL), 3) => ("ILL_ILLADR", "an invalid addressing mode"),
        (Some(Signal::SIGILL), 4) => ("ILL_ILLTRP", "an invalid trap"),
        (Some(Signal::SIGILL), 5) => ("ILL_PRVOPC", "a privileged instruction"),
        (Some(Signal::SIGILL), 6) => ("ILL_PRVREG", "a privileged register"),
        (Some(Signal::SIGILL), 7) => ("ILL_COPROC", "a coprocessor error"),
        (Some(Signal::SIGILL), 8) => ("ILL_BADSTK", "a stack error"),
        (Some(Signal::SIGILL), 9) => ("ILL_BADIADDR", "an instruction at an address that has none"),
        (Some(Signal::SIGILL), 10) => ("__ILL_BREAK", "an invalid break instruction"),
        (Some(Signal::SIGILL), 11) => ("__ILL_BNDMOD", "an update of a bundle in progress"),
        (Some(Signal::SIGTRAP), 1) => ("TRAP_BRKPT", "a breakpoint instruction"),
        (Some(Signal::SIGTRAP), 2) => ("TRAP_TRACE", "a single step"),
        (Some(Signal::SIGTRAP), 3) => ("TRAP_BRANCH", "a branch"),
        (Some(Signal::SIGTRAP), 4) => ("TRAP_HWBKPT", "a hardware breakpoint or watchpoint"),
        (Some(Signal::SIGTRAP), 5) => ("TRAP_UNK", "a trap that the processor does not tell"),
        (Some(Signal::SIGTRAP), 6) => ("TRAP_PERF", "an event of perf_event_open(2)"),
        (Some(Signal::SIGSYS), 1) => ("SYS_SECCOMP", "a seccomp(2) filter refused a system call"),
        (Some(Signal::SIGSYS), 2) => {
            ("SYS_USER_DISPATCH", "a system call that the process has itself handle (PR_SET_SYSCALL_USER_DISPATCH)")
        }
        _ => return None,
    })
}

/// Whether a signal with this `si_code` has the address of a fault (sigaction(2)): the kernel's own codes of these signals are positive, and a
/// general protection fault has no address.
#[must_use]
pub fn has_address(number: u32, code: i32) -> bool {
    use Signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
    let is_fault = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP].iter().any(|known| *known as u32 == number);
    is_fault && code > 0 && code != SI_KERNEL
}

#[cfg(test)]
mod tests {
    use super::{SI_KERNEL, code, has_address, name, parse};
    use std::collections::BTreeSet;

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

    #[test]
    fn every_si_code_of_the_kernel_has_a_name_of_its_own_and_words() {
        // The last code of each signal (NSIGILL and so on, include/uapi/asm-generic/siginfo.h).
        for (signal, last, prefix) in
            [(4, 11, "ILL_"), (8, 15, "FPE_"), (11, 10, "SEGV_"), (7, 5, "BUS_"), (5, 6, "TRAP_"), (31, 2, "SYS_")]
        {
            let known: Vec<(&str, &str)> = (1..=last).map(|number| code(Some(signal), number).unwrap()).collect();
            let names: BTreeSet<&str> = known.iter().map(|(name, _)| *name).collect();
            assert_eq!(names.len(), known.len(), "{names:?}");
            assert!(
                known.iter().all(|(name, words)| name.trim_start_matches('_').starts_with(prefix) && words.len() > 4),
                "{known:?}"
            );
            assert_eq!(code(Some(signal), last + 1), None);
            let (name, words) = code(Some(signal), SI_KERNEL).unwrap();
            assert!(name == "SI_KERNEL" && !words.is_empty());
        }
        for number in [0, -1, -2, -3, -4, -5, -6, -7, -60] {
            assert!(code(Some(6), number).is_some_and(|(name, _)| name.starts_with("SI_")), "{number}");
        }
        assert!(code(Some(11), SI_KERNEL).unwrap().1.contains("general protection fault"));
    }

    #[test]
    fn an_address_goes_with_faults_that_the_processor_located() {
        assert!(has_address(11, 1) && has_address(8, 1) && has_address(7, 2));
        assert!(!has_address(11, SI_KERNEL) && !has_address(11, 0) && !has_address(6, 1) && !has_address(31, 1));
    }
}
