//! The command for operators and developers.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    coreward::cli::main(std::env::args_os())
}
