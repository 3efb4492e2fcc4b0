//! What an operator may have crashes counted by, besides host, program and signal (`MetricLabels=`).

use super::{Package, Record};

/// A label of `coreward_crashes_by_total` that is only there where it is asked for: its values may be many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashLabel {
    /// The unit of the system manager.
    Unit,
    /// The innermost container.
    Container,
    /// The signature.
    Signature,
    /// The package of the executable, as it says itself.
    Package,
}

impl CrashLabel {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unit, Self::Container, Self::Signature, Self::Package];

    /// The name of the label, in the configuration and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Container => "container",
            Self::Signature => "signature",
            Self::Package => "package",
        }
    }

    /// The label of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.name() == name)
    }

    /// The value of a crash; empty if it has none. Untrusted, as all text of a record.
    #[must_use]
    pub fn value(self, record: &Record) -> String {
        match self {
            Self::Unit => record.cgroup.unit.clone().unwrap_or_default(),
            Self::Container => record.cgroup.container.clone().unwrap_or_default(),
            Self::Signature => record.signature_key().as_str().to_owned(),
            Self::Package => package(record).unwrap_or_default(),
        }
    }
}

/// `NAME=VERSION`, as apt(8) has it, or the name alone.
fn package(record: &Record) -> Option<String> {
    let Package { name, version } = record.exe_module()?.package_at_crash()?;
    Some(if version.is_empty() { name } else { format!("{name}={version}") })
}
