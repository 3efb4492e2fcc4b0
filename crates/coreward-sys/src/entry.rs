//! What a runtime does before `main`, for a program that starts without one: the kernel starts the shim for every crash, and
//! the usual beginning (an alternate signal stack, the bounds of the main stack out of `/proc/self/maps`) costs as much as a
//! third of its work.

use nix::fcntl::{OFlag, open};
use nix::libc::{self, c_char, c_int};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::dup;
use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;

/// Makes C's `main` of a function that takes the arguments and gives the exit status: of a program with `#![no_main]`.
#[macro_export]
macro_rules! c_main {
    ($run:path) => {
        // SAFETY: a program has one main: another symbol of the name would not link.
        #[unsafe(no_mangle)]
        extern "C" fn main(argc: std::ffi::c_int, argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: the C runtime calls this first, alone and once, with the arguments of the program.
            let arguments = unsafe {
                $crate::entry::prepare();
                $crate::entry::arguments(argc, argv)
            };
            std::ffi::c_int::from($run(arguments.into_iter()))
        }
    };
}

/// The arguments that C's `main` was given.
///
/// # Safety
/// `argv` has `argc` strings.
pub unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    let count = usize::try_from(argc).unwrap_or(0);
    let text = |index| {
        // SAFETY: the caller says that there are so many, and that they are strings.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
        OsStr::from_bytes(argument.to_bytes()).to_owned()
    };
    (0..count).map(text).collect()
}

/// Makes the beginning safe: a broken stream is an error and no SIGPIPE, and descriptors 0 to 2 are taken. The kernel opens
/// standard input only (umh_coredump_setup, fs/coredump.c): what is opened next would be written to as standard error.
///
/// # Safety
/// Nothing else runs in this process yet.
pub unsafe fn prepare() {
    // SAFETY: no handler is installed, and no other thread could see the change half done.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // SAFETY: poll(2) says which of them are not open; nothing else is done with these.
    let standard = [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    let mut polled = standard.map(|fd| PollFd::new(fd, PollFlags::empty()));
    let asked = poll(&mut polled, PollTimeout::ZERO);
    let is_missing = |fd: &&PollFd<'_>| fd.revents().is_none_or(|events| events.contains(PollFlags::POLLNVAL));
    let missing = polled.iter().filter(is_missing).count();
    if asked.is_ok() && missing == 0 {
        return;
    }
    // The lowest free number is taken first.
    let Ok(null) = open("/dev/null", OFlag::O_RDWR, Mode::empty()) else { std::process::abort() };
    for _ in 1..missing {
        let Ok(copy) = dup(&null) else { std::process::abort() };
        let _ = copy.into_raw_fd();
    }
    let _ = null.into_raw_fd();
}
