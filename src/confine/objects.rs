//! Files, networks and signals, which a filter of system calls cannot tell apart.

use super::missing::Missing;
use landlock::{ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, Scope};

/// The newest version that the crate knows. Of an older kernel it takes what is there.
const NEWEST: ABI = ABI::V10;

/// Denies the calling thread, and those that it starts, to open, make or change any file, to use TCP, to send signals to other
/// processes than itself, and to connect to abstract sockets. What is open stays usable. Returns what the kernel lacks of it.
///
/// # Errors
/// The kernel refused it.
pub(super) fn deny_objects() -> Result<Vec<Missing>, RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => ABI::Unsupported,
    };
    let since = [(ABI::V1, Missing::Files), (ABI::V4, Missing::Network), (ABI::V6, Missing::Signals)];
    Ok(since.into_iter().filter(|(first, _)| abi < *first).map(|(_, missing)| missing).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{in_child, run_in_child, succeed};
    use super::*;
    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::unistd::getppid;
    use std::fs::File;
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    #[test]
    fn what_is_open_stays_usable_and_nothing_else_is_in_reach() {
        const TEST: &str = "confine::objects::tests::what_is_open_stays_usable_and_nothing_else_is_in_reach";
        if !in_child() {
            run_in_child(TEST);
            return;
        }
        let program = std::env::current_exe().unwrap();
        let open = tempfile::tempfile().unwrap();
        open.write_all_at(b"content", 0).unwrap();
        // Somebody else's memory, as a reader gets it.
        let [memory, maps] = ["mem", "maps"].map(|name| File::open(format!("/proc/{}/{name}", getppid())).unwrap());
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let abstract_name = SocketAddr::from_abstract_name(format!("coreward-test-{}", std::process::id())).unwrap();
        // A socket belongs to the confinement in which it was made, here to none.
        let _abstract_server = UnixListener::bind_addr(&abstract_name).unwrap();

        let missing = deny_objects().unwrap();

        let mut buffer = [0; 7];
        open.read_exact_at(&mut buffer, 0).unwrap();
        open.set_len(3).unwrap();
        assert_eq!(&buffer, b"content");
        let mappings = io::read_to_string(maps).unwrap();
        let first = u64::from_str_radix(mappings.split('-').next().unwrap(), 16).unwrap();
        memory.read_exact_at(&mut buffer, first).unwrap();
        let refused = |result: io::Result<()>, why: Errno| match result {
            Err(error) => assert_eq!(error.raw_os_error(), Some(why as i32), "{error}"),
            Ok(()) => panic!("allowed"),
        };
        if !missing.contains(&Missing::Files) {
            refused(File::open(&program).map(drop), Errno::EACCES);
            refused(tempfile::tempfile().map(drop), Errno::EACCES);
            refused(std::fs::read_dir("/").map(drop), Errno::EACCES);
            refused(std::fs::create_dir(std::env::temp_dir().join("coreward-test-confined")), Errno::EACCES);
            refused(std::process::Command::new("/bin/true").spawn().map(drop), Errno::EACCES);
        }
        if !missing.contains(&Missing::Network) {
            refused(TcpStream::connect(server.local_addr().unwrap()).map(drop), Errno::EACCES);
            refused(TcpListener::bind("127.0.0.1:0").map(drop), Errno::EACCES);
        }
        if !missing.contains(&Missing::Signals) {
            refused(kill(getppid(), None).map_err(io::Error::from), Errno::EPERM);
            refused(UnixStream::connect_addr(&abstract_name).map(drop), Errno::EPERM);
        }
        succeed();
    }
}
