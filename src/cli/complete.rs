//! `coreward complete`: what completion scripts offer for a crash or a unit.

use super::crash_columns::CrashColumn;
use super::error::CliError;
use super::{lookup, record_field, time};
use crate::store::{CrashRow, Filter};
use clap::{Args, ValueEnum};
use coreward_wire::paths::Root;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::process::ExitCode;

/// Options of `complete`.
#[derive(Args, Debug)]
pub(super) struct CompleteOptions {
    /// What is completed
    #[arg(value_name = "WHAT")]
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// A MATCH: ids, units and executables
    Match,
    /// A living process, or a MATCH
    Process,
    /// Units
    Unit,
    /// Columns of lists
    Column,
    /// Fields of records
    Field,
}

/// Crashes that are looked at, the newest: a completion must be fast.
const MAX_ROWS: usize = 500;
/// Ids that are offered.
const MAX_IDS: usize = 20;

/// Writes a word a line, for an id followed by a tab and what crashed. Says nothing where there is nothing to offer.
pub(super) fn run(root: &Root, options: &CompleteOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    match options.what {
        What::Column => return write(CrashColumn::names(), out),
        What::Field => return write(record_field::names(), out),
        What::Process => _ = write(processes(), out)?,
        What::Match | What::Unit => {}
    }
    let (mut ids, mut units, mut programs) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let filter = Filter { limit: Some(MAX_ROWS), ..Filter::default() };
    let mut add = |row: &CrashRow<'_>| {
        if is_plain(row.id) {
            // Another machine's record may have anything as the name of its signal.
            let [signal, program] = [row.signal_name, row.program].map(|word| if is_plain(word) { word } else { "" });
            ids.push(format!("{}\t{} {signal} {program}", row.id, time::short(row.time_us)));
        }
        units.extend(Some(row.unit).filter(|unit| is_plain(unit)).map(str::to_owned));
        programs.extend(Some(row.program).filter(|program| is_plain(program)).map(str::to_owned));
    };
    if lookup::for_each_row(root, &filter, &mut add).is_err() {
        return Ok(ExitCode::SUCCESS);
    }
    if options.what == What::Unit {
        return write(units, out);
    }
    write(ids.into_iter().rev().take(MAX_IDS).chain(units).chain(programs), out)
}

