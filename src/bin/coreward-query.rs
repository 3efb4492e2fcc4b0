//! The service that users and programs ask for crashes.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    coreward::query::main()
}
