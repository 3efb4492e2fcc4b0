//! Reading the files: the main file, then the drop-ins.

use super::ini;
use super::keys::Key;
use super::overrides::{MACHINE_SECTION, Overrides};
use super::settings::{Config, Problem};
use coreward_wire::paths::Root;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The directories of vendor, local vendor, runtime and administrator, in rising precedence (systemd.unit(5) has the same).
const BASES: [&str; 4] = ["usr/lib", "usr/local/lib", "run", "etc"];

/// The configuration as the files have it.
#[derive(Debug, Default)]
pub struct LoadedConfig {
    /// The settings of the machine.
    pub config: Config,
    /// Settings for some units and executables.
    pub overrides: Overrides,
    /// The lines that are not in force.
    pub problems: Vec<Problem>,
    /// The files that were read, in rising precedence.
    pub files: Vec<PathBuf>,
}

/// Reads the `coreward.conf` of highest precedence and every `coreward.conf.d/*.conf`. Of drop-ins with the same file name,
/// only that of the highest precedence is read.
#[must_use]
pub fn load(root: &Root) -> LoadedConfig {
    let mut loaded = LoadedConfig::default();
    let bases: Vec<PathBuf> = BASES.iter().map(|base| root.join(base)).collect();
    let main = bases.iter().rev().map(|base| base.join("coreward/coreward.conf")).find(|path| path.exists());
    let drop_ins = liboverdrop::scan(&bases, "coreward/coreward.conf.d", &["conf"], true);
    for file in main.into_iter().chain(drop_ins.into_values()) {
        loaded.read(&file);
        loaded.files.push(file);
    }
    loaded
}

