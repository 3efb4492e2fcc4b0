//! The arguments that the kernel makes of `core_pattern`.

use coreward_wire::Offer;
use coreward_wire::paths::{Root, SPECIFIERS};
use nix::unistd::{Gid, Pid, Uid};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

pub(super) const USAGE: &str = "Usage: coreward-shim [--root DIR] PID TID UID GID SIGNAL TIME RLIMIT DUMPABLE HOSTNAME PIDFD\n\
    The kernel starts this program with a core on its standard input (see core(5), coreward-shim(8)).";

/// What was said on the command line.
pub(super) struct Args {
    pub(super) root: Root,
    /// The facts; what is wrong with the arguments stands in `warnings`, and the crash is offered all the same.
    pub(super) offer: Offer,
    /// Number of the inherited pidfd (`%F`).
    pub(super) pidfd: Option<i32>,
}

/// Reads the arguments, the program's name first. By position only: the host name is the crashed process' own text, and
/// must not be able to say `--root`.
pub(super) fn parse(arguments: Vec<OsString>) -> Args {
    let mut arguments = &arguments[1.min(arguments.len())..];
    let mut root = Root::default();
    if let [flag, dir, rest @ ..] = arguments
        && flag == "--root"
    {
        root = Root::new(dir);
        arguments = rest;
    }
    let expected = SPECIFIERS.split(' ').count();
    let mut offer = Offer { attempt: 1, ..Offer::default() };
    // Without `%F` the kernel leaves the last argument empty, or away.
    if arguments.len() != expected && arguments.len() + 1 != expected {
        offer.warnings.push(format!(
            "core_pattern is wrong: {} arguments, expected {expected} ({SPECIFIERS}); `coreward register` sets it right",
            arguments.len()
        ));
        // The places can't be trusted then: a signal read from the place of a uid is worse than none.
        return Args { root, offer, pidfd: None };
    }
    let at = |place: usize| arguments.get(place).map_or(OsStr::new(""), OsString::as_os_str);
    let mut warnings = Vec::new();
    offer.pid = process_id(at(0), "PID", &mut warnings);
    offer.tid = process_id(at(1), "TID", &mut warnings);
    offer.uid = number(at(2), "UID", &mut warnings).map(Uid::from_raw);
    offer.gid = number(at(3), "GID", &mut warnings).map(Gid::from_raw);
    offer.signal = number(at(4), "SIGNAL", &mut warnings);
    offer.time = number(at(5), "TIME", &mut warnings).unwrap_or_default();
    offer.core_limit = number(at(6), "RLIMIT", &mut warnings).unwrap_or(u64::MAX);
    offer.dumpable = number(at(7), "DUMPABLE", &mut warnings);
    offer.hostname = at(8).to_owned().into_vec();
    let pidfd = if at(9).is_empty() { None } else { number(at(9), "PIDFD", &mut warnings) };
    offer.warnings = warnings;
    Args { root, offer, pidfd }
}

/// A PID or TID: a `pid_t` that is not negative.
fn process_id(text: &OsStr, name: &str, warnings: &mut Vec<String>) -> Option<Pid> {
    let number: u32 = number(text, name, warnings)?;
    i32::try_from(number).ok().map(Pid::from_raw)
}

fn number<T: FromStr>(text: &OsStr, name: &str, warnings: &mut Vec<String>) -> Option<T> {
    let value = text.to_str().and_then(|text| text.parse().ok());
    if value.is_none() {
        let shown = text.as_bytes()[..text.len().min(32)].escape_ascii();
        warnings.push(format!("argument {name} is \"{shown}\", which is not a number of its kind"));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Args {
        parse(line.iter().map(OsString::from).collect())
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
        assert!(args.offer.warnings.is_empty());
    }

    #[test]
    fn a_kernel_without_pidfd_leaves_the_last_argument_empty_or_away() {
        for line in
            [vec!["1", "1", "0", "0", "6", "1", "0", "1", "h", ""], vec!["1", "1", "0", "0", "6", "1", "0", "1", "h"]]
        {
            let args = parsed(&[&["shim"], line.as_slice()].concat());
            assert_eq!(args.pidfd, None);
            assert!(args.offer.warnings.is_empty(), "{:?}", args.offer.warnings);
        }
    }

    #[test]
    fn a_host_name_cannot_pose_as_an_option() {
        let args = parsed(&["shim", "1", "1", "0", "0", "6", "1", "0", "1", "--root", "3"]);
        assert_eq!(args.root, Root::default());
        assert_eq!(args.offer.hostname, b"--root");
    }

    #[test]
    fn too_few_arguments_and_garbage_are_said_and_the_crash_still_offered() {
        assert!(parsed(&["shim", "7"]).offer.warnings[0].contains("1 arguments, expected 10"));
        assert!(parsed(&[]).offer.warnings[0].contains("0 arguments"));
        let args = parsed(&["shim", "x\n", "1", "0", "0", "99999999999", "1", "0", "1", "h", ""]);
        assert_eq!((args.offer.pid, args.offer.signal), (None, None));
        assert!(args.offer.warnings[0].contains(r"x\n"), "{:?}", args.offer.warnings);
        assert_eq!(args.offer.attempt, 1);
    }
}
