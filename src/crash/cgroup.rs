//! Unit, slice, container and pod from a cgroup path.
//!
//! Units follow systemd's rules (CGROUP_DELEGATION.md, systemd.unit(5)). Containers are recognised by the names that Docker,
//! Podman, containerd, CRI-O, LXC and systemd-nspawn give to their cgroups.

use serde::{Deserialize, Serialize};

/// The place of a process in the cgroup tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupInfo {
    /// Path of the cgroup.
    #[serde(rename = "cgroup")]
    pub path: String,
    /// Unit of the system manager: the service or scope that an operator would restart.
    pub unit: Option<String>,
    /// Unit of a user's service manager.
    pub user_unit: Option<String>,
    /// Innermost slice.
    pub slice: Option<String>,
    /// Id or name of the container.
    pub container: Option<String>,
    /// UID of the Kubernetes pod.
    pub pod: Option<String>,
}

/// Parses `/proc/PID/cgroup` (cgroups(7)). The path is that of the unified hierarchy, or else of
/// systemd's named hierarchy (version 1), if the process is not in the unified one or in its root.
#[must_use]
pub fn parse(text: &str) -> CgroupInfo {
    let path_of = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).filter(|path| *path != "/");
    let named = text.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    let path = path_of("0::").or(named).unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let manager = parts.iter().position(|part| part.starts_with("user@") && part.ends_with(".service"));
    let (system, user) = manager.map_or((parts.as_slice(), [].as_slice()), |at| parts.split_at(at + 1));
    CgroupInfo {
        path: path.to_owned(),
        unit: outermost_unit(system),
        user_unit: outermost_unit(user),
        slice: parts.iter().rev().find(|part| part.ends_with(".slice")).map(|part| (*part).to_owned()),
        container: parts.iter().find_map(|part| container(part)).or_else(|| lxc(&parts)),
        pod: parts.iter().find_map(|part| pod(part)),
    }
}

/// The outermost unit of a path. The subtree below a unit is delegated to it: names in there that look like units are not units
/// of this manager.
fn outermost_unit(parts: &[&str]) -> Option<String> {
    const KINDS: [&str; 5] = [".service", ".scope", ".mount", ".swap", ".socket"];
    parts
        .iter()
        .find(|part| KINDS.iter().any(|kind| part.len() > kind.len() && part.ends_with(kind)))
        .map(|part| unescape(part))
}

/// Removes the underscore that systemd prefixes to a name that could be mistaken for a cgroup attribute file (`cg_escape`).
fn unescape(part: &str) -> String {
    part.strip_prefix('_').unwrap_or(part).to_owned()
}

fn container(part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".service")).unwrap_or(part);
    const PREFIXES: [&str; 6] = ["docker-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "containerd-"];
    let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    if bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(bare.to_owned());
    }
    name.strip_prefix("systemd-nspawn@")
        .or_else(|| name.strip_prefix("machine-"))
        .filter(|_| name != part)
        .map(unescape_unit)
}

fn lxc(parts: &[&str]) -> Option<String> {
    parts.iter().find_map(|part| part.strip_prefix("lxc.payload.")).map(str::to_owned)
}

/// `kubepods-burstable-pod1234_5678.slice` (systemd driver) or `pod1234-5678` (cgroupfs driver).
fn pod(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = if name.starts_with("kubepods") { name.rsplit_once("-pod")?.1 } else { name.strip_prefix("pod")? };
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

/// Undoes systemd-escape(1): `\x2d` is a hyphen.
fn unescape_unit(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|code| *first == b'\\' && code[0] == b'x');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(&code[1..]).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> CgroupInfo {
        parse(&format!("0::{path}\n"))
    }

    #[test]
    fn units_of_the_system_and_of_a_user() {
        let info = of("/system.slice/nginx.service");
        assert_eq!((info.unit.as_deref(), info.slice.as_deref()), (Some("nginx.service"), Some("system.slice")));
        let info = of("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service");
        assert_eq!((info.unit.as_deref(), info.user_unit.as_deref()), (Some("user@1000.service"), Some("foo.service")));
        let info = of("/user.slice/user-1000.slice/session-2.scope");
        assert_eq!((info.unit.as_deref(), info.user_unit), (Some("session-2.scope"), None));
        assert_eq!(of("/system.slice/a.service/sub/b.service").unit.as_deref(), Some("a.service"));
        assert_eq!(of("/").unit, None);
    }

    #[test]
    fn containers_and_pods() {
        let id = "4f5c".repeat(16);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/machine.slice/libpod-{id}.scope/container"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/burstable/pod0a1b2c3d-0000-1111-2222-333344445555/{id}"),
        ] {
            assert_eq!(of(&path).container.as_deref(), Some(id.as_str()), "{path}");
        }
        assert_eq!(of("/machine.slice/systemd-nspawn@web\\x2d1.service/payload").container.as_deref(), Some("web-1"));
        assert_eq!(of("/machine.slice/machine-web.scope").container.as_deref(), Some("web"));
        assert_eq!(of("/lxc.payload.web/init.scope").container.as_deref(), Some("web"));
        assert_eq!(of("/system.slice/cron.service").container, None);
        let info = of(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_0000_1111_2222_333344445555.slice/x",
        );
        assert_eq!(info.pod.as_deref(), Some("0a1b2c3d-0000-1111-2222-333344445555"));
    }

    #[test]
    fn the_old_hierarchy_and_nonsense() {
        let info = parse("9:name=systemd:/system.slice/a.service\n8:pids:/x\n0::/\n");
        assert_eq!(info.unit.as_deref(), Some("a.service"));
        for text in ["", "\n", "0::", "::::", "0::/\\x", "0::/machine.slice/machine-\\xzz.scope"] {
            let _ = parse(text);
        }
    }
}
