//! `coreward completions` and `coreward generate`: what is made from the command line's own description.

use super::{Arguments, CliError, man};
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `completions`.
#[derive(Args, Debug)]
pub(super) struct Completions {
    /// The shell; the script goes where that shell looks for it
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Options of `generate`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// What to write
    what: What,
    /// Where to; the directory is made if it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// coreward.1
    Man,
    /// coreward.bash, _coreward (zsh) and coreward.fish
    Completions,
}

/// Those that Debian's packages have a place for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

pub(super) fn completions(options: &Completions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    out.write_all(&script(options.shell))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(options: Options) -> Result<ExitCode, CliError> {
    let dir = options.dir;
    fs::create_dir_all(&dir).map_err(|error| CliError::File { path: dir.clone(), error })?;
    match options.what {
        What::Man => write(&dir, "coreward.1", &man::page()?)?,
        What::Completions => {
            for shell in SHELLS {
                write(&dir, file_name(shell), &script(shell))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<(), CliError> {
    let path = dir.join(name);
    fs::write(&path, content).map_err(|error| CliError::File { path, error })
}

fn script(shell: Shell) -> Vec<u8> {
    // In memory: clap_complete panics where its output can't be written.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "coreward", &mut script);
    script
}

fn file_name(shell: Shell) -> &'static str {
    match shell {
        Shell::Zsh => "_coreward",
        Shell::Fish => "coreward.fish",
        _ => "coreward.bash",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_its_script_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("deep/er");
        run(Options { what: What::Completions, dir: to.clone() }).unwrap();
        run(Options { what: What::Man, dir: to.clone() }).unwrap();
        for name in ["coreward.bash", "_coreward", "coreward.fish", "coreward.1"] {
            let text = fs::read_to_string(to.join(name)).unwrap();
            assert!(
                text.contains("--no-legend") || text.contains("no-legend") || text.contains(r"\-\-no\-legend"),
                "{name}"
            );
        }
    }
}
