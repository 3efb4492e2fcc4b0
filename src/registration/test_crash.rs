//! The test crash: `coreward status` and `coreward register` let a process of their own crash, to see whether the kernel, the
//! shim and the daemon hand it on. The daemon reports it to the command, and neither records nor counts it.

use coreward_wire::Offer;
use coreward_wire::paths::Root;
use nix::unistd::{Pid, Uid};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The name (comm) that marks the process.
pub const COMM: &str = "coreward-canary";
/// What the daemon reports if the crash arrived and it could have recorded it. Otherwise it reports why not.
pub const PASSED: &str = "passed";
/// The file name of the program that the process executes.
const PROGRAM: &str = "coreward";

/// The socket on which the command waits for the daemon's report about the process `pid`.
#[must_use]
pub fn report_socket(root: &Root, pid: Pid) -> PathBuf {
    root.run_dir().join(format!("test-{pid}.sock"))
}

/// Whether a crash is a test. Only a process of root on the host itself can be one: nobody else may hide crashes.
#[must_use]
pub fn is_test_crash(offer: &Offer) -> bool {
    let spaces = offer.namespaces;
    let is_roots =
        offer.uid.is_some_and(Uid::is_root) && !(spaces.pid || spaces.user || spaces.mount || spaces.unknown);
    let program = Path::new(OsStr::from_bytes(&offer.exe)).file_name();
    is_roots && offer.comm == COMM.as_bytes() && program.is_some_and(|name| name == PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreward_wire::Namespaces;

    #[test]
    fn only_roots_own_command_on_the_host_is_a_test() {
        let test = Offer {
            uid: Some(Uid::from_raw(0)),
            comm: COMM.into(),
            exe: b"/usr/bin/coreward".to_vec(),
            ..Offer::default()
        };
        assert!(is_test_crash(&test));
        let elsewhere = Namespaces { mount: true, ..Namespaces::default() };
        for other in [
            Offer { uid: Some(Uid::from_raw(1000)), ..test.clone() },
            Offer { uid: None, ..test.clone() },
            Offer { comm: b"coreward".to_vec(), ..test.clone() },
            Offer { exe: b"/usr/bin/bash".to_vec(), ..test.clone() },
            Offer { namespaces: elsewhere, ..test.clone() },
            Offer { namespaces: Namespaces { unknown: true, ..Namespaces::default() }, ..test.clone() },
        ] {
            assert!(!is_test_crash(&other), "{other:?}");
        }
        assert!(COMM.len() <= 15, "the kernel truncates longer names");
    }
}
