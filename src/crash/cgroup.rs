//! Unit, slice, container and pod from a cgroup path.
//!
//! Units follow systemd's rules (CGROUP_DELEGATION.md, systemd.unit(5)). Containers are recognised by the names that Docker,
//! Podman, containerd, CRI-O, BuildKit, LXC and systemd-nspawn give to their cgroups. Whoever is root in a container chooses the
//! names below its cgroup, so no unit of the host is taken from there.

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
    /// Innermost slice, of the system manager or of the user's.
    pub slice: Option<String>,
    /// Id or name of the container.
    pub container: Option<String>,
    /// Unit of a service manager that runs in the container, as the container names it. It says nothing about the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_unit: Option<String>,
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
    let container = find_container(&parts);
    let (host, inside) = parts.split_at(container.as_ref().map_or(parts.len(), |(at, _)| at + 1));
    let system = Managed::below(host);
    let user = system.user_manager();
    CgroupInfo {
        path: path.to_owned(),
        unit: system.unit,
        user_unit: user.unit,
        slice: user.slice.or(system.slice),
        container: container.map(|(_, name)| name),
        container_unit: container_unit(inside),
        pod: parts.iter().find_map(|part| pod(part)),
    }
}

/// What one service manager made of a path below its root: slices, each within the one that its name says, then a unit
/// (`cg_path_get_unit` in systemd's src/basic/cgroup-util.c). Everything below the unit is delegated to it, and a path of any other
/// form is not the manager's: names in there that look like units are none.
#[derive(Default)]
struct Managed<'a> {
    slice: Option<String>,
    unit: Option<String>,
    /// What is below the unit.
    delegated: &'a [&'a str],
}

impl<'a> Managed<'a> {
    fn below(parts: &'a [&'a str]) -> Self {
        let mut slice = None;
        let mut rest = parts;
        while let Some((part, below)) = rest.split_first() {
            let name = unescape(part);
            if !is_slice_within(&name, slice.as_deref()) {
                return Self { slice, unit: is_unit(&name).then_some(name), delegated: below };
            }
            slice = Some(name);
            rest = below;
        }
        Self { slice, ..Self::default() }
    }

    /// What a user's manager made of the rest, where this unit is one (`user@1000.service` in `user-1000.slice`).
    fn user_manager(&self) -> Self {
        let manager = self.unit.as_deref().and_then(|unit| unit.strip_prefix("user@")?.strip_suffix(".service"));
        let owner = self.slice.as_deref().and_then(|slice| slice.strip_prefix("user-")?.strip_suffix(".slice"));
        if manager.is_some() && manager == owner { Self::below(self.delegated) } else { Self::default() }
    }
}

/// Whether `name` is a slice whose cgroup systemd makes in that of `parent`: `a-b.slice` is in `a.slice`, `a.slice` in the root
/// (systemd.slice(5)).
fn is_slice_within(name: &str, parent: Option<&str>) -> bool {
    let Some(stem) = name.strip_suffix(".slice") else { return false };
    let label = match parent.map(|parent| parent.strip_suffix(".slice").unwrap_or(parent)) {
        Some(parent) => stem.strip_prefix(parent).and_then(|rest| rest.strip_prefix('-')),
        None => Some(stem),
    };
    label.is_some_and(|label| !label.is_empty() && !label.contains('-'))
}

/// Whether `name` is a unit that has a cgroup and is no slice.
fn is_unit(name: &str) -> bool {
    const KINDS: [&str; 5] = [".service", ".scope", ".mount", ".swap", ".socket"];
    KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
}

/// Removes the underscore that systemd prefixes to a name that could be mistaken for a cgroup attribute file (`cg_escape`).
fn unescape(part: &str) -> String {
    part.strip_prefix('_').unwrap_or(part).to_owned()
}

/// The outermost container, and the index of its component.
fn find_container(parts: &[&str]) -> Option<(usize, String)> {
    parts.iter().enumerate().find_map(|(at, part)| {
        let parent = at.checked_sub(1).and_then(|at| parts.get(at)).copied();
        Some((at, container(parent, part)?))
    })
}

/// The id or name of a container whose cgroup is `part` in `parent`.
fn container(parent: Option<&str>, part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".service")).unwrap_or(part);
    const PREFIXES: [&str; 6] = ["docker-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "containerd-"];
    let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    // runc's cgroupfs driver takes "slice:prefix:id" as a name where the systemd driver was meant.
    let bare = bare.rsplit_once(':').map_or(bare, |(_, id)| id);
    if bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(bare.to_owned());
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name.to_owned());
    }
    match parent {
        Some("lxc" | "lxc.payload") => return Some(part.to_owned()),
        Some("buildkit") if part.len() == 25 && part.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            return Some(part.to_owned());
        }
        _ => {}
    }
    name.strip_prefix("systemd-nspawn@")
        .or_else(|| name.strip_prefix("machine-"))
        .filter(|_| name != part)
        .map(unescape_unit)
}

