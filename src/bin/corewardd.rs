//! The daemon that systemd starts.

fn main() -> std::process::ExitCode {
    coreward::daemon::main()
}
