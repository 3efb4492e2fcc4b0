//! Unit, slice, container and pod from a cgroup path.
//!
//! Units follow systemd's rules (CGROUP_DELEGATION.md, systemd.unit(5)). Containers are recognised by the names that Docker,
//! Podman, containerd, CRI-O, BuildKit, LXC, systemd-nspawn and others give to their cgroups. Whoever is root in a container chooses the
//! names below its cgroup, so no unit of the host is taken from there.

use super::text::{from_bytes, to_bytes};
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
    /// Id or name of the innermost container.
    pub container: Option<String>,
    /// Unit of a service manager that runs in the container, as the container names it. It says nothing about the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_unit: Option<String>,
    /// Uid of the innermost Kubernetes pod, or id of the Podman pod.
    pub pod: Option<String>,
}

impl CgroupInfo {
    /// The user in whose slice it is (`user-1000.slice`): who logged in, or whose service manager runs it.
    #[must_use]
    pub fn owner_uid(&self) -> Option<u32> {
        self.path.strip_prefix("/user.slice/user-")?.split_once(".slice/")?.0.parse().ok()
    }

    /// The login session that it is in (`session-3.scope`).
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        let scope = self.unit.as_deref().filter(|_| self.owner_uid().is_some())?;
        scope.strip_prefix("session-")?.strip_suffix(".scope")
    }
}

/// Parses `/proc/PID/cgroup` (cgroups(7)): a line per hierarchy. The path is that of the first hierarchy that names a container or
/// pod, or else of the first in which the process is not in the root: the unified hierarchy, systemd's named one (version 1), the
/// others. Where both versions are mounted, some runtimes make cgroups in those of version 1 only.
#[must_use]
pub fn parse(text: &str) -> CgroupInfo {
    let hierarchies = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let of_kind = |wanted: fn(&str) -> bool| hierarchies().filter(move |(name, _)| wanted(name)).map(|(_, path)| path);
    let unified = of_kind(str::is_empty);
    let systemd = of_kind(|name| name == SYSTEMD);
    let others = of_kind(|name| !name.is_empty() && name != SYSTEMD);
    // The kernel appends it where the cgroup was removed.
    let paths = unified.chain(systemd).chain(others).map(|path| path.strip_suffix(" (deleted)").unwrap_or(path));
    let mut paths = paths.filter(|path| *path != "/").peekable();
    let first = paths.peek().copied().unwrap_or_default();
    let names_any = |path: &&str| {
        let parts = components(path);
        containers(&parts).next().is_some() || pods(&parts).next().is_some()
    };
    let path = paths.find(names_any).unwrap_or(first);
    let parts = components(path);
    let outermost = containers(&parts).next().map_or(parts.len(), |(at, _)| at + 1);
    let innermost = containers(&parts).last();
    let (host, _) = parts.split_at(outermost);
    let (_, inside) = parts.split_at(innermost.as_ref().map_or(parts.len(), |(at, _)| at + 1));
    let system = Managed::below(host);
    let user = system.user_manager();
    CgroupInfo {
        path: path.to_owned(),
        unit: system.unit,
        user_unit: user.unit,
        slice: user.slice.or(system.slice),
        container: innermost.map(|(_, name)| name),
        container_unit: container_unit(inside),
        pod: pods(&parts).last(),
    }
}

/// The hierarchy of version 1 that systemd manages.
const SYSTEMD: &str = "name=systemd";

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
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

