//! Long output in a pager, as systemctl(1) has it.
//!
//! Root's command has become the owner of the state directory by then, and so runs the pager as that user. A user to whom sudo(8) gives
//! this command alone must not get a shell from it, so it is less(1) in its secure mode (LESSSECURE=1), unless `SYSTEMD_PAGERSECURE` says otherwise.

use nix::unistd::{Uid, geteuid};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::process::{Child, Command, Stdio};

/// A pager that shows what is written to it.
pub(super) struct Pager(Child);

/// Options of less(1): quit if it is one screen, keep colours and the screen, chop long lines, quit at Ctrl-C.
const LESS_OPTIONS: &str = "FRSXMK";

/// What the environment says (systemctl(1), Environment).
#[derive(Default)]
struct Wishes {
    systemd_pager: Option<String>,
    pager: Option<String>,
    /// `SYSTEMD_PAGERSECURE`.
    secure: Option<String>,
    /// The command runs as another user than the one who called it, or for somebody else (sudo).
    is_privileged: bool,
}

/// The pagers to try in turn, and whether they must be secure.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    commands: Vec<Vec<String>>,
    secure: bool,
}

impl Wishes {
    fn choose(&self) -> Choice {
        let wants_secure = match self.secure.as_deref().map(str::to_lowercase).as_deref() {
            Some("0" | "no" | "n" | "false" | "f" | "off") => Some(false),
            Some(_) => Some(true),
            None => None,
        };
        let secure = wants_secure.unwrap_or(self.is_privileged);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
        let named = self.systemd_pager.as_deref().or(self.pager.as_deref()).map(words);
        let has_none = |words: &Vec<String>| words.is_empty() || words == &["cat"];
        if named.as_ref().is_some_and(has_none) {
            return Choice { commands: Vec::new(), secure };
        }
        // Of other pagers nobody knows a secure mode. One that is named together with a wish for it is trusted, as by systemd.
        let named = named.filter(|_| !secure || wants_secure.is_some());
        let fallbacks: &[&str] = if secure { &["less"] } else { &["less", "more"] };
        let commands = named.into_iter().chain(fallbacks.iter().map(|name| words(name))).collect();
        Choice { commands, secure }
    }
}

impl Pager {
    /// Starts a pager if standard output is a terminal. `caller` is who called this command.
    pub(super) fn start(caller: Uid) -> Option<Self> {
        if !io::stdout().is_terminal() || env::var("TERM").is_ok_and(|term| term == "dumb") {
            return None;
        }
        let wishes = Wishes {
            systemd_pager: env::var("SYSTEMD_PAGER").ok(),
            pager: env::var("PAGER").ok(),
            secure: env::var("SYSTEMD_PAGERSECURE").ok(),
            is_privileged: geteuid() != caller || caller.is_root() || env::var_os("SUDO_UID").is_some(),
        };
        let Choice { commands, secure } = wishes.choose();
        commands.iter().find_map(|words| Some(Self(spawn(words, secure)?)))
    }

    /// Waits until the user has seen it all.
    pub(super) fn finish(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn spawn(words: &[String], secure: bool) -> Option<Child> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    let options = env::var("SYSTEMD_LESS").unwrap_or_else(|_| LESS_OPTIONS.to_owned());
    let charset = env::var("SYSTEMD_LESSCHARSET").unwrap_or_else(|_| "utf-8".to_owned());
    command.args(arguments).env("LESS", options).env("LESSCHARSET", charset).stdin(Stdio::piped());
    if secure {
        // Programs that less would start, and files of the caller's that it would read or write as another user.
        command.env("LESSSECURE", "1").env("LESSHISTFILE", "-").env_remove("LESSOPEN").env_remove("LESSCLOSE");
        command.env_remove("LESSKEY").env_remove("LESSKEYIN").env_remove("LESSKEY_CONTENT").env_remove("LESSEDIT");
    }
    command.spawn().ok()
}

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.stdin.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |stdin| stdin.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.stdin.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(choice: &Choice) -> Vec<&str> {
        choice.commands.iter().map(|words| words[0].as_str()).collect()
    }

    #[test]
    fn the_pager_is_the_one_that_systemctl_would_take() {
        assert_eq!(names(&Wishes::default().choose()), ["less", "more"]);
        let both =
            Wishes { systemd_pager: Some("most -x".to_owned()), pager: Some("lv".to_owned()), ..Wishes::default() };
        assert_eq!(both.choose().commands[0], ["most", "-x"]);
        for none in ["", "cat"] {
            assert_eq!(
                names(
                    &Wishes { systemd_pager: Some(none.to_owned()), pager: Some("lv".to_owned()), ..Wishes::default() }
                        .choose()
                ),
                [""; 0]
            );
        }
    }

    #[test]
    fn with_privileges_it_is_less_in_its_secure_mode() {
        let root = Wishes { pager: Some("vim -".to_owned()), is_privileged: true, ..Wishes::default() };
        assert_eq!((names(&root.choose()), root.choose().secure), (vec!["less"], true));
        let trusted = Wishes { secure: Some("1".to_owned()), ..root };
        assert_eq!((names(&trusted.choose()), trusted.choose().secure), (vec!["vim", "less"], true));
        let off = Wishes { secure: Some("0".to_owned()), ..trusted };
        assert_eq!((names(&off.choose()), off.choose().secure), (vec!["vim", "less", "more"], false));
    }
}
