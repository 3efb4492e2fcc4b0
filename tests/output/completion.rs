//! What bash, zsh and fish offer at the tab key: the shells themselves are run.

use crate::{Machine, run};
use std::path::Path;
use tempfile::TempDir;

const COREWARD: &str = env!("CARGO_BIN_EXE_coreward");

/// A machine with crashes, and a directory with the command as it is called there, and the scripts.
struct Shells {
    _machine: Machine,
    dir: TempDir,
}

impl Shells {
    fn new() -> Self {
        let machine = Machine::with_crashes();
        let dir = tempfile::tempdir().unwrap();
        let command = dir.path().join("coreward");
        let text = format!("#!/bin/sh\nexec {COREWARD} --root {} \"$@\"\n", machine.root().path().display());
        std::fs::write(&command, text).unwrap();
        std::fs::set_permissions(&command, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let generated = run(COREWARD, &["generate", "completions", dir.path().to_str().unwrap()]);
        assert!(generated.status.success(), "{generated:?}");
        Self { _machine: machine, dir }
    }

    /// Runs a script with the directory and a command line as arguments, and returns the lines that it prints.
    #[track_caller]
    fn ask(&self, shell: &[&str], script: &str, line: &str) -> Vec<String> {
        let dir = self.dir.path().to_str().unwrap();
        let (program, options) = shell.split_first().unwrap();
        let output = run(program, &[options, &[script], &["shell"], &[dir, line]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

/// What each shell must offer for a line that ends at the cursor, and nothing else; with `...` more is offered.
const EXPECTED: [(&str, &[&str]); 17] = [
    ("coreward selft", &["selftest"]),
    ("coreward info 1f00c0de00000002", &["1f00c0de00000002"]),
    ("coreward info 1f00c0de", &["1f00c0de00000001", "1f00c0de00000002"]),
    ("coreward dump 1f00c0de", &["1f00c0de00000001", "1f00c0de00000002"]),
    ("coreward gdb /usr/sbin/ng", &["/usr/sbin/nginx"]),
    ("coreward list ngi", &["nginx.service"]),
    ("coreward watch edi", &["editor.service"]),
    ("coreward rm ngi", &["nginx.service"]),
    ("coreward list --unit ngi", &["nginx.service"]),
    ("coreward list --no-l", &["--no-legend"]),
    ("coreward usage --by exe", &["executable"]),
    ("coreward list -o func", &["function"]),
    ("coreward list --fields COREDUMP_CMD", &["COREDUMP_CMDLINE"]),
    ("coreward watch -o sig", &["sig", "signature", "..."]),
    ("coreward list -F COREDUMP_CM", &["COREDUMP_CMDLINE"]),
    ("coreward groups -o cou", &["count"]),
    ("coreward completions fis", &["fish"]),
];

/// Compares what a shell offers, which `strip` makes comparable.
#[track_caller]
fn assert_offers(shell: &str, line: &str, expected: &[&str], mut offered: Vec<String>) {
    offered.sort();
    offered.dedup();
    if let Some((_, some)) = expected.split_last().filter(|(last, _)| **last == "...") {
        assert!(some.iter().all(|word| offered.iter().any(|offer| offer == word)), "{shell}: {line}: {offered:?}");
    } else {
        assert_eq!(offered, expected, "{shell}: {line}");
    }
}

#[test]
fn what_help_hides_is_not_offered() {
    let shells = Shells::new();
    for name in ["coreward.bash", "_coreward", "coreward.fish"] {
        let script = std::fs::read_to_string(shells.dir.path().join(name)).unwrap();
        for hidden in ["run-hooks", "dispatch-events", "unregister", "--image", "-l image", "--boot", "-l boot"] {
            assert!(!script.contains(hidden), "{name}: {hidden}");
        }
    }
}

/// Nothing is offered that a shell would expand or that a terminal would obey.
#[track_caller]
fn assert_plain(shell: &str, offered: &[String]) {
    assert!(offered.contains(&"nginx.service".to_owned()), "{shell}: {offered:?}");
    assert!(!offered.iter().any(|word| word.contains(['\\', ' ', '(', '$', '\x1b'])), "{shell}: {offered:?}");
}

/// The shell splits words itself, as it does for a user: readline(3) calls the function with the same variables.
const BASH: &str = r#"
PATH=$1:/usr/bin:/bin
source "$1/coreward.bash"
COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9 COMP_KEY=9
read -r -a words <<<"${2//[=:@]/ & }"
[[ $2 == *" " ]] && words+=("")
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
_coreward_with_crashes coreward "${words[COMP_CWORD]}" "${words[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes_verbs_options_crashes_and_columns() {
    let shells = Shells::new();
    let ask = |line: &str| shells.ask(&["bash", "-c"], BASH, line);
    for (line, expected) in EXPECTED {
        assert_offers("bash", line, expected, ask(line));
    }
    assert_plain("bash", &ask("coreward info "));
    let own = std::process::id().to_string();
    assert!(ask(&format!("coreward dump {own}")).contains(&own));
    assert_eq!(ask("coreward list --unit=ngi"), ["nginx.service"]);
    assert_eq!(ask("coreward list -o id,func"), ["id,function"]);
    assert_eq!(ask("coreward list --fields=id,func"), ["id,function"]);
    // The file that a core is written to.
    assert!(!ask("coreward dump -o ").contains(&"function".to_owned()));
}

/// An interactive zsh on a pseudo-terminal (zsh/zpty), in which the builtin that adds matches writes them down.
const ZSH: &str = r#"
zmodload zsh/zpty
dir=$1
setup=$dir/setup.zsh
cat >$setup <<EOF
PROMPT= RPROMPT= PATH=$dir:/usr/bin:/bin
fpath=($dir \$fpath)
autoload -Uz compinit && compinit -u -d $dir/dump
compadd() {
    local -a found
    if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "\$@"
        return
    fi
    builtin compadd -A found "\$@"
    (( \$#found )) && print -rl -- \$found >>$dir/offered
    builtin compadd "\$@"
}
done_now() { : >$dir/done }
comppostfuncs=(done_now)
zstyle ':completion:*' list-prompt ''
LISTMAX=10000
bindkey '^I' complete-word
: >$dir/ready
EOF
rm -f $dir/offered $dir/done $dir/ready
zpty shell zsh -f -i
zpty -w shell "source $setup"
wait_for() {
    local file=$1 some
    for _ in {1..400}; do
        while zpty -r -t shell some; do :; done 2>/dev/null
        [[ -e $file ]] && return
        sleep 0.05
    done
    print "nothing comes: $file"
}
wait_for $dir/ready
zpty -w -n shell "$2"$'\t'
comppostfuncs=()
wait_for $dir/done
zpty -d shell
[[ ! -e $dir/offered ]] || cat $dir/offered
"#;

#[test]
fn zsh_completes_verbs_options_crashes_and_columns() {
    let shells = Shells::new();
    let ask = |line: &str| shells.ask(&["zsh", "-f", "-c"], ZSH, line);
    for (line, expected) in EXPECTED {
        assert_offers("zsh", line, expected, ask(line));
    }
    assert_plain("zsh", &ask("coreward info "));
    let own = std::process::id().to_string();
    assert!(ask(&format!("coreward dump {own}")).contains(&own));
    assert_eq!(ask("coreward list --unit=ngi"), ["nginx.service"]);
    assert_eq!(ask("coreward list -o id,func"), ["function"]);
    assert!(!ask("coreward dump -o ").contains(&"function".to_owned()));
}

const FISH: &str = "set -gx PATH $argv[2] /usr/bin /bin; source $argv[2]/coreward.fish; complete -C $argv[3]";

#[test]
fn fish_completes_verbs_options_crashes_and_columns() {
    let shells = Shells::new();
    let home = shells.dir.path().to_str().unwrap();
    let variables = ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| format!("{name}={home}"));
    let fish: Vec<&str> =
        ["env"].into_iter().chain(variables.iter().map(String::as_str)).chain(["fish", "-c"]).collect();
    // A word, and after a tab what it is.
    let ask = |line: &str| -> Vec<String> {
        let offered = shells.ask(&fish, FISH, line).into_iter();
        offered.map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    };
    for (line, expected) in EXPECTED {
        assert_offers("fish", line, expected, ask(line));
    }
    assert_plain("fish", &ask("coreward info "));
    let own = std::process::id().to_string();
    assert!(ask(&format!("coreward dump {own}")).contains(&own));
    assert_eq!(ask("coreward list --unit=ngi"), ["--unit=nginx.service"]);
    assert_eq!(ask("coreward list -o id,func"), ["id,function"]);
    assert!(!ask("coreward dump -o ").contains(&"function".to_owned()));
    assert!(Path::new(home).join("coreward.fish").exists());
}