/// The containers that a path leads through, the outermost first, with the indexes of their components.
fn containers<'a>(parts: &'a [&'a str]) -> impl Iterator<Item = (usize, String)> + 'a {
    parts.iter().enumerate().filter_map(|(at, part)| {
        let parent = at.checked_sub(1).and_then(|at| parts.get(at)).copied();
        // What is in a pod of Podman's is a container, and the pod is none.
        let is_pod = podman_pod(parent, part).is_some() && parts.len() > at + 1;
        if is_pod { None } else { Some((at, container(parent, part, at)?)) }
    })
}

/// The id or name of the container whose cgroup is `part` in `parent`, the component with index `at`.
fn container(parent: Option<&str>, part: &str, at: usize) -> Option<String> {
    const PREFIXES: [&str; 7] =
        ["docker-", "libpod-payload-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "containerd-"];
    /// Directories with a directory for each container, whatever its name.
    const NAMED_IN: [&str; 4] = ["lxc", "lxc.payload", "garden", "mesos"];
    /// Namespaces of containerd(8), each with a directory in the root.
    const CONTAINERD: [&str; 3] = ["default", "k8s.io", "moby"];
    let name = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".service")).unwrap_or(part);
    let prefixed = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    // runc's cgroupfs driver takes "slice:prefix:id" as a name where the systemd driver was meant.
    let after_colons = name.rsplit_once(':').map(|(_, id)| id);
    let id = after_colons.or(prefixed).unwrap_or(name);
    let is_build = after_colons.or(prefixed).is_some() || parent == Some("buildkit");
    if is_hexadecimal(id, 64) || is_task(id) || (is_build && is_buildkit(id)) {
        return Some(id.to_owned());
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name.to_owned());
    }
    if parent.is_some_and(|parent| NAMED_IN.contains(&parent) || (at == 1 && CONTAINERD.contains(&parent))) {
        return Some(part.to_owned());
    }
    let machine = name.strip_prefix("systemd-nspawn@").or_else(|| name.strip_prefix("machine-"));
    // A virtual machine is no container: the process is the emulator, a program of the host.
    machine.filter(|machine| name != part && !machine.starts_with("qemu\\x2d")).map(unescape_unit)
}

fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The id of a container of AWS Fargate: that of the task, and a number.
fn is_task(id: &str) -> bool {
    id.split_once('-').is_some_and(|(task, number)| {
        is_hexadecimal(task, 32) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The id that BuildKit gives to a step of a build.
fn is_buildkit(id: &str) -> bool {
    id.len() == 25 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The unit of a service manager in the container. Runtimes may put the container's root into a directory of its own there, such
/// as `payload` of systemd-nspawn(1) and `container` of crun.
fn container_unit(inside: &[&str]) -> Option<String> {
    let root = inside.iter().position(|part| is_slice_within(&unescape(part), None) || is_unit(&unescape(part)))?;
    Managed::below(inside.get(root..)?).unit
}

/// The pods that a path leads through, the outermost first.
fn pods<'a>(parts: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    parts.iter().enumerate().filter_map(|(at, part)| {
        let parent = at.checked_sub(1).and_then(|at| parts.get(at)).copied();
        pod(part).or_else(|| podman_pod(parent, part).filter(|_| parts.len() > at + 1))
    })
}

/// The uid of a Kubernetes pod: `kubepods-burstable-pod1234_5678.slice` (systemd driver; kind has `kubelet-` before it, and the
/// colon form a container behind it) or `pod1234-5678` (cgroupfs driver).
fn pod(part: &str) -> Option<String> {
    let part = part.split_once(':').map_or(part, |(slice, _)| slice);
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = if name.contains("kubepods") { name.rsplit_once("-pod")?.1 } else { name.strip_prefix("pod")? };
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

/// The id of a pod of podman(1): `machine-libpod_pod_ID.slice` (systemd) or a directory in `libpod_parent` (cgroupfs).
fn podman_pod(parent: Option<&str>, part: &str) -> Option<String> {
    let in_slice = part.strip_suffix(".slice").and_then(|name| Some(name.rsplit_once("libpod_pod_")?.1));
    let id = in_slice.or((parent == Some("libpod_parent")).then_some(part))?;
    is_hexadecimal(id, 64).then(|| id.to_owned())
}

/// Undoes systemd-escape(1): `\x2d` is a hyphen.
fn unescape_unit(name: &str) -> String {
    let mut bytes = Vec::new();
    let name = to_bytes(name);
    let mut rest = name.as_ref();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|code| *first == b'\\' && code[0] == b'x');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(&code[1..]).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(path: &str) -> CgroupInfo {
        parse(&format!("0::{path}\n"))
    }

    #[test]
    fn a_login_has_an_owner_and_a_session() {
        for (path, owner, session) in [
            ("/user.slice/user-1000.slice/session-c3.scope", Some(1000), Some("c3")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", Some(1000), None),
            ("/system.slice/session-3.scope", None, None),
            ("/user.slice/user-x.slice/session-3.scope", None, None),
            ("/docker/user.slice/user-1000.slice/session-3.scope", None, None),
            ("", None, None),
        ] {
            let info = of(path);
            assert_eq!((info.owner_uid(), info.session()), (owner, session), "{path}");
        }
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

    /// Ids of an outer and an inner container.
    const A: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
    const B: &str = "b2a102854b4969b2ce98dc329c86b4fb2b06e4ad2cc8da9d8a7578c9cd2004a2";
    const UID: &str = "72f7f152-440c-66ac-9084-e0fc1d8a910c";
    /// A step of a build.
    const STEP: &str = "k2n8p0q4v6x1z3c5b7m9a2s4d";

    /// Container and pod of every form that runtimes give to a cgroup. `UID_` is the uid as slices have it.
    ///
    /// Sources: moby daemon/oci_linux.go; runc docs/systemd.md; containerd internal/cri/server/podsandbox and cmd/ctr; Kubernetes
    /// pkg/kubelet/cm/cgroup_manager_linux.go; CRI-O internal/config/cgmgr; Podman libpod/oci_conmon_linux.go and
    /// libpod/runtime_pod_linux.go; BuildKit executor/oci/spec.go; kind's kubelet configuration (cgroupRoot: /kubelet); LXC
    /// src/lxc/cgroups/cgfsng.c, lxc.container.conf(5); systemd src/nspawn/nspawn-register.c, CGROUP_DELEGATION.md; libvirt
    /// src/util/virsystemd.c; AWS ECS task metadata; Cloud Foundry guardian.
    const FORMS: &[(&str, Option<&str>, Option<&str>)] = &[
        // Docker, systemd and cgroupfs driver; with --cgroup-parent.
        ("/system.slice/docker-A.scope", Some(A), None),
        ("/docker/A", Some(A), None),
        ("/custom.slice/docker-A.scope", Some(A), None),
        ("/custom/A", Some(A), None),
        // Docker for a user: rootless, and in a service that delegates its cgroup.
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-A.scope", Some(A), None),
        ("/system.slice/dockerd.service/docker/A", Some(A), None),
        // Docker in Docker, in every combination of drivers.
        ("/docker/A/docker/B", Some(B), None),
        ("/system.slice/docker-A.scope/docker/B", Some(B), None),
        ("/system.slice/docker-A.scope/system.slice/docker-B.scope", Some(B), None),
        ("/docker/A/system.slice/docker-B.scope", Some(B), None),
        // Kubernetes with containerd: systemd driver, cgroupfs driver, and runc's cgroupfs with systemd's name.
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-A.scope",
            Some(A),
            Some(UID),
        ),
        ("/kubepods.slice/kubepods-podUID_.slice/cri-containerd-A.scope", Some(A), Some(UID)),
        ("/kubepods/besteffort/podUID/A", Some(A), Some(UID)),
        ("/kubepods/podUID/A", Some(A), Some(UID)),
        ("/kubepods-besteffort-podUID_.slice:cri-containerd:A", Some(A), Some(UID)),
        ("/system.slice/containerd.service/kubepods-podUID_.slice:cri-containerd:A", Some(A), Some(UID)),
        ("/system.slice/kubepods-burstable-podUID_.slice:cri-containerd:A", Some(A), Some(UID)),
        // A pod's own cgroup, and one that the pod's uid has without hyphens (static pods).
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice", None, Some(UID)),
        (
            "/kubepods/burstable/pod3d6beaa3004913efb68ce073d73494b0/A",
            Some(A),
            Some("3d6beaa3004913efb68ce073d73494b0"),
        ),
        // Kubernetes with Docker and with CRI-O, whose monitor is no container; crun has a directory of its own below.
        ("/kubepods.slice/kubepods-podUID_.slice/docker-A.scope", Some(A), Some(UID)),
        ("/kubepods/burstable/podUID/crio-A", Some(A), Some(UID)),
        ("/kubepods.slice/kubepods-podUID_.slice/crio-A.scope", Some(A), Some(UID)),
        ("/kubepods.slice/kubepods-podUID_.slice/crio-A.scope/container", Some(A), Some(UID)),
        ("/kubepods.slice/kubepods-podUID_.slice/crio-conmon-A.scope", None, Some(UID)),
        // k3s: as root, as a user, and with k3d in Docker.
        ("/system.slice/k3s.service/kubepods/burstable/podUID/A", Some(A), Some(UID)),
        (
            "/user.slice/user-1000.slice/user@1000.service/k3s-rootless.service/kubepods/besteffort/podUID/A",
            Some(A),
            Some(UID),
        ),
        ("/docker/A/kubepods/burstable/podUID/B", Some(B), Some(UID)),
        // kind: a node is a container of Docker or Podman.
        (
            "/system.slice/docker-A.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-podUID_.slice/cri-containerd-B.scope",
            Some(B),
            Some(UID),
        ),
        ("/docker/A/kubelet/kubepods/besteffort/podUID/B", Some(B), Some(UID)),
        (
            "/machine.slice/libpod-A.scope/container/kubelet.slice/kubelet-kubepods-podUID_.slice/crio-B.scope",
            Some(B),
            Some(UID),
        ),
        // Docker in a pod.
        ("/kubepods/burstable/podUID/A/docker/B", Some(B), Some(UID)),
        // containerd: nerdctl, and ctr with names of one's choice.
        ("/system.slice/nerdctl-A.scope", Some(A), None),
        ("/default/A", Some(A), None),
        ("/default/redis", Some("redis"), None),
        ("/k8s.io/test-1", Some("test-1"), None),
        // Podman: systemd, a user's, cgroupfs, --cgroups=split in a unit (quadlet), pods; its monitor is no container.
        ("/machine.slice/libpod-A.scope", Some(A), None),
        ("/machine.slice/libpod-A.scope/container", Some(A), None),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-A.scope/container", Some(A), None),
        ("/libpod_parent/libpod-A", Some(A), None),
        ("/system.slice/web.service/libpod-payload-A", Some(A), None),
        ("/machine.slice/machine-libpod_pod_B.slice/libpod-A.scope/container", Some(A), Some(B)),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_B.slice/libpod-A.scope",
            Some(A),
            Some(B),
        ),
        ("/libpod_parent/B/libpod-A", Some(A), Some(B)),
        ("/machine.slice/libpod-conmon-A.scope", None, None),
        // BuildKit: alone, in Docker with both drivers, in a container.
        ("/buildkit/STEP", Some(STEP), None),
        ("/docker/buildkit/STEP", Some(STEP), None),
        ("/system.slice/docker-STEP.scope", Some(STEP), None),
        ("/system.slice:docker:STEP", Some(STEP), None),
        ("/docker/A/buildkit/STEP", Some(STEP), None),
        // LXC 2 to 6, LXD and Incus, Proxmox; their monitors are no containers.
        ("/lxc/web-7", Some("web-7"), None),
        ("/lxc.payload/web-7", Some("web-7"), None),
        ("/lxc.payload.web-7", Some("web-7"), None),
        ("/lxc.payload.project_web/init.scope", Some("project_web"), None),
        ("/lxc/101/ns/system.slice/cron.service", Some("101"), None),
        ("/user.slice/user-1000.slice/session-2.scope/lxc.payload.web", Some("web"), None),
        ("/lxc.payload.web/docker/A", Some(A), None),
        ("/lxc.monitor.web-7", None, None),
        ("/lxc.monitor/101", None, None),
        // systemd-nspawn and libvirt; an emulator is no container.
        ("/machine.slice/systemd-nspawn@web\\x2d1.service/payload", Some("web-1"), None),
        ("/machine.slice/machine-web.scope/payload/system.slice/sshd.service", Some("web"), None),
        ("/machine.slice/machine-lxc\\x2d4711\\x2dweb.scope", Some("lxc-4711-web"), None),
        ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator", None, None),
        ("/machine.slice/machine-web.scope/payload/system.slice/docker-B.scope", Some(B), None),
        // AWS ECS on machines of one's own and on Fargate; Cloud Foundry.
        ("/ecs/0123456789abcdef0123456789abcdef/A", Some(A), None),
        (
            "/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-3456",
            Some("0123456789abcdef0123456789abcdef-3456"),
            None,
        ),
        (
            "/system.slice/garden.service/garden/8b2f4a50-6c5e-4c0e-6b0f-1d2e",
            Some("8b2f4a50-6c5e-4c0e-6b0f-1d2e"),
            None,
        ),
        // No containers.
        ("/system.slice/docker.service", None, None),
        ("/system.slice/containerd.service", None, None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope", None, None),
        ("/system.slice/a.service/sub/b", None, None),
        ("/system.slice/run-docker-netns-0123456789ab.mount", None, None),
        ("/init.scope", None, None),
    ];

    fn form(text: &str) -> String {
        let text = text.replace("UID_", &UID.replace('-', "_")).replace("UID", UID).replace("STEP", STEP);
        let ids = [("A", A), ("B", B)];
        let mut filled = String::new();
        // An id stands between characters that are no letters.
        for (at, character) in text.char_indices() {
            let before = text[..at].chars().next_back();
            let after = text[at + character.len_utf8()..].chars().next();
            let alone = [before, after]
                .iter()
                .all(|around| around.is_none_or(|around| !around.is_alphabetic() || around == '_'));
            match ids.iter().find(|(name, _)| alone && name.starts_with(character)) {
                Some((_, id)) => filled.push_str(id),
                None => filled.push(character),
            }
        }
        filled
    }

    #[test]
    fn every_runtimes_containers_and_pods() {
        for (path, container, pod) in FORMS {
            let info = of(&form(path));
            assert_eq!((info.container.as_deref(), info.pod.as_deref()), (*container, *pod), "{path}");
        }
    }

    #[test]
    fn the_forms_are_found_in_hierarchies_of_version_1_too() {
        for (path, container, pod) in FORMS {
            let path = form(path);
            for text in [
                // Version 1 with and without systemd.
                format!("12:pids:{path}\n11:cpu,cpuacct:{path}\n1:name=systemd:{path}\n"),
                format!("5:devices:{path}\n4:memory:{path}\n"),
                // Both: runtimes that know only version 1, and those that know both.
                format!("9:memory:{path}\n1:name=systemd:{path}\n0::/\n"),
                format!("9:memory:{path}\n1:name=systemd:{path}\n0::/system.slice/runtime.service\n"),
                format!("9:memory:{path}\n8:rdma:/\n1:name=systemd:{path}\n0::{path}\n"),
                format!("9:name=openrc:/runtime\n8:freezer:{path}\n0::/\n"),
                format!("0::{path} (deleted)\n"),
            ] {
                let info = parse(&text);
                assert_eq!((info.container.as_deref(), info.pod.as_deref()), (*container, *pod), "{text}");
            }
        }
        let hybrid = "9:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n";
        assert_eq!(parse(hybrid).unit.as_deref(), Some("a.service"));
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
