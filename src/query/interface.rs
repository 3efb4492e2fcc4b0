//! The interfaces that the service has.

use crate::store::{Group, Listed, UsageShare};
use serde::{Deserialize, Serialize};

/// The interface about crashes.
pub const INTERFACE: &str = "io.coreward.Crashes";
/// The interface about the service itself, which every Varlink service has.
pub(super) const SERVICE: &str = "org.varlink.service";

/// <https://varlink.org/Service>
const SERVICE_DESCRIPTION: &str = "# The Varlink service itself
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

error InvalidParameter (parameter: string)

error PermissionDenied ()

error ExpectedMore ()
";

/// The definition of an interface, in Varlink's language.
#[must_use]
pub fn description(interface: &str) -> Option<&'static str> {
    match interface {
        INTERFACE => Some(include_str!("io.coreward.Crashes.varlink")),
        SERVICE => Some(SERVICE_DESCRIPTION),
        _ => None,
    }
}

/// A group as [`INTERFACE`] has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupReply {
    /// The signature and its numbers.
    #[serde(flatten)]
    pub group: Group,
    /// [`Group::example`], where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<Box<Listed>>,
}

/// What stored cores take on disk, as [`INTERFACE`] has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UsageReply {
    /// All stored cores.
    pub cores: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// What they have in common, the largest share first.
    pub shares: Vec<UsageShare>,
}
