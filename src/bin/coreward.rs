//! The command for operators and developers.

fn main() -> std::process::ExitCode {
    coreward::cli::main(std::env::args_os())
}
