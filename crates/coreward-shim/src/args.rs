//! The shim's arguments: the specifiers of core_pattern as the kernel expands them (core(5), `format_corename` in
//! fs/coredump.c).

use super::warning::ShimWarning;
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use nix::unistd::{Gid, Pid, Uid};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

pub(super) const USAGE: &str = "Usage: coreward-shim [--root DIR] PID TID UID GID SIGNAL TIME RLIMIT DUMPABLE HOSTNAME [PIDFD]\n\
    The kernel starts this program with a core on its standard input (see core(5), coreward-shim(8)).";

/// Number of specifiers in `coreward_wire::paths::SPECIFIERS`.
const EXPECTED: usize = 10;

/// The parsed command line.
pub(super) struct Args {
    pub(super) root: Root,
    /// The offer, as far as the kernel's arguments fill it in.
    pub(super) offer: Offer,
    /// Number of the inherited pidfd (`%F`).
    pub(super) pidfd: Option<RawFd>,
    /// What is wrong with the arguments.
    pub(super) warnings: Vec<ShimWarning>,
}

/// Parses the arguments; the first one is the program's name. They are read by position only: the crashed process may have
/// chosen the host name, so an argument must never be taken as an option because of what it contains.
pub(super) fn parse(arguments: &[OsString]) -> Args {
    let mut arguments = arguments.split_first().map_or(arguments, |(_, rest)| rest);
    let mut root = Root::default();
    if let [flag, dir, rest @ ..] = arguments
        && flag == "--root"
    {
        root = Root::new(dir);
        arguments = rest;
    }
    let mut offer = Offer { attempt: 1, opens_written_files: true, ..Offer::default() };
    let mut warnings = Vec::new();
    // A kernel without `%F` leaves the last argument empty, or omits it.
    let ([pid, tid, uid, gid, signal, time, limit, dumpable, hostname, rest @ ..], ..=EXPECTED) =
        (arguments, arguments.len())
    else {
        // The arguments may be in other positions than expected: a wrong signal or UID would be worse than none.
        warnings.push(ShimWarning::ArgumentCount { found: arguments.len() });
        return Args { root, offer, pidfd: None, warnings };
    };
    let mut reader = NumberReader { warnings };
    offer.pid = reader.pid("PID", pid);
    offer.tid = reader.pid("TID", tid);
    offer.uid = reader.number("UID", uid).map(Uid::from_raw);
    offer.gid = reader.number("GID", gid).map(Gid::from_raw);
    offer.signal = reader.number("SIGNAL", signal);
    offer.time = reader.number("TIME", time).unwrap_or_default();
    offer.core_limit = reader.number("RLIMIT", limit).unwrap_or(u64::MAX);
    offer.dumpable = reader.number("DUMPABLE", dumpable);
    offer.hostname = hostname.clone().into_vec();
    let pidfd = rest.first().filter(|pidfd| !pidfd.is_empty()).and_then(|pidfd| reader.number("PIDFD", pidfd));
    Args { root, offer, pidfd, warnings: reader.warnings }
}

/// Parses numbers and collects warnings about those that are not valid.
struct NumberReader {
    warnings: Vec<ShimWarning>,
}

impl NumberReader {
    fn number<T: std::str::FromStr>(&mut self, name: &'static str, text: &OsStr) -> Option<T> {
        self.valid(name, text, text.to_str().and_then(|text| text.parse().ok()))
    }

    /// A PID or TID: a `pid_t` that is not negative.
    fn pid(&mut self, name: &'static str, text: &OsStr) -> Option<Pid> {
        let pid = text.to_str().and_then(|text| text.parse().ok()).filter(|pid| *pid >= 0);
        self.valid(name, text, pid.map(Pid::from_raw))
    }

    fn valid<T>(&mut self, name: &'static str, text: &OsStr, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.warnings.push(ShimWarning::InvalidArgument { name, value: text.as_bytes().to_vec() });
        }
        value
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that indexes out of bounds fails, as it should")]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Args {
        parse(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_specifier_has_its_argument() {
        assert_eq!(coreward_wire::paths::SPECIFIERS.split(' ').count(), EXPECTED);
    }

    #[test]
    fn a_full_line_gives_every_fact() {
        let args =
            parsed(&["shim", "--root", "/r", "10", "11", "1000", "1001", "11", "1700000000", "0", "1", "web-1", "3"]);
        assert_eq!(args.root, Root::new("/r"));
        assert_eq!((args.offer.pid, args.offer.tid), (Some(Pid::from_raw(10)), Some(Pid::from_raw(11))));
        assert_eq!(args.offer.signal, Some(11));
        assert_eq!((args.offer.uid, args.offer.gid), (Some(Uid::from_raw(1000)), Some(Gid::from_raw(1001))));
        assert_eq!(args.offer.hostname, b"web-1");
        assert_eq!(args.pidfd, Some(3));
        assert_eq!(args.warnings, []);
    }

    #[test]
    fn a_kernel_without_pidfd_leaves_the_last_argument_empty_or_away() {
        for line in
            [vec!["1", "1", "0", "0", "6", "1", "0", "1", "h", ""], vec!["1", "1", "0", "0", "6", "1", "0", "1", "h"]]
        {
            let args = parsed(&[&["shim"], line.as_slice()].concat());
            assert_eq!(args.pidfd, None);
            assert_eq!(args.warnings, []);
        }
    }

    #[test]
    fn a_host_name_cannot_pose_as_an_option() {
        let args = parsed(&["shim", "1", "1", "0", "0", "6", "1", "0", "1", "--root", "3"]);
        assert_eq!(args.root, Root::default());
        assert_eq!(args.offer.hostname, b"--root");
    }

    #[test]
    fn too_few_arguments_and_garbage_are_reported_and_the_crash_still_offered() {
        assert!(parsed(&["shim", "7"]).warnings[0].to_string().contains("1 arguments, expected 10"));
        assert!(parsed(&[]).warnings[0].to_string().contains("0 arguments"));
        assert_eq!(parsed(&["7"; 12]).warnings, [ShimWarning::ArgumentCount { found: 11 }]);
        let args = parsed(&["shim", "x\n", "-1", "0", "0", "99999999999", "1", "0", "1", "h", ""]);
        assert_eq!((args.offer.pid, args.offer.tid, args.offer.signal), (None, None, None));
        assert!(args.warnings[0].to_string().contains(r"x\n"), "{:?}", args.warnings);
        assert_eq!(args.warnings.len(), 3);
        assert_eq!(args.offer.attempt, 1);
    }
}
