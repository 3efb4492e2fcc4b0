//! The daemon that systemd starts.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    coreward::daemon::main()
}
