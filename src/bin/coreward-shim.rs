//! The program that the kernel starts for every crash.

fn main() -> std::process::ExitCode {
    coreward::shim::run(std::env::args_os())
}