fn write(words: impl IntoIterator<Item: Display>, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    for word in words {
        writeln!(out, "{word}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The PIDs of all programs, each with a tab and the name of its process.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        // Threads of the kernel have no command line.
        fs::read(entry.path().join("cmdline")).ok().filter(|line| !line.is_empty())?;
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some((pid, Some(name.trim_end()).filter(|name| is_plain(name)).unwrap_or_default().to_owned()))
    };
    let processes: BTreeMap<u32, String> = entries.filter_map(process).collect();
    processes.into_iter().map(|(pid, name)| format!("{pid}\t{name}")).collect()
}

/// Whether a shell takes a word as it is: a process may be called `$(reboot)`, and the user only presses the tab key.
fn is_plain(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('-')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:@%+-".contains(&byte))
}

/// Verbs whose argument is a MATCH. That of `dump` may be a process.
const VERBS: [&str; 10] = ["list", "watch", "info", "export", "debug", "gdb", "report", "pin", "unpin", "rm"];

/// Lets the script that clap wrote for bash ask [`run`]. The words are compared and not expanded. Bash splits words at `=`, `@` and `:`
/// (COMP_WORDBREAKS): what stands before the last of those is put together here, and cut off again from what is offered.
pub(super) fn for_bash(script: &str) -> String {
    let verbs = VERBS.join("|");
    format!(
        r#"{script}
# Ids, units and executables of crashes, columns and fields.
_coreward_with_crashes() {{
    local line=${{COMP_LINE:0:COMP_POINT}} last=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}}
    local current=${{line##*[[:space:]]}} before what= word rest kept list=
    [[ $last == [=:@] ]] && last=
    before=${{line%"$current"}}
    before=${{before%"${{before##*[![:space:]]}}"}}
    before=${{before##*[[:space:]]}}
    if [[ $current == --*=* ]]; then
        before=${{current%%=*}} current=${{current#*=}}
    fi
    case $verb,$before in
        *,--unit) what=unit ;;
        list,-o | list,--fields | watch,-o | watch,--fields) what=column ;;
        list,-F | list,--field) what=field ;;
        *,--*) ;;
        *) [[ $COMP_CWORD -gt 1 && $current != -* ]] && case $verb in {verbs}) what=match ;; dump) what=process ;; esac ;;
    esac
    if [[ $what == column || $what == field ]] && [[ $current == *,* ]]; then
        list=${{current%,*}},
    fi
    COMPREPLY=()
    if [[ $what ]]; then
        kept=${{current%"$last"}}
        while IFS=$'\t' read -r word rest; do
            word=$list$word
            [[ $word == "$current"* ]] && COMPREPLY+=("${{word#"$kept"}}")
        done < <(coreward complete "$what" 2>/dev/null)
    fi
    [[ ${{#COMPREPLY[@]}} -gt 0 ]] || _coreward "$@"
}}
complete -F _coreward_with_crashes -o bashdefault -o default coreward
"#
    )
}

/// The same for fish.
pub(super) fn for_fish(script: &str) -> String {
    let verbs = VERBS.join(" ");
    format!(
        "{script}\n# Ids, units and executables of crashes, columns and fields.\n\
         complete -c coreward -n \"__fish_seen_subcommand_from {verbs}\" -f -a \"(coreward complete match 2>/dev/null)\"\n\
         complete -c coreward -n \"__fish_seen_subcommand_from dump\" -f -a \"(coreward complete process 2>/dev/null)\"\n\
         complete -c coreward -n \"__fish_seen_subcommand_from list watch\" -l unit -x -a \"(coreward complete unit 2>/dev/null)\"\n\
         complete -c coreward -n \"__fish_seen_subcommand_from list watch\" -s o -l fields -x -a \"(__fish_complete_list , 'coreward complete column 2>/dev/null')\"\n\
         complete -c coreward -n \"__fish_seen_subcommand_from completions\" -f -a \"bash elvish fish powershell zsh\"\n\
         complete -c coreward -n \"__fish_seen_subcommand_from list\" -s F -l field -x -a \"(__fish_complete_list , 'coreward complete field 2>/dev/null')\"\n"
    )
}

/// How the lines of clap's script for zsh begin that are about a MATCH.
const MATCHES: [&str; 3] = ["'::name -- ", "'*::names -- ", "'*:names -- "];

/// The same for zsh: the arguments that are a MATCH, `--unit`, and lists of columns and fields have actions of their own.
pub(super) fn for_zsh(script: &str) -> String {
    let lines = script.lines().map(|line| {
        let action = match line.trim_start() {
            argument if MATCHES.iter().any(|start| argument.starts_with(start)) => "_coreward_match",
            argument if argument.starts_with("'::process -- ") => "_coreward_process",
            argument if argument.starts_with("'--unit=") => "_coreward_unit",
            argument if argument.contains(":COLUMN,...:_default'") => "_coreward_column",
            argument if argument.contains(":FIELD,...:_default'") => "_coreward_field",
            // Of a list of fixed words as well, each word is completed.
            argument if argument.contains(":COLUMN,...:(") => {
                let list = line.replace(":COLUMN,...:(", ":COLUMN,...:_values -s , column ");
                return format!("{}\n", list.replace(")' \\", "' \\"));
            }
            _ => return format!("{line}\n"),
        };
        format!("{}\n", line.replace(":_default'", &format!(":{action}'")))
    });
    let script: String = lines.collect();
    let functions = "_coreward_match() {\n    compadd -- ${(f)\"$(coreward complete match 2>/dev/null | cut -f 1)\"}\n}\n\
                     _coreward_process() {\n    compadd -- ${(f)\"$(coreward complete process 2>/dev/null | cut -f 1)\"}\n}\n\
                     _coreward_unit() {\n    compadd -- ${(f)\"$(coreward complete unit 2>/dev/null)\"}\n}\n\
                     _coreward_column() {\n    _values -s , column ${(f)\"$(coreward complete column 2>/dev/null)\"}\n}\n\
                     _coreward_field() {\n    _values -s , field ${(f)\"$(coreward complete field 2>/dev/null)\"}\n}\n\n_coreward() {";
    script.replacen("_coreward() {", functions, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_expand_is_not_offered() {
        for word in ["/usr/bin/a-b_c.d", "getty@tty1.service", "0123456789abcdef", "user@1000.service"] {
            assert!(is_plain(word), "{word}");
        }
        for word in ["", "a b", "$(reboot)", "`x`", "a;b", "[kthread]", "~", "a\nb", "é", "'", "\\"] {
            assert!(!is_plain(word), "{word}");
        }
    }
}
