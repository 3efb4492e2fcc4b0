//! coreward(1), one page for all verbs. The verbs and options come from the definition of the command line, the sections after
//! them from man/coreward.1.tail.

use clap::Command;
use clap_mangen::Man;
use std::io;

const TAIL: &str = include_str!("../../man/coreward.1.tail");
/// Verbs that only units and packages use. `--help` hides them; the manual describes them.
const HIDDEN_IN_HELP: [&str; 6] = ["register", "unregister", "dispatch-events", "run-hooks", "complete", "generate"];

/// The manual page of `command`, in man(7) macros.
pub(super) fn page(command: &Command) -> io::Result<Vec<u8>> {
    // An empty date, so that builds are reproducible.
    let source = format!("coreward {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone().disable_help_flag(true).disable_version_flag(true))
        .title("COREWARD")
        .section("1")
        .date("")
        .source(source)
        .manual("Coreward");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    page.extend(without_preamble(|out| man.render_name_section(out))?);
    page.extend(b".SH SYNOPSIS\n\\fBcoreward\\fR [\\fB\\-\\-root\\fR \\fIDIR\\fR] \\fIVERB\\fR [\\fIOPTION\\fR...] [\\fIMATCH\\fR...] [\\-\\- \\fIARGUMENT\\fR...]\n");
    page.extend(without_preamble(|out| man.render_description_section(out))?);
    page.extend(b".SH VERBS\n");
    for verb in command.get_subcommands() {
        section(verb, &mut page)?;
    }
    page.extend(without_preamble(|out| man.render_options_section(out))?);
    page.extend(TAIL.as_bytes());
    Ok(page)
}

fn section(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = verb.get_name().to_owned();
    if verb.is_hide_set() && !HIDDEN_IN_HELP.contains(&name.as_str()) {
        return Ok(());
    }
    let verb = verb.clone().disable_help_flag(true).bin_name(format!("coreward {name}"));
    page.extend(format!(".SS \"coreward {name}\"\n").bytes());
    page.extend(synopsis(&verb).bytes());
    let verb = Man::new(verb);
    page.extend(b".PP\n");
    page.extend(without_heading(|out| verb.render_description_section(out))?);
    page.extend(without_heading(|out| verb.render_options_section(out))?);
    Ok(())
}

/// How the verb is called, as `--help` shows it: clap_mangen leaves out "--", "..." and what is required.
fn synopsis(verb: &Command) -> String {
    let usage = verb.clone().render_usage().to_string();
    format!("{}\n", usage.trim_start_matches("Usage: ").replace('\\', "\\e").replace('-', "\\-"))
}

/// A section without the preamble that the roff crate puts in front of all output; the title has it already.
fn without_preamble(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    render(&mut out)?;
    let text = String::from_utf8_lossy(&out);
    Ok(text.find(".SH ").map_or(String::new(), |at| text[at..].to_owned()).into_bytes())
}

/// A section without preamble and heading.
fn without_heading(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let section = without_preamble(render)?;
    let end = section.iter().position(|byte| *byte == b'\n').map_or(section.len(), |end| end + 1);
    Ok(section[end..].to_vec())
}
