//! coreward(1): one page with all verbs. Flags and their words come from the command line's description, what has no place
//! there from man/coreward.1.tail.

use super::Arguments;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io;

const TAIL: &str = include_str!("../../man/coreward.1.tail");
/// Hidden in the help because only units and packages use them; a manual hides nothing.
const SHOWN_HERE: [&str; 3] = ["register", "unregister", "generate"];

/// The page, in man(7)'s macros.
pub(super) fn page() -> io::Result<Vec<u8>> {
    let command = Arguments::command();
    // An empty date: the same source makes the same page.
    let source = format!("coreward {}", env!("CARGO_PKG_VERSION"));
    let whole = Man::new(command.clone().disable_help_flag(true).disable_version_flag(true))
        .title("COREWARD")
        .section("1")
        .date("")
        .source(source)
        .manual("Coreward");
    let mut page = Vec::new();
    whole.render_title(&mut page)?;
    page.extend(lines_of(|out| whole.render_name_section(out))?);
    page.extend(b".SH SYNOPSIS\n\\fBcoreward\\fR [\\fB\\-\\-root\\fR \\fIDIR\\fR] \\fIVERB\\fR [\\fIOPTION\\fR...] [\\fIMATCH\\fR]\n");
    page.extend(lines_of(|out| whole.render_description_section(out))?);
    page.extend(b".SH VERBS\n");
    for verb in command.get_subcommands() {
        section(verb, &mut page)?;
    }
    page.extend(lines_of(|out| whole.render_options_section(out))?);
    page.extend(TAIL.as_bytes());
    Ok(page)
}

fn section(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = verb.get_name().to_owned();
    if verb.is_hide_set() && !SHOWN_HERE.contains(&name.as_str()) {
        return Ok(());
    }
    let verb = Man::new(verb.clone().disable_help_flag(true).bin_name(format!("coreward {name}")));
    page.extend(format!(".SS \"coreward {name}\"\n").bytes());
    page.extend(body_of(|out| verb.render_synopsis_section(out))?);
    page.extend(b".PP\n");
    page.extend(body_of(|out| verb.render_description_section(out))?);
    page.extend(body_of(|out| verb.render_options_section(out))?);
    Ok(())
}

/// A section without what stands in front of every output of the roff crate; the title has that already.
fn lines_of(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    render(&mut out)?;
    let text = String::from_utf8_lossy(&out);
    Ok(text.find(".SH ").map_or(String::new(), |at| text[at..].to_owned()).into_bytes())
}

/// A section without its heading either.
fn body_of(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let section = lines_of(render)?;
    let end = section.iter().position(|byte| *byte == b'\n').map_or(section.len(), |end| end + 1);
    Ok(section[end..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_and_every_flag_is_described() {
        let page = String::from_utf8(page().unwrap()).unwrap().replace("\\-", "-");
        let command = Arguments::command();
        for verb in command.get_subcommands() {
            assert!(page.contains(&format!("coreward {}\"", verb.get_name())), "{}", verb.get_name());
            for flag in verb.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(page.contains(&format!("--{flag}")), "{flag}");
            }
        }
        assert!(page.contains("--root") && page.contains(".SH \"EXIT STATUS\""));
        assert_eq!(page.matches(".TH ").count(), 1);
    }
}
