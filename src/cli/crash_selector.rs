//! The argument MATCH of the verbs that work on one crash.

use crate::crash::text::from_bytes;
use crate::store::{MATCH_FIELDS, field_of_match};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::os::unix::ffi::OsStrExt;

/// One crash, as it is named on the command line.
#[derive(Args, Debug, Default)]
pub(super) struct CrashSelector {
    /// Id, PID, executable path, unit, process name, signature, or prefix of an id [default: the newest crash]
    ///
    /// The first of these that any crash has is meant: an id, then a PID, then a name, then a prefix, which must be that of one id
    /// only. If several crashes match, the newest is meant. A unit may be one of a user's service manager; ".service" may be
    /// omitted.
    #[arg(value_name = "MATCH", value_parser = match_parser())]
    pub(super) name: Option<String>,
    /// Only crashes in this container, given its name, id or a prefix of the id
    #[arg(long, short = 'M', visible_alias = "machine", value_name = "CONTAINER", value_parser = name_parser())]
    pub(super) container: Option<String>,
    #[command(flatten)]
    one: OneCrash,
}

/// Options that users of coredumpctl(1) type with a verb that is about one crash.
#[derive(Args, Debug, Default)]
pub(super) struct OneCrash {
    /// The newest crash is meant anyway; coredumpctl(1) has this option
    #[arg(short = '1', hide = true)]
    pub(super) newest: bool,
    /// Nothing is said of crashes that do not match; coredumpctl(1) has this option
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[command(flatten)]
    foreign: ForeignOptions,
    #[arg(value_name = "MATCH", hide = true, value_parser = refuse("this verb is about one crash: `coreward list` takes several matches and shows the ids"))]
    others: Vec<String>,
    #[arg(long, short = 'S', hide = true, value_name = "TIME", allow_hyphen_values = true, value_parser = refuse(TIME_OF_LIST))]
    since: Option<String>,
    #[arg(long, short = 'U', hide = true, value_name = "TIME", allow_hyphen_values = true, value_parser = refuse(TIME_OF_LIST))]
    until: Option<String>,
}

const TIME_OF_LIST: &str = "only `coreward list` selects by time: give one of the ids that it shows";

/// Options that users of coredumpctl(1) and journalctl(1) type, and that have no use here: the catalog has all crashes.
#[derive(Args, Debug, Default)]
pub(super) struct ForeignOptions {
    #[arg(long, hide = true)]
    all: bool,
    #[arg(long = "file", id = "journal_file", value_name = "GLOB", hide = true, value_parser = refuse(FILE))]
    file: Option<String>,
    #[arg(long, value_name = "PATH", hide = true, value_parser = refuse(IMAGE))]
    image: Option<String>,
    #[arg(long, short, hide = true, num_args = 0..=1, default_missing_value = "", allow_hyphen_values = true, value_parser = refuse(BOOT))]
    boot: Option<String>,
}

const FILE: &str = "crashes are in Coreward's catalog and not in files of the journal: --root DIR reads the catalog of another machine";
const IMAGE: &str = "mount the image (systemd-dissect --mount), and name its root directory with --root";
const BOOT: &str = "crashes are selected by time: `coreward list --since \"$(uptime -s)\"` shows those since the boot";

/// A parser that explains why there is no such option.
pub(super) fn refuse(why: &'static str) -> impl Fn(&str) -> Result<String, &'static str> + Clone {
    move |_| Err(why)
}

impl CrashSelector {
    /// The newest crash with this name.
    pub(super) fn named(name: Option<String>) -> Self {
        Self { name, ..Self::default() }
    }
}

/// Parses a MATCH, in which a field must be one that crashes can be selected by.
pub(super) fn match_parser() -> impl TypedValueParser<Value = String> {
    text_parser().try_map(|text| match field_of_match(&text) {
        Some(Err(field)) => Err(format!("no crash is selected by {field}: {}", MATCH_FIELDS.join(", "))),
        _ if text.contains('\n') => Err("a MATCH has no newline; --executable of list takes any path".to_owned()),
        _ => Ok(text),
    })
}

/// Parses the name of what crashes happened in. An empty one, as of a variable that is not set, would be the beginning of every name.
pub(super) fn name_parser() -> impl TypedValueParser<Value = String> {
    text_parser().try_map(|text| if text.is_empty() { Err("a name that is empty") } else { Ok(text) })
}

/// Parses an argument into text as records have it: it need not be UTF-8.
pub(super) fn text_parser() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|argument| from_bytes(argument.as_bytes()))
}
