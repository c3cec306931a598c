//! The memory limit of the process's control group, versions 1 and 2.
use std::{fs, path::Path};

/// The smallest limit among the process's group and its ancestors; `None` where there is none.
pub fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// `groups` are lines `0::/path` (version 2) or `4:memory:/path` (version 1). In a container the path may be one of the host that does
/// not exist there: then the root is the container's own group.
fn limit_in(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (root, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            c if c.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        let own = Path::new(path.trim_start_matches('/')).to_path_buf();
        own.ancestors().filter_map(|group| read(&root.join(group).join(file))).collect()
    });
    limits.min()
}

fn read(file: &Path) -> Option<u64> {
    // Version 1 writes "unlimited" as a number near 2^63.
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|n| *n < 1 << 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_smallest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        put("memory.max", "max\n");
        put("a/memory.max", "2000\n");
        put("a/b/memory.max", "3000\n");
        put("c/memory.max", "max\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/d/memory.limit_in_bytes", "500\n");
        for (groups, expected) in [
            ("0::/a/b\n", Some(2000)),
            ("0::/c\n", None),
            ("0::/\n", None),
            ("0::/host/path\n", None),
            ("5:devices:/d\n4:memory:/d\n0::/\n", Some(500)),
            ("4:cpu,memory:/\n", None),
            ("", None),
        ] {
            assert_eq!(limit_in(root.path(), groups), expected, "{groups}");
        }
    }
}
