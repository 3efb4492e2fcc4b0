//! `coreward completions` and `coreward generate`: files that are generated from the definition of the command line.

use super::error::CliError;
use super::{complete, man};
use clap::{Arg, ArgGroup, Args, Command, Id, ValueEnum};
use clap_complete::Shell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `completions`.
#[derive(Args, Debug)]
pub(super) struct CompletionsOptions {
    /// The shell; install the script where that shell loads completions from
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Options of `generate`.
#[derive(Args, Debug)]
pub(super) struct GenerateOptions {
    /// The files to write
    files: GeneratedFiles,
    /// The directory to write them to; it is created if it does not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GeneratedFiles {
    /// coreward.1
    Man,
    /// coreward.bash, _coreward (zsh) and coreward.fish
    Completions,
}

/// The shells for which Debian packages install completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Prints a script for the `command` that the program defines.
pub(super) fn completions(
    options: &CompletionsOptions,
    command: &Command,
    out: &mut dyn Write,
) -> Result<ExitCode, CliError> {
    out.write_all(&script(options.shell, command))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the files for the `command` that the program defines.
pub(super) fn run(options: GenerateOptions, command: &Command) -> Result<ExitCode, CliError> {
    let dir = options.dir;
    fs::create_dir_all(&dir).map_err(|error| CliError::File { path: dir.clone(), error })?;
    match options.files {
        GeneratedFiles::Man => write(&dir, "coreward.1", &man::page(command)?)?,
        GeneratedFiles::Completions => {
            for shell in SHELLS {
                write(&dir, file_name(shell), &script(shell, command))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<(), CliError> {
    let path = dir.join(name);
    fs::write(&path, content).map_err(|error| CliError::File { path, error })
}

fn script(shell: Shell, command: &Command) -> Vec<u8> {
    let mut command = visible(command);
    // Into memory, because clap_complete panics if its output cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "coreward", &mut script);
    let text = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => complete::for_bash(&text).into_bytes(),
        Shell::Zsh => complete::for_zsh(&text).into_bytes(),
        Shell::Fish => complete::for_fish(&text).into_bytes(),
        _ => script,
    }
}

/// The command without the verbs and options that are not for people: clap_complete would offer them.
fn visible(command: &Command) -> Command {
    let of_verb = |verb: &Command| {
        let (hidden, shown): (Vec<&Arg>, Vec<&Arg>) = verb.get_arguments().partition(|option| option.is_hide_set());
        let is_hidden = |id: &Id| hidden.iter().any(|option| option.get_id() == id);
        // Options refer to groups, which may have no members that do not exist.
        let groups = verb.get_groups().map(|group| {
            let members: Vec<Id> = group.get_args().filter(|id| !is_hidden(id)).cloned().collect();
            ArgGroup::new(group.get_id().clone()).args(members).multiple(true)
        });
        let about = verb.get_about().cloned().unwrap_or_default();
        // clap wants names that live as long as the program, which ends when the scripts are written.
        let name: &'static str = verb.get_name().to_owned().leak();
        let aliases: Vec<&'static str> = verb.get_visible_aliases().map(|alias| &*alias.to_owned().leak()).collect();
        Command::new(name).about(about).visible_aliases(aliases).args(shown).groups(groups)
    };
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(of_verb);
    Command::new("coreward").version(env!("CARGO_PKG_VERSION")).args(command.get_arguments()).subcommands(verbs)
}

fn file_name(shell: Shell) -> &'static str {
    match shell {
        Shell::Zsh => "_coreward",
        Shell::Fish => "coreward.fish",
        _ => "coreward.bash",
    }
}