impl LoadedConfig {
    /// Puts the lines of a file in force.
    fn read(&mut self, file: &Path) {
        let problem = |line, message: String| Problem { file: file.to_owned(), line, message };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.problems.push(problem(0, format!("cannot be read and is ignored: {error}"))),
        };
        for line in ini::parse(&text) {
            let failed = match line {
                Ok(line) => self.assign(&line).err().map(|message| (line.line, message)),
                Err(bad) => Some((bad.line, format!("\"{}\" is neither a section nor Key=value: ignored", bad.text))),
            };
            self.problems.extend(failed.map(|(line, message)| problem(line, message)));
        }
    }

    fn assign(&mut self, line: &ini::Assignment) -> Result<(), String> {
        if line.section == MACHINE_SECTION {
            Key::find(&line.key)?.assign(&mut self.config, &line.value)
        } else {
            self.overrides.add(line)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::admission::Storage;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, LoadedConfig) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let loaded = load(&Root::new(dir.path()));
        (dir, loaded)
    }

    #[test]
    fn no_file_means_the_defaults() {
        let (_dir, loaded) = tree(&[]);
        assert_eq!((loaded.config, loaded.problems.len()), (Config::default(), 0));
    }

    #[test]
    fn drop_ins_override_by_name_and_order() {
        let (_dir, loaded) = tree(&[
            ("usr/lib/coreward/coreward.conf", "[Coreward]\nMaxUse=1G\n"),
            ("etc/coreward/coreward.conf", "[Coreward]\nMaxUse=2G\nKeepFree=1M\nStorage=none\n"),
            ("usr/lib/coreward/coreward.conf.d/10-a.conf", "[Coreward]\nMaxUse=3G\n"),
            ("etc/coreward/coreward.conf.d/10-a.conf", "[Coreward]\nKeepFree=5M\n"),
            ("run/coreward/coreward.conf.d/20-b.conf", "[Coreward]\nStorage=\n"),
            ("etc/coreward/coreward.conf.d/30-c.txt", "[Coreward]\nMaxUse=9G\n"),
        ]);
        assert_eq!(loaded.problems, []);
        assert_eq!((loaded.config.quotas.max_use, loaded.config.quotas.keep_free), (Some(2 << 30), Some(5 << 20)));
        assert_eq!(loaded.config.crash.storage, Storage::External, "an empty value puts the default back");
    }

    #[test]
    fn every_wrong_line_is_named_and_the_right_ones_stay() {
        let (dir, loaded) = tree(&[(
            "etc/coreward/coreward.conf",
            "MaxUse=1\n[Coreward]\nMaxUze=1G\nKeepFree=lots\nStormBurst=7\nwhat\nStorage=internal\n[Other]\nA=b\n",
        )]);
        let file = dir.path().join("etc/coreward/coreward.conf");
        let said: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        let expected = [
            (1, "MaxUse= stands before any section"),
            (3, "unknown key MaxUze="),
            (4, "KeepFree=lots is not a size"),
            (6, "\"what\" is neither"),
            (7, "Storage=internal is not"),
            (9, "[Other] is not a section"),
        ];
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, (line, text)) in said.iter().zip(expected) {
            assert!(said.starts_with(&format!("{}:{line}: {text}", file.display())), "{said}");
        }
        let mut expected = Config::default();
        expected.crash.rules.storm.burst = 7;
        assert_eq!(loaded.config, expected);
    }

    #[test]
    fn sections_of_units_and_executables_override_in_order() {
        let (_dir, loaded) = tree(&[(
            "etc/coreward/coreward.conf",
            "[Executable /opt/*]\nMaxHold=1s\n[Unit web.service]\nStormBurst=9\nMaxHold=2s\n[Unit web*]\nStormBurst=8\nStorage=none\n\
             [Coreward]\nStormBurst=7\n[Unit web.service]\nStorage=stacks\n",
        )]);
        assert_eq!(loaded.problems, []);
        let of = |unit: Option<&str>, exe: &str| {
            let config = loaded.overrides.apply(loaded.config.crash, unit, exe);
            (config.rules.storm.burst, config.storage, config.max_hold.as_secs())
        };
        assert_eq!(of(None, "/bin/a"), (7, Storage::External, 30));
        assert_eq!(of(Some("web2.service"), "/bin/a"), (8, Storage::None, 30), "a pattern");
        assert_eq!(of(Some("web.service"), "/bin/a"), (9, Storage::Stacks, 2), "a name goes before a pattern");
        assert_eq!(of(Some("web.service"), "/opt/b/c"), (9, Storage::Stacks, 1), "an executable goes before a unit");
    }

    #[test]
    fn sections_of_one_name_keep_their_order_and_an_empty_value_is_the_default() {
        let (_dir, loaded) = tree(&[(
            "etc/coreward/coreward.conf",
            "[Coreward]\nMaxHold=9s\n[Unit web*]\nStormBurst=1\nMaxHold=\n[Unit *.service]\nStormBurst=2\nStormStacks=2\n\
             [Unit web*]\nStormStacks=3\n",
        )]);
        let config = loaded.overrides.apply(loaded.config.crash, Some("web.service"), "/bin/a");
        assert_eq!(
            (config.rules.storm.burst, config.rules.storm.stacks),
            (2, 3),
            "later sections override earlier ones"
        );
        assert_eq!(config.max_hold.as_secs(), 30);
    }

    #[test]
    fn the_settings_of_a_crash_need_no_file() {
        fn is_copy<T: Copy>(_: T) {}
        let (dir, loaded) = tree(&[("etc/coreward/coreward.conf", "[Unit a]\nStorage=none\n")]);
        // The files are gone, and what was parsed is enough, without an allocation for each crash.
        drop(dir);
        is_copy(loaded.config.crash);
        assert_eq!(loaded.overrides.apply(loaded.config.crash, Some("a"), "/bin/a").storage, Storage::None);
    }

    #[test]
    fn what_has_no_meaning_for_one_unit_is_named() {
        let (_dir, loaded) = tree(&[(
            "etc/coreward/coreward.conf",
            "[Unit a.service]\nMaxUse=1G\nStormBurst=x\nNope=1\n[Unit]\nStormBurst=1\n[Unit [a]\nStormBurst=1\n[Executable a]\nStormBurst=1\n",
        )]);
        let said: Vec<String> =
            loaded.problems.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect();
        let expected = [
            "2: MaxUse= applies to the whole machine: it belongs in [Coreward]",
            "3: StormBurst=x is not",
            "4: unknown key Nope=",
            "6: [Unit] names no unit",
            "8: [Unit [a] is not a valid pattern",
            "10: [Executable a] names no absolute path",
        ];
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}");
        }
        assert_eq!(said.len(), expected.len());
    }
}
