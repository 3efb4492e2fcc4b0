//! `coreward complete`: what completion scripts offer for a crash or a unit.

use super::error::CliError;
use super::time;
use crate::store::{self, CrashRow, Filter};
use clap::{Args, ValueEnum};
use coreward_wire::paths::Root;
use std::collections::BTreeSet;
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
    /// Units
    Unit,
}

/// Crashes that are looked at, the newest: a completion must be fast.
const MAX_ROWS: usize = 500;
/// Ids that are offered.
const MAX_IDS: usize = 20;

/// Writes a word a line, for an id followed by a tab and what crashed. Says nothing where there is nothing to offer.
pub(super) fn run(root: &Root, options: &CompleteOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (mut ids, mut units, mut programs) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let filter = Filter { limit: Some(MAX_ROWS), ..Filter::default() };
    let mut add = |row: &CrashRow<'_>| {
        if is_plain(row.id) {
            let program = if is_plain(row.program) { row.program } else { "" };
            ids.push(format!("{}\t{} {} {program}", row.id, time::short(row.time_us), row.signal_name));
        }
        units.extend(Some(row.unit).filter(|unit| is_plain(unit)).map(str::to_owned));
        programs.extend(Some(row.program).filter(|program| is_plain(program)).map(str::to_owned));
    };
    if store::for_each_row(root, &filter, &mut add).is_err() {
        return Ok(ExitCode::SUCCESS);
    }
    let words = match options.what {
        What::Unit => units.into_iter().collect(),
        What::Match => ids.into_iter().rev().take(MAX_IDS).chain(units).chain(programs).collect::<Vec<_>>(),
    };
    for word in words {
        writeln!(out, "{word}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a shell takes a word as it is: a process may be called `$(reboot)`, and the user only presses the tab key.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:@%+-".contains(&byte))
}

/// Verbs whose argument is a MATCH.
const VERBS: [&str; 11] = ["list", "watch", "info", "export", "dump", "debug", "gdb", "report", "pin", "unpin", "rm"];

/// Lets the script that clap wrote for bash ask [`run`]. The words are compared and not expanded.
pub(super) fn for_bash(script: &str) -> String {
    let verbs = VERBS.join("|");
    format!(
        r#"{script}
# Ids, units and executables of crashes.
_coreward_with_crashes() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} what= word rest
    if [[ $before == --unit ]]; then
        what=unit
    elif [[ $COMP_CWORD -gt 1 && $current != -* ]]; then
        case ${{COMP_WORDS[1]}} in {verbs}) [[ $before == --* ]] || what=match ;; esac
    fi
    COMPREPLY=()
    if [[ $what ]]; then
        while IFS=$'\t' read -r word rest; do
            [[ $word == "$current"* ]] && COMPREPLY+=("$word")
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
        "{script}\n# Ids, units and executables of crashes.\n\
         complete -c coreward -n \"__fish_seen_subcommand_from {verbs}\" -f -a \"(coreward complete match 2>/dev/null)\"\n\
         complete -c coreward -l unit -x -a \"(coreward complete unit 2>/dev/null)\"\n"
    )
}

/// The same for zsh: the arguments that are a MATCH, and `--unit`, have actions of their own.
pub(super) fn for_zsh(script: &str) -> String {
    let lines = script.lines().map(|line| {
        let action = match line.trim_start() {
            argument if argument.starts_with("'::name -- ") || argument.starts_with("'*::names -- ") => {
                "_coreward_match"
            }
            argument if argument.starts_with("'*:names -- ") => "_coreward_match",
            argument if argument.starts_with("'--unit=") => "_coreward_unit",
            _ => return format!("{line}\n"),
        };
        format!("{}\n", line.replace(":_default'", &format!(":{action}'")))
    });
    let script: String = lines.collect();
    let functions = "_coreward_match() {\n    compadd -- ${(f)\"$(coreward complete match 2>/dev/null | cut -f 1)\"}\n}\n\
                     _coreward_unit() {\n    compadd -- ${(f)\"$(coreward complete unit 2>/dev/null)\"}\n}\n\n_coreward() {";
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