/// The unit of a service manager in the container. Runtimes may put the container's root into a directory of its own there, such
/// as `payload` of systemd-nspawn(1) and `container` of crun.
fn container_unit(inside: &[&str]) -> Option<String> {
    let root = inside.iter().position(|part| is_slice_within(&unescape(part), None) || is_unit(&unescape(part)))?;
    Managed::below(inside.get(root..)?).unit
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
    use proptest::prelude::*;

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
    fn what_a_container_names_is_no_unit_of_the_host() {
        let id = "4f5c".repeat(16);
        for (path, unit, container, inner) in [
            ("/lxc.payload.web/system.slice/sshd.service".to_owned(), None, "web", Some("sshd.service")),
            ("/lxc/web-7/system.slice/sshd.service".to_owned(), None, "web-7", Some("sshd.service")),
            (
                "/lxc/web-7/user.slice/user-0.slice/user@0.service/a.service".to_owned(),
                None,
                "web-7",
                Some("user@0.service"),
            ),
            (
                "/machine.slice/machine-web.scope/payload/system.slice/sshd.service".to_owned(),
                Some("machine-web.scope".to_owned()),
                "web",
                Some("sshd.service"),
            ),
            (format!("/docker/{id}/system.slice/sshd.service"), None, &id, Some("sshd.service")),
            (
                format!("/system.slice/docker-{id}.scope/kubelet.slice/b.service"),
                Some(format!("docker-{id}.scope")),
                &id,
                Some("b.service"),
            ),
            (
                format!("/machine.slice/libpod-{id}.scope/container/init.scope"),
                Some(format!("libpod-{id}.scope")),
                &id,
                Some("init.scope"),
            ),
            (format!("/machine.slice/libpod-{id}.scope/container"), Some(format!("libpod-{id}.scope")), &id, None),
            (format!("/kubepods/burstable/podx/{id}/a.service"), None, &id, Some("a.service")),
            (format!("/kubepods-burstable-podx.slice:cri-containerd:{id}/a.service"), None, &id, Some("a.service")),
            (format!("/buildkit/{}/a.service", "a1b2c".repeat(5)), None, &"a1b2c".repeat(5), Some("a.service")),
        ] {
            let info = of(&path);
            assert_eq!((info.unit, info.user_unit), (unit, None), "{path}");
            assert_eq!((info.container.as_deref(), info.container_unit.as_deref()), (Some(container), inner), "{path}");
        }
    }

    #[test]
    fn a_path_that_no_manager_made_has_no_unit() {
        for path in [
            "/runtime/system.slice/sshd.service",
            "/a.slice/system.slice/sshd.service",
            "/a-b.slice/sshd.service",
            "/lxc.monitor.web/x/sshd.service",
            "/.slice/sshd.service",
            "/.service",
        ] {
            assert_eq!(of(path).unit, None, "{path}");
        }
        // A manager of another user, or in another unit, is no manager of users.
        for path in ["/user.slice/user-1.slice/user@2.service/a.service", "/system.slice/user@1.service/a.service"] {
            assert_eq!(of(path).user_unit, None, "{path}");
        }
        let info = of("/system.slice/system-getty.slice/getty@tty1.service");
        assert_eq!(
            (info.unit.as_deref(), info.slice.as_deref()),
            (Some("getty@tty1.service"), Some("system-getty.slice"))
        );
    }

    fn names() -> impl Strategy<Value = Vec<&'static str>> {
        let name = prop::sample::select(vec![
            "system.slice",
            "user.slice",
            "user-1000.slice",
            "user@1000.service",
            "app.slice",
            "sshd.service",
            "_x.scope",
            "payload",
            "container",
            "a.b",
        ]);
        prop::collection::vec(name, 0..6)
    }

    proptest! {
        #[test]
        fn nothing_below_a_container_changes_a_unit_of_the_host(
            above in names(),
            container in prop::sample::select(vec![
                "lxc.payload.web",
                "machine-web.scope",
                "systemd-nspawn@web.service",
                "docker-4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c.scope",
                "4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c4f5c",
            ]),
            below in names(),
        ) {
            let outside = [above.as_slice(), &[container]].concat();
            let inside = [outside.as_slice(), &below].concat();
            let (outside, inside) = (of(&format!("/{}", outside.join("/"))), of(&format!("/{}", inside.join("/"))));
            prop_assert_eq!((outside.unit, outside.user_unit, outside.slice), (inside.unit, inside.user_unit, inside.slice));
            prop_assert!(inside.container.is_some() && outside.container_unit.is_none());
        }
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
